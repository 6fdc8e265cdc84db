// Tests device/buffer.h, stream.h and graph.h on a GPU.
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "device/buffer.h"
#include "device/device.h"
#include "device/graph.h"
#include "device/status.h"
#include "device/stream.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::device {
namespace {

TEST(DeviceBufferTest, BytesComeBackAsTheyWent) {
  const auto stream = Stream::Create();
  ASSERT_TRUE(stream.ok()) << stream.status();
  const auto host = PinnedBuffer<int32_t>::Create(1000);
  ASSERT_TRUE(host.ok()) << host.status();
  std::iota(host->data(), host->data() + host->size(), 7);
  const auto buffer = DeviceBuffer<int32_t>::Create(1000);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  std::vector<int32_t> back(1000);
  ASSERT_TRUE(CopyToDevice<int32_t>({host->data(), size_t{1000}}, buffer->data(), *stream).ok());
  ASSERT_TRUE(CopyToHost<int32_t>(buffer->data(), absl::MakeSpan(back), *stream).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  EXPECT_EQ(back.front(), 7);
  EXPECT_EQ(back.back(), 1006);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 256, 0u);
}

TEST(DeviceBufferTest, NothingIsAllocatedForNoElements) {
  const auto buffer = DeviceBuffer<float>::Create(0);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(DeviceBufferTest, MovingLeavesTheSourceEmpty) {
  auto first = DeviceBuffer<float>::Create(10);
  ASSERT_TRUE(first.ok());
  float* const data = first->data();
  DeviceBuffer<float> second = *std::move(first);
  EXPECT_EQ(second.data(), data);
  DeviceBuffer<float> third;
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_EQ(third.size(), 10);
}

TEST(DeviceBufferTest, TooMuchMemoryIsRefusedWithNumbersAndTheDeviceGoesOn) {
  const auto devices = QueryDevices();
  ASSERT_TRUE(devices.ok());
  const auto huge =
      DeviceBuffer<char>::Create(static_cast<int64_t>(devices->front().total_bytes * 2));
  ASSERT_EQ(huge.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(huge.status().message()), testing::HasSubstr("bytes free"));
  EXPECT_FALSE(IsDeviceLost(huge.status()));
  EXPECT_TRUE(DeviceBuffer<char>::Create(1000).ok());
}

TEST(EventTest, IsReachedWhenTheStreamHasGotThere) {
  const auto stream = Stream::Create();
  const auto other = Stream::Create();
  ASSERT_TRUE(stream.ok() && other.ok());
  auto event = Event::Create();
  ASSERT_TRUE(event.ok());
  const auto buffer = DeviceBuffer<char>::Create(1 << 20);
  ASSERT_TRUE(buffer.ok());
  ASSERT_TRUE(FillBytes(*buffer, 3, *stream).ok());
  ASSERT_TRUE(event->Record(*stream).ok());
  ASSERT_TRUE(other->WaitFor(*event).ok());
  std::vector<char> back(buffer->size());
  ASSERT_TRUE(CopyToHost<char>(buffer->data(), absl::MakeSpan(back), *other).ok());
  ASSERT_TRUE(other->Synchronize().ok());
  EXPECT_THAT(back, testing::Each(3));
  ASSERT_TRUE(event->Wait().ok());
  const auto reached = event->Reached();
  ASSERT_TRUE(reached.ok());
  EXPECT_TRUE(*reached);
}

TEST(GraphTest, RunsWhatWasCapturedEachTimeItIsLaunched) {
  const auto stream = Stream::Create();
  ASSERT_TRUE(stream.ok());
  const auto from = DeviceBuffer<char>::Create(100);
  const auto to = DeviceBuffer<char>::Create(100);
  ASSERT_TRUE(from.ok() && to.ok());
  ASSERT_TRUE(FillBytes(*to, 1, *stream).ok());
  const auto graph = Graph::Capture(*stream, [&] {
    return CopyToDevice<char>({from->data(), size_t{100}}, to->data(), *stream);
  });
  ASSERT_TRUE(graph.ok()) << graph.status();
  std::vector<char> back(100);
  const auto read = [&] {
    EXPECT_TRUE(CopyToHost<char>(to->data(), absl::MakeSpan(back), *stream).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
  };
  read();
  EXPECT_THAT(back, testing::Each(1)) << "capturing ran it";
  for (const int byte : {5, 6}) {
    ASSERT_TRUE(FillBytes(*from, byte, *stream).ok());
    ASSERT_TRUE(graph->Launch(*stream).ok());
    read();
    EXPECT_THAT(back, testing::Each(byte));
  }
}

TEST(GraphTest, AnErrorWhileCapturingLeavesTheStreamUsable) {
  const auto stream = Stream::Create();
  ASSERT_TRUE(stream.ok());
  const auto graph =
      Graph::Capture(*stream, [] { return absl::InternalError("nothing to enqueue"); });
  EXPECT_EQ(graph.status().code(), absl::StatusCode::kInternal);
  const auto buffer = DeviceBuffer<char>::Create(10);
  ASSERT_TRUE(buffer.ok());
  EXPECT_TRUE(FillBytes(*buffer, 3, *stream).ok());
  EXPECT_TRUE(stream->Synchronize().ok());
}

}  // namespace
}  // namespace moe::device
