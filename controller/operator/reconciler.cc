#include "controller/operator/reconciler.h"

#include <algorithm>
#include <set>
#include <utility>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "controller/api/conditions.h"
#include "controller/kube/answer.h"
#include "controller/kube/resource_types.h"
#include "controller/manifests/children.h"
#include "controller/manifests/names.h"
#include "controller/operator/observe.h"
#include "controller/operator/observe_nodes.h"
#include "controller/operator/pod_state.h"
#include "controller/operator/status_pace.h"
#include "spdlog/spdlog.h"

namespace moe::controller {
namespace {

using kube::Json;
using kube::ObjectKey;

// For so long a pod that was created counts as there without asking, though the cache lacks it.
constexpr absl::Duration kCacheLag = absl::Seconds(10);
// Whose object can't be understood: somebody has to change it first.
constexpr absl::Duration kUnreadableRetry = absl::Minutes(5);
constexpr absl::Duration kReleasePoll = absl::Seconds(1);
constexpr absl::Duration kShortGrace = absl::Seconds(1);

std::string Name(const ObjectKey& key) { return absl::StrCat(key.ns, "/", key.name); }

// The group whose gang a plan puts in flight.
std::optional<int> GangStarted(const reconcile::Plan& plan, const reconcile::Observed& observed) {
  for (const reconcile::Action& action : plan.actions) {
    const auto* write = std::get_if<reconcile::WriteStatus>(&action);
    if (write == nullptr) continue;
    api::MoEDeployment next = observed.deployment;
    next.status = write->status;
    return reconcile::GangInFlight(next);
  }
  return std::nullopt;
}

}  // namespace

Reconciler::Reconciler(Parts parts, ReconcilerOptions options)
    : parts_(std::move(parts)),
      options_(std::move(options)),
      groups_(parts_.server, parts_.api, parts_.metrics,
              {.changed = [this](const ObjectKey& key) { parts_.queue->Add(key); },
               .written =
                   [this](Json object) {
                     parts_.caches->Learn(kube::kMoeDeployments, std::move(object));
                   }}),
      executor_(parts_.api, &groups_,
                {.leads = parts_.leads,
                 .written = [this](const kube::ResourceType& type,
                                   Json object) { parts_.caches->Learn(type, std::move(object)); },
                 .event = [this](const api::MoEDeployment& deployment,
                                 const reconcile::Event& event) { Record(deployment, event); }}) {}

Reconciler::~Reconciler() {
  parts_.queue->ShutDown();
  for (std::thread& thread : threads_) thread.join();
}

void Reconciler::Start() {
  for (int i = 0; i < options_.num_threads; ++i) threads_.emplace_back([this] { Work(); });
}

void Reconciler::Begin() {
  {
    absl::MutexLock lock(&mu_);
    states_.clear();
    led_ = true;
  }
  gangs_.Clear();
  // Gangs that the controller before this one has begun hold everybody else's turn.
  for (const Caches::Object& object : parts_.caches->List(kube::kMoeDeployments)) {
    const absl::StatusOr<api::ParsedDeployment> parsed = api::ParseMoEDeployment(*object);
    if (!parsed.ok()) continue;
    gangs_.Observe(kube::KeyOf(*object), reconcile::GangInFlight(parsed->deployment));
  }
  QueueAll();
}

void Reconciler::End() {
  {
    absl::MutexLock lock(&mu_);
    led_ = false;
    const auto idle = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return num_rounds_ == 0; };
    mu_.Await(absl::Condition(&idle));
    states_.clear();
  }
  groups_.Clear();
  gangs_.Clear();
  parts_.metrics->ForgetAll();
}

void Reconciler::QueueAll() {
  std::set<ObjectKey> keys;
  for (const Caches::Object& object : parts_.caches->List(kube::kMoeDeployments)) {
    keys.insert(kube::KeyOf(*object));
  }
  // Deployments that went while nobody led.
  for (const Caches::Object& pod : parts_.caches->List(kube::kPods)) {
    const std::string owner = manifests::LabelOf(*pod, manifests::kLabelDeployment);
    if (!owner.empty()) keys.insert({kube::KeyOf(*pod).ns, owner});
  }
  for (const ObjectKey& key : keys) parts_.queue->Add(key);
}

void Reconciler::Work() {
  while (const std::optional<ObjectKey> key = parts_.queue->Get()) {
    bool led = false;
    {
      absl::MutexLock lock(&mu_);
      led = led_;
      num_rounds_ += led ? 1 : 0;
    }
    if (led) {
      const absl::Time begin = absl::Now();
      const absl::StatusOr<absl::Duration> again = Reconcile(*key);
      parts_.metrics->CountReconcile(absl::Now() - begin, again.ok());
      if (again.ok()) {
        parts_.queue->Forget(*key);
        if (*again < absl::InfiniteDuration()) parts_.queue->AddAfter(*key, *again);
      } else {
        // A conflict is ordinary: somebody wrote in between, and it is decided anew.
        const auto level =
            absl::IsAborted(again.status()) ? spdlog::level::debug : spdlog::level::warn;
        spdlog::log(level, "{}: {}", Name(*key), std::string(again.status().message()));
        // A server that says when to come back is obeyed.
        if (const std::optional<absl::Duration> pause = kube::RetryAfter(again.status())) {
          parts_.queue->AddAfter(*key, *pause);
        } else {
          parts_.queue->AddFailed(*key);
        }
      }
      absl::MutexLock lock(&mu_);
      --num_rounds_;
    }
    parts_.queue->Done(*key);
  }
}

Reconciler::StatePtr Reconciler::StateOf(const ObjectKey& key, const std::string& uid) {
  StatePtr state;
  {
    absl::MutexLock lock(&mu_);
    const auto found = states_.find(key);
    if (found != states_.end()) state = found->second;
  }
  if (state != nullptr && state->uid == uid) return state;
  // The first time, or another deployment of the same name.
  if (state != nullptr) groups_.StopAll(key);
  state = std::make_shared<State>();
  state->uid = uid;
  absl::MutexLock lock(&mu_);
  states_[key] = state;
  return state;
}

void Reconciler::DismissOthers(const ObjectKey& key, const std::string& uid,
                               KnownPods* known) const {
  std::set<std::string> others;
  for (const Caches::Object& object : parts_.caches->Owned(kube::kPods, key)) {
    const KnownPod& pod = known->Of(object);
    if (pod.component != manifests::kWorker || pod.ended || !pod.terminating) continue;
    if (uid.empty() || pod.controller_uid != uid) others.insert(pod.uid);
  }
  parts_.server->SetDismissed(Name(key), std::move(others));
}

absl::StatusOr<absl::Duration> Reconciler::Reconcile(const ObjectKey& key) {
  Round round;
  round.key = key;
  round.object = parts_.caches->Get(kube::kMoeDeployments, key);
  if (round.object == nullptr) return Release(key);
  const absl::StatusOr<api::ParsedDeployment> parsed = api::ParseMoEDeployment(*round.object);
  if (!parsed.ok()) {
    // Its status tells which pods and epochs were claimed: without it nothing may be done.
    spdlog::error("{} is left alone: {}", Name(key), std::string(parsed.status().message()));
    return kUnreadableRetry;
  }
  const StatePtr state = StateOf(key, parsed->deployment.uid);
  DismissOthers(key, parsed->deployment.uid, &state->known);
  Observe(*parsed, state.get(), &round);
  if (round.going) return absl::AbortedError("it is gone, and the cache does not know yet");
  reconcile::Plan plan = Decide(&round);
  const absl::Duration held_back = HoldBackProgress(
      round.observed.deployment.status, state->status_written_at, round.observed.now, &plan);
  Outcome outcome = executor_.Carry(plan, round.execution);
  absl::Status status = outcome.status;
  const bool acted = outcome.acted;
  absl::Status children_status = outcome.children_status.value_or(absl::OkStatus());
  Remember(round, std::move(outcome), state.get());
  if (!status.ok()) return status;
  ShowIfComplete(round);
  // Tried again with backoff; what else was done is seen when it changes something.
  if (!children_status.ok()) return children_status;
  // What follows from what was just done.
  if (acted) return absl::ZeroDuration();
  if (absl::Status noted = executor_.NoteRanks(round.execution); !noted.ok()) return noted;
  return std::min(plan.requeue_after, held_back);
}

std::vector<const KnownPod*> Reconciler::PodsOf(const Round& round, State* state) const {
  const std::string uid = kube::MetadataString(*round.object, "uid");
  std::vector<const KnownPod*> pods;
  std::set<absl::string_view> names;
  for (const Caches::Object& object : parts_.caches->Owned(kube::kPods, round.key)) {
    const KnownPod& pod = state->known.Of(object);
    // Gateways belong to a ReplicaSet; everything else that is not this deployment's is one of an
    // earlier deployment of the same name.
    if (pod.component != manifests::kGateway && pod.controller_uid != uid) continue;
    if (!state->created.empty()) names.insert(pod.name);
    pods.push_back(&pod);
  }
  const absl::Time now = round.observed.now;
  for (auto it = state->created.begin(); it != state->created.end();) {
    auto& [pod, at] = it->second;
    bool gone = names.contains(it->first);
    if (!gone && now - at > kCacheLag) {
      // The watch is behind, or the pod was gone before it showed. A pod that is taken for gone is
      // replaced, so the server is asked.
      absl::StatusOr<Json> present = parts_.api->Get(kube::kPods, {round.key.ns, it->first});
      gone = absl::IsNotFound(present.status()) || (present.ok() && !OwnedBy(*present, uid));
      if (!gone && present.ok()) pod = std::make_shared<const Json>(*std::move(present));
      at = now;
    }
    if (gone) {
      it = state->created.erase(it);
    } else {
      pods.push_back(&state->known.Of(pod));
      ++it;
    }
  }
  state->known.Sweep();
  return pods;
}

bool Reconciler::IsGoing(const Round& round, State* state) const {
  std::set<std::string> leaving;
  bool any_new = false;
  for (const reconcile::ObservedPod& pod : round.observed.pods) {
    if (!pod.terminating || state->deleted.contains(pod.uid)) continue;
    leaving.insert(pod.uid);
    any_new = any_new || !state->leaving.contains(pod.uid);
  }
  if (any_new && !round.observed.deployment.deleting) {
    const absl::StatusOr<Json> present = parts_.api->Get(kube::kMoeDeployments, round.key);
    if (absl::IsNotFound(present.status())) return true;
    if (present.ok() && (IsTerminating(*present) ||
                         kube::MetadataString(*present, "uid") != round.observed.deployment.uid)) {
      return true;
    }
    // A server that does not answer has deleted no deployment either, as far as anybody knows.
  }
  state->leaving = std::move(leaving);
  return false;
}

void Reconciler::CountEnds(const std::vector<const KnownPod*>& pods, State* state) const {
  std::set<std::string> ended;
  for (const KnownPod* pod : pods) {
    if (pod->component != manifests::kWorker || !pod->ended) continue;
    ended.insert(pod->uid);
    if (state->ended.contains(pod->uid)) continue;
    if (const std::optional<absl::Time> end = EndOfPod(*pod->object)) {
      parts_.metrics->AddRecovery(RecoveryPhase::kDetect,
                                  std::max(absl::Now() - *end, absl::ZeroDuration()));
    }
  }
  state->ended = std::move(ended);
}

void Reconciler::Observe(const api::ParsedDeployment& parsed, State* state, Round* round) {
  reconcile::Observed& observed = round->observed;
  observed.now = absl::Now();
  observed.deployment = parsed.deployment;
  observed.spec_status = parsed.spec_status;
  observed.term = state->term;
  observed.worker_image = parsed.deployment.spec.backend == api::Backend::kCuda
                              ? options_.cuda_worker_image
                              : options_.context.worker_image;
  observed.gateway_image = options_.context.gateway_image;

  const std::vector<const KnownPod*> pods = PodsOf(*round, state);
  std::vector<Caches::Object> gateways;
  Caches::Object inspection;
  std::set<std::string> deleted;
  observed.pods.reserve(pods.size());
  for (const KnownPod* pod : pods) {
    if (pod->component == manifests::kGateway) gateways.push_back(pod->object);
    if (pod->component == manifests::kInspect) inspection = pod->object;
    const bool deleted_before = state->deleted.contains(pod->uid);
    if (deleted_before) deleted.insert(pod->uid);
    if (pod->worker.has_value()) {
      reconcile::ObservedPod& worker = observed.pods.emplace_back(*pod->worker);
      worker.terminating = worker.terminating || deleted_before;
    }
  }
  state->deleted = std::move(deleted);
  CountEnds(pods, state);
  if (IsGoing(*round, state)) {
    round->going = true;
    return;
  }
  // A deployment that is being deleted has its pods serve until its gateways have drained.
  if (!observed.deployment.deleting) {
    groups_.ObservePods(round->key, observed.pods, observed.deployment.status);
  }
  observed.groups = groups_.Observe(round->key);
  observed.expert_load = groups_.ExpertLoad(round->key, observed.now);
  observed.inspection = ObserveInspection(inspection.get());
  if (state->deleted.contains(observed.inspection.uid)) observed.inspection.terminating = true;
  const Caches::Object gateway = parts_.caches->Get(
      kube::kDeployments, {round->key.ns, manifests::GatewayName(round->key.name)});
  observed.gateway = ObserveGateway(gateway.get(), gateways);
  const api::MoEDeploymentSpec& spec = observed.deployment.spec;
  if (observed.spec_status.ok() && spec.parallelism.automatic &&
      spec.backend == api::Backend::kCuda) {
    if (const auto nodes = parts_.caches->GpuNodes()) {
      observed.gpus =
          ObserveGpus(*nodes, spec.worker.pod_template, options_.devices, options_.network);
    }
  }
  observed.children_status = state->children_status;
  observed.last_create_error = state->last_create_error;

  Execution& execution = round->execution;
  execution.object = round->object;
  execution.observed = &observed;
  execution.applied = &state->applied;
  execution.context = options_.context;
  execution.context.worker_image = observed.worker_image;
  const api::MoEDeploymentStatus& status = observed.deployment.status;
  if (!status.worker_image.empty()) execution.context.worker_image = status.worker_image;
  if (!status.gateway_image.empty()) execution.context.gateway_image = status.gateway_image;
  execution.find_pod = [this, ns = round->key.ns](const std::string& name) {
    return parts_.caches->Get(kube::kPods, {ns, name});
  };
  CompareChildren(state, round);
}

void Reconciler::CompareChildren(State* state, Round* round) const {
  reconcile::Observed& observed = round->observed;
  observed.children_current = true;
  if (!observed.spec_status.ok()) return;
  std::vector<api::MoEDeployment> others;
  for (const Caches::Object& object : parts_.caches->List(kube::kMoeDeployments, round->key.ns)) {
    if (IsTerminating(*object)) continue;
    api::MoEDeployment other;
    other.name = kube::MetadataString(*object, "name");
    other.uid = kube::MetadataString(*object, "uid");
    others.push_back(std::move(other));
  }
  std::vector<const api::MoEDeployment*> owners;
  owners.reserve(others.size());
  for (const api::MoEDeployment& other : others) owners.push_back(&other);
  std::vector<manifests::Child> desired = {
      manifests::CaBundle(round->key.ns, owners, options_.context.ca_bundle_pem)};
  for (manifests::Child& child :
       manifests::Children(observed.deployment, round->execution.context)) {
    desired.push_back(std::move(child));
  }
  std::vector<AppliedChildren::Live> owned;
  for (const kube::ResourceType& type : manifests::ChildTypes()) {
    for (Caches::Object& object : parts_.caches->Owned(type, round->key)) {
      if (OwnedBy(*object, observed.deployment.uid)) owned.push_back({type, std::move(object)});
    }
  }
  round->execution.children = state->applied.Compare(
      desired,
      [this](const kube::ResourceType& type, const ObjectKey& key) {
        return parts_.caches->Get(type, key);
      },
      owned, observed.now);
  observed.children_current = round->execution.children.empty();
}

reconcile::Plan Reconciler::Decide(Round* round) {
  reconcile::Observed& observed = round->observed;
  if (gangs_.Observe(round->key, reconcile::GangInFlight(observed.deployment))) QueueAll();
  observed.gang_turn_wanted = gangs_.OthersWait(round->key);
  while (true) {
    observed.other_gang_in_flight = gangs_.OtherInFlight(round->key);
    reconcile::Plan plan = reconcile::DecidePlan(observed);
    const std::optional<int> gang = GangStarted(plan, observed);
    // Another deployment's may have begun since; then this one's waits, which is another plan.
    if (gang.has_value() && !gangs_.TryStart(round->key, *gang)) continue;
    if (gangs_.SetWaiting(round->key, plan.waits_for_turn)) QueueAll();
    return plan;
  }
}

void Reconciler::Remember(const Round& round, Outcome outcome, State* state) {
  if (outcome.term.has_value()) state->term = *outcome.term;
  if (outcome.status_written.has_value()) state->status_written_at = absl::Now();
  if (outcome.children_status.has_value()) state->children_status = *outcome.children_status;
  if (outcome.create_status.has_value()) {
    state->last_create_error = std::string(outcome.create_status->message());
  }
  for (Json& pod : outcome.created) {
    std::string name = kube::MetadataString(pod, "name");
    state->created[std::move(name)] = {std::make_shared<const Json>(std::move(pod)), absl::Now()};
  }
  state->deleted.insert(outcome.deleted.begin(), outcome.deleted.end());
  api::MoEDeployment deployment = round.observed.deployment;
  if (outcome.status_written.has_value()) deployment.status = *outcome.status_written;
  // A turn that was taken and not written is given back.
  if (gangs_.Observe(round.key, reconcile::GangInFlight(deployment))) QueueAll();
  parts_.metrics->SetReady(round.key, api::IsTrue(deployment.status.conditions, "Ready"));
}

void Reconciler::ShowIfComplete(const Round& round) {
  const api::MoEDeployment& deployment = round.observed.deployment;
  if (round.observed.term == 0 || deployment.status.term != round.observed.term) return;
  for (const api::GroupStatus& group : deployment.status.groups) {
    if (group.slot_of_rank.empty() || group.phase == "Failed") continue;
    if (!groups_.Has(round.key, group.index)) return;
  }
  parts_.server->ShowDeployment(Name(round.key));
}

absl::Duration Reconciler::Release(const ObjectKey& key) {
  std::vector<Caches::Object> workers;
  bool orphaned = false;
  for (Caches::Object& pod : parts_.caches->Owned(kube::kPods, key)) {
    if (IsComponent(*pod, manifests::kGateway) && !HasEnded(*pod)) return kReleasePoll;
    if (!IsComponent(*pod, manifests::kWorker) || HasEnded(*pod)) continue;
    if (!IsTerminating(*pod)) {
      // The garbage collector has not come by yet. It never will where it took the owner away: a
      // pod that was orphaned on purpose.
      const auto& metadata = (*pod)["metadata"];
      if (metadata.contains("ownerReferences") && !metadata["ownerReferences"].empty()) {
        return kReleasePoll;
      }
      orphaned = true;
    }
    if (GraceOf(*pod) > kShortGrace) workers.push_back(std::move(pod));
  }
  parts_.server->HideDeployment(Name(key));
  // A worker that is told to go by its coordinator goes at once. Its node may not do as much: while
  // it waits for a grace period, a shorter one does not reach it.
  if (!orphaned) groups_.StopAll(key);
  groups_.Remove(key);
  KnownPods known;
  DismissOthers(key, /*uid=*/"", &known);
  parts_.metrics->Forget(key);
  gangs_.SetWaiting(key, false);
  if (gangs_.Observe(key, std::nullopt)) QueueAll();
  bool first = false;
  {
    absl::MutexLock lock(&mu_);
    first = states_.erase(key) > 0;
  }
  for (const Caches::Object& worker : workers) {
    if (!parts_.leads()) break;
    kube::DeleteOptions options;
    options.uid = kube::MetadataString(*worker, "uid");
    options.grace = kShortGrace;
    const absl::Status status = parts_.api->Delete(kube::kPods, kube::KeyOf(*worker), options);
    if (!status.ok() && !absl::IsNotFound(status)) {
      spdlog::warn("{}: {}", Name(key), std::string(status.message()));
    }
  }
  if (first) spdlog::info("{} is gone", Name(key));
  return absl::InfiniteDuration();
}

void Reconciler::Record(const api::MoEDeployment& deployment, const reconcile::Event& event) const {
  kube::Event record;
  record.type = kube::kMoeDeployments;
  record.key = {deployment.ns, deployment.name};
  record.uid = deployment.uid;
  record.warning = event.warning;
  record.reason = event.reason;
  record.action = "Reconcile";
  record.note = event.message;
  parts_.events->Record(std::move(record));
}

}  // namespace moe::controller
