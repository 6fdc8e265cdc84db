// Tests worker/exchange/nccl/nccl_library.h on functions that note how they were called.
#include "worker/exchange/nccl/nccl_library.h"

#include <dlfcn.h>

#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

struct ncclComm {
  int number;
};

namespace moe::exchange {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// What the functions below note and give. They are C functions, so there is one of it.
struct Recorder {
  std::vector<std::string> calls;
  ncclResult_t result = ncclSuccess;  // of the next calls
  ncclResult_t state = ncclSuccess;   // that ncclCommGetAsyncError tells
  bool makes_communicator = true;
  int blocking = -1;
};
Recorder recorder;
ncclComm communicator = {5};

ncclResult_t Note(const std::string& call) {
  recorder.calls.push_back(call);
  return recorder.result;
}

NcclFunctions Recorded() {
  NcclFunctions functions;
  functions.get_version = [](int* version) {
    *version = kMinNcclVersion;
    return Note("version");
  };
  functions.get_unique_id = [](ncclUniqueId* id) {
    for (char& c : id->internal) c = 's';
    return Note("id");
  };
  functions.get_error_string = [](ncclResult_t result) -> const char* {
    return result == ncclRemoteError ? "remote process exited" : "unhandled system error";
  };
  functions.get_last_error = [](ncclComm_t comm) -> const char* {
    return comm == nullptr ? "" : "socket closed";
  };
  functions.comm_init_rank_config = [](ncclComm_t* comm, int num_ranks, ncclUniqueId id, int rank,
                                       ncclConfig_t* config) {
    *comm = recorder.makes_communicator ? &communicator : nullptr;
    recorder.blocking = config->blocking;
    return Note(absl::StrCat("init ", num_ranks, " ", std::string(id.internal, 3), " ", rank));
  };
  functions.comm_get_async_error = [](ncclComm_t, ncclResult_t* state) {
    *state = recorder.state;
    return Note("poll");
  };
  functions.comm_register = [](ncclComm_t, void*, size_t size, void** handle) {
    *handle = &recorder;
    return Note(absl::StrCat("register ", size));
  };
  functions.comm_deregister = [](ncclComm_t, void* handle) {
    return Note(handle == &recorder ? "deregister" : "deregister something else");
  };
  functions.comm_finalize = [](ncclComm_t) { return Note("finalize"); };
  functions.comm_destroy = [](ncclComm_t) { return Note("destroy"); };
  functions.comm_abort = [](ncclComm_t) { return Note("abort"); };
  functions.group_start = [] { return Note("start"); };
  functions.group_end = [] { return Note("end"); };
  functions.send = [](const void*, size_t count, ncclDataType_t type, int peer, ncclComm_t,
                      cudaStream_t) {
    return Note(absl::StrCat("send ", count, " of type ", static_cast<int>(type), " to ", peer));
  };
  functions.recv = [](void*, size_t count, ncclDataType_t, int peer, ncclComm_t, cudaStream_t) {
    return Note(absl::StrCat("receive ", count, " from ", peer));
  };
  functions.all_gather = [](const void*, void*, size_t count, ncclDataType_t, ncclComm_t,
                            cudaStream_t) { return Note(absl::StrCat("gather ", count)); };
  functions.broadcast = [](const void*, void*, size_t count, ncclDataType_t, int root, ncclComm_t,
                           cudaStream_t) {
    return Note(absl::StrCat("broadcast ", count, " from ", root));
  };
  return functions;
}

class NcclLibraryTest : public testing::Test {
 protected:
  void SetUp() override { recorder = {}; }
  std::unique_ptr<NcclCommunicator> Connected() {
    NcclId id;
    id.bytes.fill('s');
    auto made = api_->Connect(id, 4, 2);
    EXPECT_TRUE(made.ok()) << made.status();
    return *std::move(made);
  }
  std::unique_ptr<NcclApi> api_ = MakeNccl(Recorded(), nullptr);
  std::array<char, 64> memory_ = {};
};

TEST_F(NcclLibraryTest, EveryCallReachesNccl) {
  ASSERT_TRUE(api_->MakeId().ok());
  const auto nccl = Connected();
  ASSERT_TRUE(nccl->Poll().ok());
  const auto handle = nccl->Register(memory_.data(), 64);
  ASSERT_TRUE(handle.ok());
  ASSERT_TRUE(nccl->GroupStart().ok());
  ASSERT_TRUE(nccl->Send(memory_.data(), 5, 1).ok());
  ASSERT_TRUE(nccl->Receive(memory_.data(), 6, 3).ok());
  ASSERT_TRUE(nccl->AllGather(memory_.data(), memory_.data(), 7).ok());
  ASSERT_TRUE(nccl->Broadcast(memory_.data(), memory_.data(), 8, 0).ok());
  ASSERT_TRUE(nccl->GroupEnd().ok());
  ASSERT_TRUE(nccl->Deregister(*handle).ok());
  ASSERT_TRUE(nccl->Finalize().ok());
  ASSERT_TRUE(nccl->Destroy().ok());
  EXPECT_THAT(recorder.calls,
              ElementsAre("id", "init 4 sss 2", "poll", "register 64", "start",
                          "send 5 of type 1 to 1", "receive 6 from 3", "gather 7",
                          "broadcast 8 from 0", "end", "deregister", "finalize", "destroy"));
  EXPECT_EQ(recorder.blocking, 0);
}

TEST_F(NcclLibraryTest, WorkUnderWayIsNoError) {
  recorder.result = ncclInProgress;
  const auto nccl = Connected();
  EXPECT_EQ(nccl->GroupEnd().value(), NcclProgress::kUnderWay);
  EXPECT_EQ(nccl->Finalize().value(), NcclProgress::kUnderWay);
  EXPECT_TRUE(nccl->GroupStart().ok());
  recorder.result = ncclSuccess;
  recorder.state = ncclInProgress;
  EXPECT_EQ(nccl->Poll().value(), NcclProgress::kUnderWay);
  recorder.state = ncclSuccess;
  EXPECT_EQ(nccl->Poll().value(), NcclProgress::kDone);
}

TEST_F(NcclLibraryTest, ErrorsCarryNcclsWordsAndNoSecret) {
  const auto nccl = Connected();
  recorder.state = ncclRemoteError;
  EXPECT_EQ(nccl->Poll().status(),
            absl::UnavailableError("NCCL: remote process exited: socket closed"));
  recorder.result = ncclSystemError;
  const absl::Status expected = absl::InternalError("NCCL: unhandled system error: socket closed");
  EXPECT_EQ(nccl->Poll().status(), expected);
  EXPECT_EQ(nccl->GroupStart(), expected);
  EXPECT_EQ(nccl->GroupEnd().status(), expected);
  EXPECT_EQ(nccl->Send(nullptr, 1, 0), expected);
  EXPECT_EQ(nccl->Receive(nullptr, 1, 0), expected);
  EXPECT_EQ(nccl->AllGather(nullptr, nullptr, 1), expected);
  EXPECT_EQ(nccl->Broadcast(nullptr, nullptr, 1, 0), expected);
  EXPECT_EQ(nccl->Register(nullptr, 1).status(), expected);
  EXPECT_EQ(nccl->Deregister(nullptr), expected);
  EXPECT_EQ(nccl->Finalize().status(), expected);
  EXPECT_EQ(nccl->Destroy(), absl::InternalError("NCCL: unhandled system error"));
  EXPECT_EQ(api_->MakeId().status(), absl::InternalError("NCCL: unhandled system error"));
  EXPECT_THAT(api_->MakeId().status().ToString(), Not(HasSubstr("sss")));
}

TEST_F(NcclLibraryTest, ACommunicatorThatFailsToConnectIsAborted) {
  recorder.result = ncclSystemError;
  EXPECT_FALSE(api_->Connect({}, 2, 0).ok());
  EXPECT_EQ(recorder.calls.back(), "abort");
  recorder = {};
  recorder.makes_communicator = false;
  EXPECT_EQ(api_->Connect({}, 2, 0).status().code(), absl::StatusCode::kInternal);
}

TEST_F(NcclLibraryTest, WhatIsLeftIsAbortedOnce) {
  {
    const auto nccl = Connected();
    nccl->Abort();
    nccl->Abort();
  }
  EXPECT_EQ(std::count(recorder.calls.begin(), recorder.calls.end(), "abort"), 1);
  {
    const auto nccl = Connected();
  }
  EXPECT_EQ(std::count(recorder.calls.begin(), recorder.calls.end(), "abort"), 2);
  {
    const auto nccl = Connected();
    EXPECT_TRUE(nccl->Destroy().ok());
  }
  EXPECT_EQ(std::count(recorder.calls.begin(), recorder.calls.end(), "abort"), 2);
}

TEST_F(NcclLibraryTest, ALibraryThatIsMissingOrIsAnotherIsToldWithWhatToDo) {
  const auto missing = LoadNccl("libnccl-that-is-not-here.so.2");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(missing.status().ToString(), HasSubstr("libnccl-that-is-not-here.so.2"));
  EXPECT_THAT(missing.status().ToString(), HasSubstr("looked for in"));
  EXPECT_THAT(missing.status().ToString(), HasSubstr("the system's library folders"));
  EXPECT_THAT(missing.status().ToString(), HasSubstr("install NCCL 2.28.9 or newer"));
  const auto other = LoadNccl("libm.so.6");
  EXPECT_EQ(other.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(other.status().ToString(), HasSubstr("libm.so.6 has no ncclGetVersion"));
}

TEST_F(NcclLibraryTest, OldVersionsAreRefusedWithBothNumbers) {
  EXPECT_TRUE(CheckNcclVersion(22809).ok());
  EXPECT_TRUE(CheckNcclVersion(23007).ok());
  for (const int version : {22808, 21903, 2708, 30000}) {
    EXPECT_EQ(CheckNcclVersion(version).code(), absl::StatusCode::kFailedPrecondition) << version;
  }
  EXPECT_THAT(CheckNcclVersion(21903).ToString(),
              HasSubstr("NCCL here is 2.19.3, and this program was built for 2.28.9"));
}

}  // namespace
}  // namespace moe::exchange
