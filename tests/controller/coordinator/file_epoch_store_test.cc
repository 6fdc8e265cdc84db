#include "controller/coordinator/file_epoch_store.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::coordinator {
namespace {

using ::testing::HasSubstr;

class FileEpochStoreTest : public ::testing::Test {
 protected:
  FileEpochStoreTest() {
    std::string form = ::testing::TempDir() + "/epochs-XXXXXX";
    folder_ = mkdtemp(form.data());
    path_ = folder_ + "/term";
  }
  ~FileEpochStoreTest() override { std::filesystem::remove_all(folder_); }

  void WriteFile(const std::string& text) { std::ofstream(path_) << text; }

  std::string folder_;
  std::string path_;
};

TEST_F(FileEpochStoreTest, AFreshFileBeginsWithTermOne) {
  auto store = FileEpochStore::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->term(), 1u);
  EXPECT_EQ((*store)->last_epoch(), 0u);
}

TEST_F(FileEpochStoreTest, EachOpeningRaisesTheTermAndKeepsTheEpoch) {
  for (uint64_t term = 1; term <= 3; ++term) {
    auto store = FileEpochStore::Open(path_);
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->term(), term);
    EXPECT_EQ((*store)->last_epoch(), 10 * (term - 1));
    ASSERT_TRUE((*store)->Claim(10 * term).ok());
  }
}

TEST_F(FileEpochStoreTest, AnEpochIsClaimedOnce) {
  auto store = FileEpochStore::Open(path_);
  ASSERT_TRUE(store.ok());
  ASSERT_TRUE((*store)->Claim(5).ok());
  EXPECT_EQ((*store)->Claim(5).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*store)->Claim(4).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*store)->Claim(6).ok());
}

TEST_F(FileEpochStoreTest, ASecondControllerIsKeptOut) {
  auto store = FileEpochStore::Open(path_);
  ASSERT_TRUE(store.ok());
  const auto second = FileEpochStore::Open(path_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  store->reset();
  EXPECT_TRUE(FileEpochStore::Open(path_).ok());
}

TEST_F(FileEpochStoreTest, AFileOfAnotherFormIsNotGuessedAt) {
  for (const char* text :
       {"", "moe-epochs 1 3 4", "moe-epochs 1 3\n", "moe-epochs 2 3 4\n", "moe-epochs 1 3 4 5\n",
        "moe-epochs 1 -3 4\n", "moe-epochs 1 3 4\n\n", "moe-epochs 1 99999999999999999999 4\n"}) {
    WriteFile(text);
    const auto store = FileEpochStore::Open(path_);
    EXPECT_EQ(store.status().code(), absl::StatusCode::kDataLoss) << '"' << text << '"';
    EXPECT_THAT(std::string(store.status().message()), HasSubstr(path_));
  }
}

TEST_F(FileEpochStoreTest, AFileThatIsMuchTooLongIsRefused) {
  WriteFile("moe-epochs 1 3 4\n" + std::string(1 << 20, 'x'));
  EXPECT_EQ(FileEpochStore::Open(path_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(FileEpochStoreTest, AFailedClaimBurnsItsNumber) {
  auto store = FileEpochStore::Open(path_);
  ASSERT_TRUE(store.ok());
  // A folder in the way of the new file makes every write fail, also for root.
  ASSERT_EQ(mkdir((path_ + ".new").c_str(), 0700), 0);
  EXPECT_FALSE((*store)->Claim(1).ok());
  ASSERT_EQ(rmdir((path_ + ".new").c_str()), 0);
  EXPECT_FALSE((*store)->Claim(1).ok());
  EXPECT_TRUE((*store)->Claim(2).ok());
}

TEST_F(FileEpochStoreTest, AFullDiskFailsTheClaimAndLeavesTheRecordWhole) {
  {
    auto store = FileEpochStore::Open(path_);
    ASSERT_TRUE(store.ok());
    ASSERT_TRUE((*store)->Claim(1).ok());
    // Whatever is written there finds no space left on the device.
    ASSERT_EQ(symlink("/dev/full", (path_ + ".new").c_str()), 0);
    const absl::Status status = (*store)->Claim(2);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("cannot write " + path_));
    ASSERT_EQ(unlink((path_ + ".new").c_str()), 0);
    EXPECT_TRUE((*store)->Claim(3).ok());
    ASSERT_EQ(symlink("/dev/full", (path_ + ".new").c_str()), 0);
    EXPECT_FALSE((*store)->Claim(4).ok());
    ASSERT_EQ(unlink((path_ + ".new").c_str()), 0);
  }
  auto store = FileEpochStore::Open(path_);
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->last_epoch(), 3u);
}

TEST_F(FileEpochStoreTest, AMissingFolderIsAnErrorWithItsPath) {
  const auto store = FileEpochStore::Open(folder_ + "/none/term");
  EXPECT_EQ(store.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("/none/term"));
}

}  // namespace
}  // namespace moe::coordinator
