// A model folder that a test fills with text files and that is gone after it.
#ifndef TESTS_GATEWAY_TEXT_TEMP_MODEL_H_
#define TESTS_GATEWAY_TEXT_TEMP_MODEL_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moe::text {

class TempModel {
 public:
  TempModel() {
    std::string name = ::testing::TempDir() + "/moe_text_XXXXXX";
    if (mkdtemp(name.data()) != nullptr) dir_ = name;
    EXPECT_FALSE(dir_.empty());
  }
  ~TempModel() {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  TempModel(const TempModel&) = delete;
  TempModel& operator=(const TempModel&) = delete;

  const std::string& dir() const { return dir_; }
  void Write(const std::string& name, const std::string& content) const {
    std::ofstream(dir_ + "/" + name, std::ios::binary) << content;
  }

 private:
  std::string dir_;
};

inline std::string ReadTestData(const std::string& name) {
  std::ifstream file("tests/data/text/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

inline nlohmann::json AddedToken(int id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

}  // namespace moe::text

#endif  // TESTS_GATEWAY_TEXT_TEMP_MODEL_H_
