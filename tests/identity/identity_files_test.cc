#include "identity/identity_files.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace moe::identity {
namespace {

class IdentityFilesTest : public ::testing::Test {
 protected:
  IdentityFilesTest() {
    std::string form = ::testing::TempDir() + "/files-XXXXXX";
    folder_ = mkdtemp(form.data());
  }
  ~IdentityFilesTest() override { std::filesystem::remove_all(folder_); }

  static mode_t Mode(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 07777;
  }

  std::string folder_;
};

TEST_F(IdentityFilesTest, AFileIsReplacedAndOnlyItsOwnerReadsIt) {
  const std::string path = folder_ + "/key.pem";
  for (const char* content : {"first", "second, longer", ""}) {
    ASSERT_TRUE(WritePrivateFile(path, content).ok());
    EXPECT_EQ(Mode(path), 0600u);
    const auto read = ReadSmallFile(path, 100);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, content);
  }
}

TEST_F(IdentityFilesTest, ALeftoverThatOthersCanReadIsNotWrittenInto) {
  const std::string path = folder_ + "/key.pem";
  const std::string elsewhere = folder_ + "/elsewhere";
  std::filesystem::create_symlink(elsewhere, path + ".new");
  ASSERT_TRUE(WritePrivateFile(path, "secret").ok());
  EXPECT_FALSE(std::filesystem::exists(elsewhere));
  EXPECT_EQ(Mode(path), 0600u);
  std::ofstream(path + ".new") << "old";
  chmod((path + ".new").c_str(), 0644);
  ASSERT_TRUE(WritePrivateFile(path, "secret").ok());
  EXPECT_EQ(Mode(path), 0600u);
}

TEST_F(IdentityFilesTest, AFolderIsPrivateAndMayBeThere) {
  const std::string folder = folder_ + "/identity";
  ASSERT_TRUE(MakePrivateFolder(folder).ok());
  EXPECT_EQ(Mode(folder), 0700u);
  EXPECT_TRUE(MakePrivateFolder(folder).ok());
  std::ofstream(folder_ + "/file") << "x";
  EXPECT_EQ(MakePrivateFolder(folder_ + "/file").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(MakePrivateFolder(folder_ + "/none/folder").code(), absl::StatusCode::kNotFound);
}

TEST_F(IdentityFilesTest, AFileThatIsTooLargeIsNotReadIntoMemory) {
  std::ofstream(folder_ + "/large") << std::string(101, 'x');
  EXPECT_EQ(ReadSmallFile(folder_ + "/large", 100).status().code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(ReadSmallFile(folder_ + "/large", 101).ok());
  EXPECT_EQ(ReadSmallFile(folder_ + "/none", 100).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace moe::identity
