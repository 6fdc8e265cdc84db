// Tests gateway/http/api_key.h.
#include "gateway/http/api_key.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ApiKeyTest : public ::testing::Test {
 protected:
  ApiKeyTest() {
    std::string pattern = std::filesystem::temp_directory_path() / "moe-key-XXXXXX";
    folder_ = mkdtemp(pattern.data());
  }
  ~ApiKeyTest() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, const std::string& text) const {
    const std::string path = folder_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  std::string folder_;
};

TEST_F(ApiKeyTest, IsTheFirstLineWithoutBlanks) {
  struct Case {
    const char* sentence;
    std::string text;
    std::string key;  // empty: refused
  };
  const Case cases[] = {
      {"a bare key", "secret", "secret"},
      {"a line", "secret\n", "secret"},
      {"a line of Windows", "secret\r\n", "secret"},
      {"blanks around", "  secret \n", "secret"},
      {"more lines", "secret\nother\n", "secret"},
      {"a long second line", "secret\n" + std::string(10000, 'x'), "secret"},
      {"an empty file", "", ""},
      {"an empty line", "\nsecret\n", ""},
      {"blanks alone", "  \n", ""},
      {"no end in sight", std::string(5000, 'x'), ""},
  };
  for (const Case& c : cases) {
    const absl::StatusOr<std::string> key = ReadApiKeyFile(Write("key", c.text));
    EXPECT_EQ(key.value_or(""), c.key) << c.sentence;
  }
  EXPECT_FALSE(ReadApiKeyFile(folder_ + "/absent").ok());
  EXPECT_FALSE(ReadApiKeyFile(folder_).ok()) << "a folder";
  EXPECT_THAT(std::string(ReadApiKeyFile(Write("key", std::string(5000, 'x'))).status().message()),
              Not(HasSubstr("xxx")));
}

TEST_F(ApiKeyTest, AChangeIsSeenOnceAndABrokenFileKeepsTheOldKey) {
  const std::string path = Write("key", "old\n");
  ApiKeyFile file(path, "old");
  EXPECT_EQ(file.Poll(), std::nullopt);
  Write("key", "new\n");
  EXPECT_EQ(file.Poll(), "new");
  EXPECT_EQ(file.Poll(), std::nullopt);
  Write("key", "");
  EXPECT_EQ(file.Poll(), std::nullopt);
  EXPECT_FALSE(file.status().ok());
  std::filesystem::remove(path);
  EXPECT_EQ(file.Poll(), std::nullopt);
  Write("key", "newer");
  EXPECT_EQ(file.Poll(), "newer");
  EXPECT_TRUE(file.status().ok());
}

TEST_F(ApiKeyTest, AMountedSecretChangesByItsSymbolicLink) {
  Write("..1/key", "old");
  Write("..2/key", "new");
  std::filesystem::create_directory_symlink("..1", folder_ + "/..data");
  std::filesystem::create_symlink("..data/key", folder_ + "/key");
  ApiKeyFile file(folder_ + "/key", "old");
  EXPECT_EQ(file.Poll(), std::nullopt);
  std::filesystem::create_directory_symlink("..2", folder_ + "/..next");
  std::filesystem::rename(folder_ + "/..next", folder_ + "/..data");
  EXPECT_EQ(file.Poll(), "new");
}

}  // namespace
}  // namespace moe::gateway
