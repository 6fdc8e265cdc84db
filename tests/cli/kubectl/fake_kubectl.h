// A `kubectl` for tests: a script that writes down how it was called and answers from files.
#ifndef MOE_TESTS_CLI_KUBECTL_FAKE_KUBECTL_H_
#define MOE_TESTS_CLI_KUBECTL_FAKE_KUBECTL_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace moe::cli::testing {

class FakeKubectl {
 public:
  FakeKubectl() {
    std::string pattern = std::filesystem::temp_directory_path() / "moe-kubectl-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~FakeKubectl() { std::filesystem::remove_all(folder_); }
  FakeKubectl(const FakeKubectl&) = delete;
  FakeKubectl& operator=(const FakeKubectl&) = delete;

  // The body of a shell script, which runs in the folder.
  void Script(const std::string& body) const {
    const std::string path = program();
    std::ofstream(path) << "#!/bin/sh\ncd " << folder_
                        << "\nfor word in \"$@\"; do printf '%s\\n' \"$word\" >> calls; done\n"
                        << "echo -- >> calls\n"
                        << body << "\n";
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ + "/" + name) << text;
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(folder_ + "/" + name);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::string program() const { return folder_ + "/kubectl"; }
  // Arguments of all calls, one on a line, and "--" after each call.
  std::string calls() const { return Read("calls"); }

 private:
  std::string folder_;
};

}  // namespace moe::cli::testing

#endif  // MOE_TESTS_CLI_KUBECTL_FAKE_KUBECTL_H_
