// What the emulator holds kernels and the host to: each mistake here is one that a GPU does not
// forgive, or forgives only most of the time.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "device/buffer.h"
#include "device/stream.h"
#include "gtest/gtest.h"
#include "kernels/cuda/gpu.h"
#include "tests/kernels/emulator/wrong_kernels.h"

namespace moe::kernels::cuda {
namespace {

class EmulatorTest : public testing::Test {
 protected:
  void SetUp() override {
    testing::FLAGS_gtest_death_test_style = "fast";
    auto stream = device::Stream::Create();
    ASSERT_TRUE(stream.ok());
    stream_.push_back(*std::move(stream));
    auto out = device::DeviceBuffer<int32_t>::Create(4 * kThreads);
    ASSERT_TRUE(out.ok());
    out_ = *std::move(out);
  }
  void TearDown() override { ASSERT_TRUE(stream().Synchronize().ok()); }

  const device::Stream& stream() const { return stream_.front(); }
  Gpu gpu() const { return {.stream = stream().get(), .num_sms = 1}; }

  // What the kernel has been given to do is done here.
  void Finish(const absl::Status& launched) {
    ASSERT_TRUE(launched.ok()) << launched;
    ASSERT_TRUE(stream().Synchronize().ok());
  }
  std::vector<int32_t> Download(int64_t size) {
    std::vector<int32_t> values(static_cast<size_t>(size));
    EXPECT_TRUE(device::CopyToHost<int32_t>(out_.data(), absl::MakeSpan(values), stream()).ok());
    return values;
  }

  std::vector<device::Stream> stream_;  // one
  device::DeviceBuffer<int32_t> out_;
};
using EmulatorDeathTest = EmulatorTest;

// ---- Threads of a kernel

TEST_F(EmulatorTest, ThreadsPassWordsOnBehindABarrier) {
  Finish(PassOn(gpu(), 2, Between::kBarrier, 33, out_.data()));
  const std::vector<int32_t> values = Download(2 * kThreads);
  for (int i = 0; i < 2 * kThreads; ++i) EXPECT_EQ(values[i], (i + kThreads - 33) % kThreads);
  Finish(ReadThenWrite(gpu(), true, out_.data()));
}

TEST_F(EmulatorDeathTest, WordsOfOtherWarpsNeedABarrier) {
  for (const Between between : {Between::kNothing, Between::kShuffle, Between::kWarpSync}) {
    EXPECT_DEATH(Finish(PassOn(gpu(), 1, between, 33, out_.data())),
                 "kernel 'the test's': thread .* 4 bytes at dynamic shared memory .* has "
                 "(written|read) it, and no barrier is between");
  }
}

TEST_F(EmulatorDeathTest, WordsOfOtherLanesNeedASyncwarpWhichAShuffleIsNot) {
  for (const Between between : {Between::kNothing, Between::kShuffle}) {
    EXPECT_DEATH(Finish(PassOn(gpu(), 1, between, 1, out_.data())), "no barrier is between");
  }
}

TEST_F(EmulatorDeathTest, WhatOthersStillReadMustNotBeOverwritten) {
  EXPECT_DEATH(Finish(ReadThenWrite(gpu(), false, out_.data())),
               "dynamic shared memory . 0: thread .* it, and no barrier is between");
}

TEST_F(EmulatorDeathTest, NothingOrdersBlocks) {
  EXPECT_DEATH(Finish(WriteSamePlace(gpu(), 2, out_.data())),
               "of block 1 writes 4 bytes at device memory .* thread 0 of block 0 has written");
  EXPECT_DEATH(Finish(ReadOfOtherBlock(gpu(), 2, out_.data())),
               "of block 1 reads .* of block 0 has written");
}

// ---- Addresses

TEST_F(EmulatorDeathTest, AKernelReadsOnlyWhatIsTheGpusAndAligned) {
  const auto bytes = device::DeviceBuffer<unsigned char>::Create(64);
  ASSERT_TRUE(bytes.ok());
  Finish(ReadAt(gpu(), bytes->data(), 60, out_.data()));
  EXPECT_DEATH(Finish(ReadAt(gpu(), bytes->data(), 2, out_.data())), "the address is not aligned");
  EXPECT_DEATH(Finish(ReadAt(gpu(), bytes->data(), -4, out_.data())),
               "this is not memory of the GPU");
  EXPECT_DEATH(Finish(ReadAt(gpu(), bytes->data(), 64, out_.data())),
               "this is not memory of the GPU");
  const std::vector<unsigned char> of_host(64);
  EXPECT_DEATH(Finish(ReadAt(gpu(), of_host.data(), 0, out_.data())),
               "this is not memory of the GPU");
}

TEST_F(EmulatorDeathTest, TheHostMustNotTouchDeviceMemory) {
  Finish(WriteSamePlace(gpu(), 1, out_.data()));
  EXPECT_DEATH(out_.data()[0] = 1, "");
}

// ---- Asynchronous copies

TEST_F(EmulatorDeathTest, ACopyIsThereWhenItsThreadHasWaitedAndABarrierIsBehindIt) {
  auto from = device::DeviceBuffer<int32_t>::Create(4 * kThreads);
  ASSERT_TRUE(from.ok());
  Finish(CopyAndRead(gpu(), CopyMistake::kNone, from->data(), out_.data()));
  for (const auto& [mistake, words] : std::vector<std::pair<CopyMistake, std::string>>{
           {CopyMistake::kNotAwaited, "an asynchronous copy to it is under way"},
           {CopyMistake::kNoBarrier, "no barrier is between"},
           {CopyMistake::kTargetNotAligned, "an address is not aligned"},
           {CopyMistake::kTargetNotShared, "not shared memory"}}) {
    EXPECT_DEATH(Finish(CopyAndRead(gpu(), mistake, from->data(), out_.data())), words);
  }
}

// ---- Kernels that overlap

TEST_F(EmulatorDeathTest, AKernelThatOverlapsWaitsBeforeItReadsNewsOrWrites) {
  for (const Early none : {Early::kNothing, Early::kReadOlder}) {
    Finish(OverlapKernels(gpu(), none, out_.data()));
  }
  EXPECT_EQ(Download(4)[3], 1);
  for (const auto& [mistake, words] : std::vector<std::pair<Early, std::string>>{
           {Early::kRead, "the kernel before this one writes it, and has not been waited for"},
           {Early::kWrite, "it has not waited for the kernels before it"},
           {Early::kEnd, "it ends without having waited"}}) {
    EXPECT_DEATH(Finish(OverlapKernels(gpu(), mistake, out_.data())), words);
  }
}

// ---- Streams

TEST_F(EmulatorTest, AStreamDoesNothingBeforeSomebodyWaits) {
  const auto host = device::PinnedBuffer<int32_t>::Create(1);
  ASSERT_TRUE(host.ok());
  auto event = device::Event::Create();
  ASSERT_TRUE(event.ok());
  host->data()[0] = 1;
  ASSERT_TRUE(device::CopyToDevice<int32_t>({host->data(), size_t{1}}, out_.data(), stream()).ok());
  host->data()[0] = 2;  // too early: this is what is copied
  ASSERT_TRUE(event->Record(stream()).ok());
  EXPECT_FALSE(*event->Reached());
  EXPECT_TRUE(*event->Reached());
  host->data()[0] = 3;
  EXPECT_EQ(Download(1).front(), 2);
}

TEST_F(EmulatorTest, MemoryThatIsNotPinnedIsReadAtOnce) {
  std::vector<int32_t> host = {1};
  ASSERT_TRUE(device::CopyToDevice<int32_t>(host, out_.data(), stream()).ok());
  host[0] = 2;
  EXPECT_EQ(Download(1).front(), 1);
}

TEST_F(EmulatorTest, AStreamThatDoesNotWaitForAnotherRunsBeforeIt) {
  const auto other = device::Stream::Create();
  ASSERT_TRUE(other.ok());
  auto event = device::Event::Create();
  ASSERT_TRUE(event.ok());
  ASSERT_TRUE(device::FillBytes(out_, 0, stream()).ok());
  ASSERT_TRUE(stream().Synchronize().ok());
  for (const bool waits : {false, true}) {
    ASSERT_TRUE(device::FillBytes(out_, waits ? 2 : 1, *other).ok());
    ASSERT_TRUE(event->Record(*other).ok());
    if (waits) {
      ASSERT_TRUE(stream().WaitFor(*event).ok());
    }
    EXPECT_EQ(Download(1).front(), waits ? 0x02020202 : 0);
  }
}

TEST_F(EmulatorTest, AGridThatNoGpuTakesIsRefused) {
  const auto code_of = [this](unsigned int x, unsigned int y, int threads, size_t shared_bytes) {
    return LaunchOfShape(gpu(), x, y, threads, shared_bytes).code();
  };
  EXPECT_EQ(code_of(70000, 1, 32, 227 << 10), absl::StatusCode::kOk);
  EXPECT_EQ(code_of(1, 65536, 32, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(1, 1, 2048, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code_of(1, 1, 32, 228 << 10), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moe::kernels::cuda
