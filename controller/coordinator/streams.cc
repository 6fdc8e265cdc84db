#include "controller/coordinator/streams.h"

#include <utility>

namespace moe::coordinator {

std::shared_ptr<SessionStream> SessionStream::Create(uint64_t session, Callbacks callbacks) {
  std::shared_ptr<SessionStream> stream(new SessionStream(session, std::move(callbacks)));
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
  outbox_.push_back(std::move(message));
  WriteNext();
}

void SessionStream::Close() {
  absl::MutexLock lock(&mu_);
  closing_ = true;
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
  Finish(grpc::Status::OK);
}

void SessionStream::OnReadDone(bool ok) {
  if (ok) {
    callbacks_.on_message(session_, std::move(incoming_));
    return;
  }
  // The worker has closed its side, or the connection is gone.
  absl::MutexLock lock(&mu_);
  closing_ = true;
  WriteNext();
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

std::shared_ptr<WatchStream> WatchStream::Create(std::function<void()> on_closed) {
  std::shared_ptr<WatchStream> stream(new WatchStream(std::move(on_closed)));
  stream->self_ = stream;
  return stream;
}

void WatchStream::Show(std::shared_ptr<const v1::GroupState> state) {
  absl::MutexLock lock(&mu_);
  if (closing_ || finished_) return;
  next_ = std::move(state);
  WriteNext();
}

void WatchStream::Close() {
  absl::MutexLock lock(&mu_);
  closing_ = true;
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
  Finish(grpc::Status::OK);
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
