#include "controller/coordinator/streams.h"

#include <utility>

#include "identity/coordinator_route.h"

namespace moe::coordinator {

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

grpc::Status RedirectStatus(const std::string& leader, grpc::CallbackServerContext* context) {
  if (!leader.empty()) context->AddTrailingMetadata(identity::kLeaderMetadata, leader);
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "this coordinator does not lead");
}

// ---- SessionStream ----

std::shared_ptr<SessionStream> SessionStream::Create(grpc::CallbackServerContext* context,
                                                     uint64_t session, size_t max_unread,
                                                     Callbacks callbacks) {
  std::shared_ptr<SessionStream> stream(
      new SessionStream(context, session, max_unread, std::move(callbacks)));
  stream->self_ = stream;
  return stream;
}

void SessionStream::ReadNext() {
  absl::MutexLock lock(&mu_);
  if (!finished_) StartRead(&incoming_);
}

void SessionStream::Send(v1::ControllerMessage message) {
  absl::MutexLock lock(&mu_);
  if (closing_ || finished_) return;
  if (outbox_.size() >= max_unread_) {
    CloseLocked(absl::ResourceExhaustedError("the worker does not read what it is sent"));
    // A write that waits for the worker would hold up the end.
    context_->TryCancel();
    return;
  }
  outbox_.push_back(std::move(message));
  WriteNext();
}

void SessionStream::Close(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  CloseLocked(status);
}

void SessionStream::Redirect(const std::string& leader) {
  absl::MutexLock lock(&mu_);
  if (closing_ || finished_) return;
  closing_ = true;
  end_status_ = RedirectStatus(leader, context_);
  WriteNext();
}

void SessionStream::CloseLocked(const absl::Status& status) {
  if (closing_ || finished_) return;
  closing_ = true;
  end_status_ = ToGrpc(status);
  WriteNext();
}

void SessionStream::WriteNext() {
  if (writing_ || finished_) return;
  if (!outbox_.empty()) {
    writing_ = true;
    StartWrite(&outbox_.front());
  } else if (closing_) {
    FinishOnce();
  }
}

void SessionStream::FinishOnce() {
  if (std::exchange(finished_, true)) return;
  Finish(end_status_);
}

void SessionStream::OnReadDone(bool ok) {
  if (ok) {
    callbacks_.on_message(session_, std::move(incoming_));
    return;
  }
  // The worker has closed its side, or the connection is gone.
  Close(absl::OkStatus());
}

void SessionStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = false;
  outbox_.pop_front();
  if (ok) {
    WriteNext();
  } else {
    FinishOnce();
  }
}

void SessionStream::OnCancel() {
  absl::MutexLock lock(&mu_);
  FinishOnce();
}

void SessionStream::OnDone() {
  callbacks_.on_closed(session_);
  // The last reference may be this one, so the object ends with this scope.
  const std::shared_ptr<SessionStream> self = std::move(self_);
}

// ---- WatchStream ----

std::shared_ptr<WatchStream> WatchStream::Create(grpc::CallbackServerContext* context,
                                                 std::function<void()> on_closed) {
  std::shared_ptr<WatchStream> stream(new WatchStream(context, std::move(on_closed)));
  stream->self_ = stream;
  return stream;
}

void WatchStream::Show(std::shared_ptr<const v1::GroupStates> states) {
  absl::MutexLock lock(&mu_);
  if (closing_ || finished_) return;
  next_ = std::move(states);
  WriteNext();
}

void WatchStream::Close(const absl::Status& status) {
  absl::MutexLock lock(&mu_);
  CloseLocked(status);
}

void WatchStream::Redirect(const std::string& leader) {
  absl::MutexLock lock(&mu_);
  if (closing_ || finished_) return;
  closing_ = true;
  end_status_ = RedirectStatus(leader, context_);
  WriteNext();
}

void WatchStream::CloseLocked(const absl::Status& status) {
  if (closing_ || finished_) return;
  closing_ = true;
  end_status_ = ToGrpc(status);
  WriteNext();
}

void WatchStream::WriteNext() {
  if (writing_ != nullptr || finished_) return;
  if (next_ != nullptr) {
    writing_ = std::move(next_);
    next_ = nullptr;
    StartWrite(writing_.get());
  } else if (closing_) {
    FinishOnce();
  }
}

void WatchStream::FinishOnce() {
  if (std::exchange(finished_, true)) return;
  Finish(end_status_);
}

void WatchStream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mu_);
  writing_ = nullptr;
  if (ok) {
    WriteNext();
  } else {
    FinishOnce();
  }
}

void WatchStream::OnCancel() {
  absl::MutexLock lock(&mu_);
  FinishOnce();
}

void WatchStream::OnDone() {
  on_closed_();
  const std::shared_ptr<WatchStream> self = std::move(self_);
}

}  // namespace moe::coordinator
