#include "worker/exchange/nccl/nccl_epoch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/exchange/nccl/nccl_bootstrap.h"

namespace moe::exchange {
namespace {

// How often a wait for the device looks without letting the core go. Most waits are for work of
// microseconds.
constexpr int kEagerLooks = 100;
constexpr std::chrono::microseconds kPause(20);

// The shape that the control channel sees: it moves no rows, so it needs no room for them.
GroupShape ControlShape(GroupShape shape) {
  shape.max_rows = 1;
  return shape;
}

absl::Status CheckArguments(const GroupShape& shape, const NcclApi* api) {
  if (api == nullptr) return absl::InvalidArgumentError("the NCCL exchange has no NCCL");
  if (shape.max_rows < 1) return absl::InvalidArgumentError("max_rows is not positive");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclEpoch>> NcclEpoch::Create(const GroupShape& shape,
                                                             uint64_t epoch, NcclApi* api,
                                                             const NcclEpochOptions& options) {
  if (absl::Status status = CheckArguments(shape, api); !status.ok()) return status;
  auto control = TcpGroup::Create(ControlShape(shape), epoch, nullptr, options.control);
  if (!control.ok()) return control.status();
  auto id = api->MakeId();
  if (!id.ok()) return id.status();
  std::string bootstrap = MakeNcclBootstrap({.id = *id, .control = (*control)->bootstrap()});
  return std::unique_ptr<NcclEpoch>(
      new NcclEpoch(shape, 0, std::move(bootstrap), *id, *std::move(control), api, options));
}

absl::StatusOr<std::unique_ptr<NcclEpoch>> NcclEpoch::Open(std::string_view bootstrap,
                                                           const GroupShape& shape, uint64_t epoch,
                                                           int rank, NcclApi* api,
                                                           const NcclEpochOptions& options) {
  if (absl::Status status = CheckArguments(shape, api); !status.ok()) return status;
  const auto parsed = ParseNcclBootstrap(bootstrap);
  if (!parsed.ok()) return parsed.status();
  auto control =
      TcpGroup::Open(parsed->control, ControlShape(shape), epoch, rank, nullptr, options.control);
  if (!control.ok()) return control.status();
  return std::unique_ptr<NcclEpoch>(
      new NcclEpoch(shape, rank, "", parsed->id, *std::move(control), api, options));
}

NcclEpoch::NcclEpoch(const GroupShape& shape, int rank, std::string bootstrap, const NcclId& id,
                     std::unique_ptr<TcpGroup> control, NcclApi* api,
                     const NcclEpochOptions& options)
    : shape_(shape),
      rank_(rank),
      bootstrap_(std::move(bootstrap)),
      id_(id),
      api_(api),
      options_(options),
      control_(std::move(control)) {}

NcclEpoch::~NcclEpoch() {
  StopWatch();
  session_.Abort();
}

// ---- Joining

absl::Status NcclEpoch::Connect() {
  absl::Status status;
  {
    const absl::MutexLock lock(&control_mutex_);
    status = control_->Connect();
    if (status.ok()) has_control_ = true;
  }
  if (!status.ok()) return Outcome(std::move(status));
  Due(After(options_.control.join_deadline), /*is_joining=*/true);
  {
    const absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return failure_;
    is_watched_ = true;
  }
  // A rank that is alone has nobody to watch but its own GPU.
  watch_ = std::thread([this] { Watch(); });
  // An error stays in the session, where the watch sees it.
  static_cast<void>(session_.Connect(api_, id_, shape_.num_ranks, rank_));
  status = AwaitReady();
  if (!status.ok()) return status;
  Due(Clock::time_point::max(), /*is_joining=*/false);
  return absl::OkStatus();
}

// ---- Control channel

absl::Status NcclEpoch::Outcome(absl::Status status) {
  // A call that can't be is the caller's mistake and changes nothing.
  if (status.ok() || absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) {
    return status;
  }
  return Fail(std::move(status), control_->suspect());
}

absl::Status NcclEpoch::SendPlan(uint64_t step, std::string_view plan,
                                 absl::Span<const int> ranks) {
  std::vector<bool> is_named(shape_.num_ranks);
  for (const int rank : ranks) {
    if (rank >= 0 && rank < shape_.num_ranks) is_named[rank] = true;
  }
  for (int rank = 1; rank < shape_.num_ranks; ++rank) {
    if (is_named[rank]) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the plan of step ", step, " leaves out rank ", rank,
                     ": over NCCL all ranks take part in every step"));
  }
  absl::Status status;
  {
    const absl::MutexLock lock(&control_mutex_);
    status = control_->SendPlan(step, plan, ranks);
  }
  return Outcome(std::move(status));
}

absl::StatusOr<ControlChannel::ReceivedPlan> NcclEpoch::ReceivePlan() {
  if (is_in_step_) {
    return absl::FailedPreconditionError(absl::StrCat("step ", at_.step, " has not ended"));
  }
  absl::StatusOr<ReceivedPlan> plan;
  {
    const absl::MutexLock lock(&control_mutex_);
    plan = control_->ReceivePlan();
  }
  if (!plan.ok()) return Outcome(plan.status());
  return plan;
}

absl::Status NcclEpoch::SendResult(uint64_t step, std::string_view result) {
  // A result says that the rank's GPU has done its part.
  if (is_in_step_) {
    return absl::FailedPreconditionError(absl::StrCat("step ", at_.step, " has not ended"));
  }
  absl::Status status;
  {
    const absl::MutexLock lock(&control_mutex_);
    status = control_->SendResult(step, result);
  }
  return Outcome(std::move(status));
}

absl::StatusOr<std::vector<std::string>> NcclEpoch::ReceiveResults(uint64_t step,
                                                                   absl::Span<const int> ranks) {
  if (is_in_step_ && step >= at_.step) {
    return absl::FailedPreconditionError(absl::StrCat("step ", at_.step, " has not ended"));
  }
  absl::StatusOr<std::vector<std::string>> results;
  {
    const absl::MutexLock lock(&control_mutex_);
    results = control_->ReceiveResults(step, ranks);
  }
  if (!results.ok()) return Outcome(results.status());
  return results;
}

// ---- Steps

absl::Status NcclEpoch::BeginStep(uint64_t step) {
  if (absl::Status status = this->status(); !status.ok()) return status;
  if (is_in_step_ || step <= at_.step) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", step, is_in_step_ ? " within step " : " after step ", at_.step));
  }
  is_in_step_ = true;
  at_ = {.step = step, .layer = -1};
  Due(After(options_.control.step_deadline), /*is_joining=*/false);
  return absl::OkStatus();
}

absl::Status NcclEpoch::BeginLayer(int layer) {
  if (absl::Status status = this->status(); !status.ok()) return status;
  if (!is_in_step_ || layer <= at_.layer || layer >= shape_.num_layers) {
    return absl::FailedPreconditionError(absl::StrCat(
        "layer ", layer, is_in_step_ ? " after " : " outside a step, after ", LayerName(at_)));
  }
  at_.layer = layer;
  const absl::MutexLock lock(&mutex_);
  watched_at_ = at_;
  return absl::OkStatus();
}

absl::Status NcclEpoch::CheckLayer(int layer) const {
  if (absl::Status status = this->status(); !status.ok()) return status;
  if (is_in_step_ && layer >= 0 && layer < shape_.num_layers) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("layer ", layer, " of ", shape_.num_layers,
                                                    is_in_step_ ? "" : " outside a step"));
}

absl::Status NcclEpoch::EndStep() {
  if (absl::Status status = this->status(); !status.ok()) return status;
  if (!is_in_step_) return absl::FailedPreconditionError("no step has begun");
  is_in_step_ = false;
  Due(Clock::time_point::max(), /*is_joining=*/false);
  return absl::OkStatus();
}

void NcclEpoch::Due(Clock::time_point deadline, bool is_joining) {
  const absl::MutexLock lock(&mutex_);
  deadline_ = deadline;
  is_joining_ = is_joining;
  watched_at_ = at_;
}

absl::Status NcclEpoch::BeginJoin() {
  if (absl::Status status = this->status(); !status.ok()) return status;
  if (is_in_step_ || at_.step != 0) return absl::FailedPreconditionError("steps have begun");
  Due(After(options_.control.join_deadline), /*is_joining=*/true);
  return absl::OkStatus();
}

absl::Status NcclEpoch::EndJoin() {
  if (absl::Status status = this->status(); !status.ok()) return status;
  Due(Clock::time_point::max(), /*is_joining=*/false);
  return absl::OkStatus();
}

// The communicator may go on for a moment after the epoch has ended, until the watch aborts it.
absl::Status NcclEpoch::Register(void* buffer, size_t num_bytes) {
  if (absl::Status status = this->status(); !status.ok()) return status;
  absl::Status status = session_.Register(buffer, num_bytes);
  return status.ok() ? status : Fail(std::move(status));
}

absl::Status NcclEpoch::Enqueue(absl::Span<const Transfer> transfers) {
  if (absl::Status status = this->status(); !status.ok()) return status;
  absl::Status status = session_.Enqueue(transfers);
  if (absl::IsFailedPrecondition(status)) return status;
  return AwaitReady();
}

absl::Status NcclEpoch::AwaitReady() {
  return Await([this] { return session_.IsReady().value_or(false); });
}

absl::Status NcclEpoch::Await(absl::FunctionRef<absl::StatusOr<bool>()> done) {
  for (int looks = 0;; ++looks) {
    if (has_ended_.load(std::memory_order_acquire)) return status();
    const absl::StatusOr<bool> is_done = done();
    if (!is_done.ok()) return Fail(is_done.status(), rank_);
    // An abort lets the stream get to its end, too, with nothing that is worth reading.
    if (*is_done) return has_ended_.load(std::memory_order_acquire) ? status() : absl::OkStatus();
    if (looks < kEagerLooks) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(kPause);
    }
  }
}

// ---- Its end

absl::Status NcclEpoch::status() const {
  const absl::MutexLock lock(&mutex_);
  return failure_;
}

int NcclEpoch::suspect() const {
  const absl::MutexLock lock(&mutex_);
  return suspect_;
}

absl::Status NcclEpoch::Fail(absl::Status status, int suspect) {
  End(status, suspect);
  return this->status();
}

void NcclEpoch::Abort(std::string_view reason) {
  End(absl::AbortedError(absl::string_view(reason.data(), reason.size())), -1);
}

void NcclEpoch::End(const absl::Status& status, int suspect) {
  LastWords words;
  bool is_watched = false;
  {
    const absl::MutexLock lock(&mutex_);
    if (!failure_.ok()) return;
    failure_ = status;
    suspect_ = suspect;
    words = {.at = watched_at_, .suspect = suspect};
    is_watched = is_watched_;
    has_ended_.store(true, std::memory_order_release);
  }
  // Without a watch there was no step, and so there is no graph.
  if (!is_watched) session_.Abort();
  control_->Abort(std::string(status.message()));
  // The engine thread leaves the channel now, if it is in there.
  const absl::MutexLock lock(&control_mutex_);
  if (!has_control_) return;
  for (int rank = 0; rank < shape_.num_ranks; ++rank) {
    if (rank != rank_) control_->Say(rank, words);
  }
  control_->HangUp();
}

absl::Status NcclEpoch::Close() {
  if (is_in_step_) {
    return absl::FailedPreconditionError(absl::StrCat("step ", at_.step, " has not ended"));
  }
  if (absl::Status status = this->status(); !status.ok()) return status;
  // The first rank that has closed is gone for the others, which then is nobody's fault.
  StopWatch();
  absl::Status status = session_.BeginClose();
  if (!status.ok()) return Fail(std::move(status));
  const Clock::time_point deadline = After(options_.control.join_deadline);
  absl::StatusOr<bool> is_ready = false;
  status = Await([&] {
    is_ready = session_.IsReady();
    return !is_ready.ok() || *is_ready || Clock::now() >= deadline;
  });
  if (!status.ok()) return status;
  if (!is_ready.ok()) return Fail(is_ready.status());
  if (!*is_ready) {
    return Fail(absl::DeadlineExceededError("NCCL did not finalize the communicator in time"));
  }
  status = session_.FinishClose();
  return status.ok() ? status : Fail(std::move(status));
}

// ---- Watching

void NcclEpoch::StopWatch() {
  {
    const absl::MutexLock lock(&mutex_);
    stop_watch_ = true;
  }
  if (watch_.joinable()) watch_.join();
}

void NcclEpoch::TellHowFar(const WatchView& view) {
  if (rank_ == 0) return;
  const absl::MutexLock control_lock(&control_mutex_);
  {
    // The step may have ended while this waited for the channel.
    const absl::MutexLock lock(&mutex_);
    if (deadline_ != view.deadline || !failure_.ok()) return;
  }
  control_->Say(0, {.at = view.at, .is_late = true});
}

void NcclEpoch::Watch() {
  std::vector<PeerState> peers(shape_.num_ranks);
  WatchView view{.rank = rank_, .peers = peers};
  while (true) {
    {
      absl::ReleasableMutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &NcclEpoch::HasNewsForWatch),
                              options_.watch.interval);
      if (!failure_.ok()) {
        lock.Release();
        session_.Abort();
        return;
      }
      if (stop_watch_) {
        is_watched_ = false;
        return;
      }
      if (deadline_ != view.deadline) view.asked_at.reset();
      view.deadline = deadline_;
      view.is_joining = is_joining_;
      view.at = watched_at_;
    }
    for (int rank = 0; rank < shape_.num_ranks; ++rank) {
      if (rank != rank_) peers[rank] = control_->Peek(rank);
    }
    absl::Status communicator = session_.IsReady().status();
    // It is not there yet.
    if (absl::IsFailedPrecondition(communicator)) communicator = absl::OkStatus();
    view.now = Clock::now();
    if (view.communicator.ok() && !communicator.ok()) view.communicator_failed = view.now;
    view.communicator = communicator;
    const WatchVerdict verdict = Judge(view);
    switch (verdict.action) {
      case WatchVerdict::Action::kGoOn:
        break;
      case WatchVerdict::Action::kAskWhoIsLate:
        view.asked_at = view.now;
        TellHowFar(view);
        break;
      case WatchVerdict::Action::kEnd:
        End(verdict.status, verdict.suspect);
        break;
    }
  }
}

}  // namespace moe::exchange
