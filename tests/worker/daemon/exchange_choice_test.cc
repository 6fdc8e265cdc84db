// Tests worker/daemon/exchange_choice.h: which exchange a process can have, and what it says of one
// that it can't have.
#include "worker/daemon/exchange_choice.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moe::worker {
namespace {

using coordinator::v1::EXCHANGE_NCCL;
using coordinator::v1::EXCHANGE_SHARED_MEMORY;
using coordinator::v1::EXCHANGE_TCP;
using coordinator::v1::ExchangeKind;
using ::testing::HasSubstr;

class NoDeviceGroups : public DeviceGroups {
 public:
  absl::Status Load() override { return absl::OkStatus(); }
  uint64_t DeviceBytes(const exchange::GroupShape&, int) const override { return 0; }
  absl::StatusOr<std::unique_ptr<GroupExchangeMaker>> MakeMaker(const RankPlace&,
                                                                exchange::TcpListener*,
                                                                model::RankModel*) override {
    return absl::InternalError("asked of device groups");
  }
};

class ExchangeChoiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto listener = exchange::TcpListener::Start("127.0.0.1:0");
    ASSERT_TRUE(listener.ok()) << listener.status();
    listener_ = *std::move(listener);
  }
  ExchangeMeans Means(bool on_device, bool has_nccl, bool has_listener) {
    return {.on_device = on_device,
            .device_groups = has_nccl ? &groups_ : nullptr,
            .listener = has_listener ? listener_.get() : nullptr,
            .cores = {}};
  }

  NoDeviceGroups groups_;
  std::unique_ptr<exchange::TcpListener> listener_;
};

TEST_F(ExchangeChoiceTest, WhatAProcessHasDecidesWhatItCanExchangeBy) {
  struct Case {
    ExchangeKind kind;
    int num_ranks;
    bool on_device;
    bool has_nccl;
    bool has_listener;
    const char* error;  // null: it can
  };
  for (const Case& c : std::vector<Case>{
           {EXCHANGE_SHARED_MEMORY, 8, false, false, false, nullptr},
           {EXCHANGE_TCP, 8, false, false, true, nullptr},
           {EXCHANGE_TCP, 8, false, false, false, "over TCP, and this worker was started without"},
           {EXCHANGE_SHARED_MEMORY, 1, true, true, false, nullptr},
           {EXCHANGE_TCP, 1, true, true, true, nullptr},
           {EXCHANGE_SHARED_MEMORY, 2, true, true, true, "2 ranks exchanges by shared memory"},
           {EXCHANGE_TCP, 3, true, true, true, "3 ranks exchanges by TCP"},
           {EXCHANGE_NCCL, 2, true, true, true, nullptr},
           {EXCHANGE_NCCL, 2, true, true, false, "over NCCL, and this worker was started without"},
           {EXCHANGE_NCCL, 2, true, false, true, "built without it"},
           {EXCHANGE_NCCL, 2, false, false, true, "start it with --backend cuda"}}) {
    const absl::Status status =
        CheckExchange(c.kind, c.num_ranks, Means(c.on_device, c.has_nccl, c.has_listener));
    SCOPED_TRACE(testing::Message() << "exchange " << c.kind << ", " << c.num_ranks << " ranks, "
                                    << (c.on_device ? "GPU" : "CPU"));
    if (c.error == nullptr) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.error));
  }
}

TEST_F(ExchangeChoiceTest, AnExchangeOfALaterVersionIsUnknown) {
  const absl::Status status =
      CheckExchange(static_cast<ExchangeKind>(7), 2, Means(false, false, false));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status.message(), "this worker does not know exchange 7");
}

TEST_F(ExchangeChoiceTest, OverNcclTheExchangeBetweenGpusIsAsked) {
  const auto maker = MakeExchangeMaker(EXCHANGE_NCCL, {}, Means(true, true, true), nullptr);
  EXPECT_EQ(maker.status().message(), "asked of device groups");
}

}  // namespace
}  // namespace moe::worker
