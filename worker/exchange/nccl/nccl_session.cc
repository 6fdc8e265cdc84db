#include "worker/exchange/nccl/nccl_session.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace moe::exchange {
namespace {

absl::Status While(absl::string_view doing, const absl::Status& status) {
  if (status.ok()) return status;
  return {status.code(), absl::StrCat(doing, ": ", status.message())};
}

}  // namespace

NcclSession::~NcclSession() { Abort(); }

absl::Status NcclSession::CheckUsable() const {
  if (!failure_.ok()) return failure_;
  if (is_aborted_) return absl::AbortedError("the communicator was aborted");
  if (communicator_ == nullptr) return absl::FailedPreconditionError("there is no communicator");
  return absl::OkStatus();
}

absl::Status NcclSession::Keep(absl::Status status) {
  if (failure_.ok()) failure_ = status;
  return status;
}

absl::Status NcclSession::Connect(NcclApi* api, const NcclId& id, int num_ranks, int rank) {
  const absl::MutexLock lock(&mutex_);
  if (is_aborted_) return absl::AbortedError("the communicator was aborted");
  if (was_connected_) return absl::FailedPreconditionError("Connect was called before");
  was_connected_ = true;
  auto communicator = api->Connect(id, num_ranks, rank);
  if (!communicator.ok()) return Keep(While("making a communicator", communicator.status()));
  communicator_ = *std::move(communicator);
  is_under_way_ = true;
  return absl::OkStatus();
}

absl::StatusOr<bool> NcclSession::IsReady() {
  const absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  const auto progress = communicator_->Poll();
  if (!progress.ok()) return Keep(progress.status());
  is_under_way_ = *progress == NcclProgress::kUnderWay;
  return !is_under_way_;
}

absl::Status NcclSession::EnqueueOne(const Transfer& transfer) {
  switch (transfer.kind) {
    case Transfer::Kind::kSend:
      return While(absl::StrCat("sending to rank ", transfer.peer),
                   communicator_->Send(transfer.from, transfer.num_bytes, transfer.peer));
    case Transfer::Kind::kReceive:
      return While(absl::StrCat("receiving from rank ", transfer.peer),
                   communicator_->Receive(transfer.to, transfer.num_bytes, transfer.peer));
    case Transfer::Kind::kAllGather:
      return While("gathering from all ranks",
                   communicator_->AllGather(transfer.from, transfer.to, transfer.num_bytes));
    case Transfer::Kind::kBroadcast:
      return While(
          absl::StrCat("broadcasting from rank ", transfer.peer),
          communicator_->Broadcast(transfer.from, transfer.to, transfer.num_bytes, transfer.peer));
  }
  return absl::InternalError("no such transfer");
}

absl::Status NcclSession::Enqueue(absl::Span<const Transfer> transfers) {
  const absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (is_under_way_) return absl::FailedPreconditionError("the last transfers are under way");
  if (transfers.empty()) return absl::OkStatus();
  absl::Status status = While("starting a group", communicator_->GroupStart());
  if (!status.ok()) return Keep(std::move(status));
  for (const Transfer& transfer : transfers) {
    status = EnqueueOne(transfer);
    if (!status.ok()) break;
  }
  // Also after an error: a group that stays open would swallow every later call of this thread.
  const auto progress = communicator_->GroupEnd();
  if (!status.ok()) return Keep(std::move(status));
  if (!progress.ok()) return Keep(While("ending a group", progress.status()));
  is_under_way_ = *progress == NcclProgress::kUnderWay;
  return absl::OkStatus();
}

absl::Status NcclSession::Register(void* buffer, size_t num_bytes) {
  const absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (is_under_way_) return absl::FailedPreconditionError("the last transfers are under way");
  const auto handle = communicator_->Register(buffer, num_bytes);
  if (!handle.ok()) {
    return Keep(
        While(absl::StrCat("registering a buffer of ", num_bytes, " bytes"), handle.status()));
  }
  if (*handle != nullptr) handles_.push_back(*handle);
  return absl::OkStatus();
}

absl::Status NcclSession::BeginClose() {
  const absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (is_under_way_) return absl::FailedPreconditionError("the last transfers are under way");
  while (!handles_.empty()) {
    absl::Status status = communicator_->Deregister(handles_.back());
    if (!status.ok()) return Keep(While("deregistering a buffer", status));
    handles_.pop_back();
  }
  const auto progress = communicator_->Finalize();
  if (!progress.ok()) return Keep(While("finalizing the communicator", progress.status()));
  is_under_way_ = *progress == NcclProgress::kUnderWay;
  return absl::OkStatus();
}

absl::Status NcclSession::FinishClose() {
  const absl::MutexLock lock(&mutex_);
  if (absl::Status status = CheckUsable(); !status.ok()) return status;
  if (is_under_way_) return absl::FailedPreconditionError("the communicator is being finalized");
  const absl::Status status = communicator_->Destroy();
  // Whatever it says, the communicator may not be used again, not even to abort it.
  communicator_ = nullptr;
  return Keep(While("destroying the communicator", status));
}

void NcclSession::Abort() {
  std::unique_ptr<NcclCommunicator> communicator;
  {
    const absl::MutexLock lock(&mutex_);
    is_aborted_ = true;
    communicator = std::move(communicator_);
    handles_.clear();
  }
  if (communicator != nullptr) communicator->Abort();  // frees the registrations too
}

}  // namespace moe::exchange
