// MoEDeployment (moe-operator.dev/v1alpha1) as the controller sees it: typed, defaults filled in.
// The CRD in deploy/crds says the same to the API server; its validation is what users meet first.
// Values, with no rules of their own. From JSON: parse.h, status_json.h.
//
// Tested by tests/controller/api/moe_deployment_test.cc.
#ifndef MOE_CONTROLLER_API_MOE_DEPLOYMENT_H_
#define MOE_CONTROLLER_API_MOE_DEPLOYMENT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "controller/api/layout_decision.h"
#include "nlohmann/json.hpp"

namespace moe::api {

enum class Backend { kCpu, kCuda };
enum class Attention { kAuto, kSharded, kReplicated };
enum class Exchange { kAuto, kTcp, kNccl };

struct ModelSpec {
  std::string name;  // what clients call it
  std::string uri;   // pvc://CLAIM/PATH or file:///PATH

  friend bool operator==(const ModelSpec&, const ModelSpec&) = default;
};

struct ParallelismSpec {
  bool automatic = false;  // mode: Auto; status.decision then has the layout
  int expert = 0;
  int tensor = 1;    // more than 1 is not built
  int pipeline = 1;  // more than 1 is not built
  Attention attention = Attention::kAuto;
  std::optional<int> attention_ranks;
  Exchange exchange = Exchange::kAuto;

  friend bool operator==(const ParallelismSpec&, const ParallelismSpec&) = default;
};

struct EngineSpec {
  int max_sequences = 64;
  int max_step_tokens = 512;
  int max_queue = 256;
  int max_context = 0;  // 0: the model's
  uint64_t kv_cache_bytes = uint64_t{1} << 30;
  double step_deadline_seconds = 10;

  friend bool operator==(const EngineSpec&, const EngineSpec&) = default;
};

struct WorkerSpec {
  int gpus_per_pod = 1;             // worker processes of a pod; divides a group's workers
  bool nvlink_across_pods = false;  // experimental
  int spares = 0;                   // pods of a group beyond those that its workers need
  int expert_copies = 1;
  absl::Duration gang_timeout = absl::Minutes(10);
  nlohmann::json pod_template;  // PodTemplateSpec, merged by controller/manifests; may be null

  friend bool operator==(const WorkerSpec&, const WorkerSpec&) = default;
};

struct GatewaySpec {
  int replicas = 2;
  absl::Duration max_hold = absl::Seconds(60);
  std::string api_key_secret_name;  // empty: no key
  std::string api_key_secret_key = "api-key";
  nlohmann::json pod_template;

  friend bool operator==(const GatewaySpec&, const GatewaySpec&) = default;
};

struct IngressSpec {
  std::string host;
  std::string class_name;
  std::string tls_secret_name;
  std::map<std::string, std::string> annotations;

  friend bool operator==(const IngressSpec&, const IngressSpec&) = default;
};

// A count or a percentage of replicas, resolved with Resolve().
struct IntOrPercent {
  int value = 0;
  bool percent = false;
  // Percentages round up if `round_up`, else down. Never below 0.
  int Resolve(int total, bool round_up) const;

  friend bool operator==(const IntOrPercent&, const IntOrPercent&) = default;
};

struct UpdateStrategySpec {
  IntOrPercent max_unavailable{0, false};
  IntOrPercent max_surge{1, false};

  friend bool operator==(const UpdateStrategySpec&, const UpdateStrategySpec&) = default;
};

struct MoEDeploymentSpec {
  ModelSpec model;
  int replicas = 1;  // groups
  ParallelismSpec parallelism;
  Backend backend = Backend::kCpu;
  EngineSpec engine;
  WorkerSpec worker;
  GatewaySpec gateway;
  std::optional<IngressSpec> ingress;
  UpdateStrategySpec update_strategy;
  absl::Duration progress_deadline = absl::Seconds(1800);

  friend bool operator==(const MoEDeploymentSpec&, const MoEDeploymentSpec&) = default;
};

struct Condition {
  std::string type;
  std::string status;  // True, False, Unknown
  std::string reason;  // CamelCase, never empty
  std::string message;
  absl::Time last_transition;
  int64_t observed_generation = 0;

  friend bool operator==(const Condition&, const Condition&) = default;
};

// What a layout is planned from, beside the counts of ModelStatus.
struct ModelShapeStatus {
  int hidden = 0;
  int intermediate = 0;  // of one expert
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  int vocab_size = 0;
  int max_positions = 0;
  bool tied_embeddings = false;

  friend bool operator==(const ModelShapeStatus&, const ModelShapeStatus&) = default;
};

// What is known of the model's files, from the inspect pod.
struct ModelStatus {
  std::string uri;  // of which this was read
  int num_layers = 0;
  int num_experts = 0;
  int top_k = 0;
  uint64_t weight_bytes = 0;
  // Empty: read by an operator that did not ask for it, or `shape_missing`: by a worker image that
  // does not tell it.
  std::optional<ModelShapeStatus> shape = {};
  bool shape_missing = false;

  friend bool operator==(const ModelStatus&, const ModelStatus&) = default;
};

// What the coordinator of a group must know of it. Kept for as long as a group of the revision
// exists, since the spec may be another one by then.
struct RevisionStatus {
  std::string name;
  int num_slots = 0;     // workers of a group
  int gpus_per_pod = 1;  // of these in each pod
  int num_layers = 0;
  int num_experts = 0;
  int attention_ranks = 1;
  bool replicated_attention = false;
  EngineSpec engine;
  Backend backend = Backend::kCpu;

  friend bool operator==(const RevisionStatus&, const RevisionStatus&) = default;
};

struct RankStatus {
  int rank = 0;
  std::string pod;
  std::optional<int> process;  // of the pod; empty: it has one alone
  std::string node;
  std::string experts;  // "5" or "0-7"
  std::string phase;    // Pending, Starting, Loading, Joining, Active, Failed

  friend bool operator==(const RankStatus&, const RankStatus&) = default;
};

struct GroupStatus {
  int index = 0;
  std::string revision;
  std::string
      phase;  // Scheduling, Starting, Loading, Connecting, Active, Recovering, Draining, Failed
  std::string reason;
  uint64_t epoch = 0;  // the highest ever claimed for this group
  bool active = false;
  // By slot of pods, the incarnation of the newest pod that may exist for each; -1: none was ever
  // created. Written before the pod is.
  std::vector<int> incarnations;
  // By rank, the slot of its pod: each slot gpus_per_pod times, side by side. Slots that are not
  // here hold spare pods. Empty until the gang was scheduled for the first time.
  std::vector<int> slot_of_rank;
  // Spare pods that could take over; empty: the group has no spares, or no ranks yet.
  std::optional<int> ready_spares;
  int gang_attempts = 0;  // gangs given up because they were not scheduled in time
  absl::Time gang_since = absl::InfinitePast();     // when the present gang's gates went
  absl::Time gang_retry_at = absl::InfinitePast();  // no new gang before this
  absl::Time draining_since =
      absl::InfinitePast();       // once it is to be removed; there is no way back
  std::vector<RankStatus> ranks;  // for people; left out where it would make the status too large
  int ranks_left_out = 0;         // counted by StatusToJson (status_json.h)

  friend bool operator==(const GroupStatus&, const GroupStatus&) = default;
};

struct FailureStatus {
  std::string pod;
  int group = 0;
  int slot = 0;
  int rank = -1;  // the first of its pod; the log names the process
  std::string node;
  std::optional<int> exit_code;
  std::string reason;    // OOMKilled, Error, Evicted, ...
  std::string last_log;  // at most 2 KiB
  absl::Time at = absl::InfinitePast();

  friend bool operator==(const FailureStatus&, const FailureStatus&) = default;
};

// A worker's GPU was lost.
struct GpuFailureStatus {
  std::string pod;
  std::string node;
  absl::Time at = absl::InfinitePast();

  friend bool operator==(const GpuFailureStatus&, const GpuFailureStatus&) = default;
};

// When the first group reached each step after creation or the last change of the spec.
struct StartupStatus {
  absl::Time started = absl::InfinitePast();
  absl::Time scheduled = absl::InfinitePast();
  absl::Time images_pulled = absl::InfinitePast();
  absl::Time weights_loaded = absl::InfinitePast();
  absl::Time communicator = absl::InfinitePast();
  absl::Time first_token = absl::InfinitePast();

  friend bool operator==(const StartupStatus&, const StartupStatus&) = default;
};

struct ExpertLoadStatus {
  uint64_t tokens = 0;
  double max_over_mean = 0;
  std::string hottest;  // "2 (2.4%), 24 (2.2%)"
  std::string coldest;
  absl::Time at = absl::InfinitePast();

  friend bool operator==(const ExpertLoadStatus&, const ExpertLoadStatus&) = default;
};

struct MoEDeploymentStatus {
  int64_t observed_generation = 0;
  std::string strategy;  // EP64_TP1_PP1_DP1
  uint64_t term = 0;
  int replicas = 0;                       // groups that exist
  int ready_replicas = 0;                 // groups that are active
  int updated_replicas = 0;               // of the present revision
  std::string revision;                   // the present one
  std::vector<RevisionStatus> revisions;  // the present one and those of groups
  std::string worker_image;               // pinned: an upgrade of the operator does not change it
  std::string gateway_image;
  std::string workers;  // "64/64", for the printer column
  uint64_t epoch = 0;   // of the group with the lowest index
  std::string url;
  std::string hpa_pod_selector;
  std::optional<ModelStatus> model;
  std::optional<LayoutDecision> decision;  // of mode: Auto
  std::vector<GroupStatus> groups;
  // Of groups that were removed, so that a later one repeats neither a pod's name nor an epoch.
  int next_incarnation = 0;                       // of a new group's pods
  uint64_t removed_epoch = 0;                     // the highest
  absl::Time progress_at = absl::InfinitePast();  // the last step towards the spec
  std::optional<FailureStatus> last_failure;
  std::vector<GpuFailureStatus> gpu_failures;  // of the last day, the oldest first
  std::optional<StartupStatus> startup;
  std::optional<ExpertLoadStatus> expert_load;
  std::vector<Condition> conditions;

  friend bool operator==(const MoEDeploymentStatus&, const MoEDeploymentStatus&) = default;
};

struct MoEDeployment {
  std::string ns;
  std::string name;
  std::string uid;
  std::string resource_version;
  int64_t generation = 0;
  bool deleting = false;
  bool paused = false;  // annotation moe-operator.dev/paused: "true"
  // Annotation moe-operator.dev/adopt-layout: a proposal of mode: Auto that is to be taken.
  std::string adopt_layout;
  absl::Time created_at;
  MoEDeploymentSpec spec;
  MoEDeploymentStatus status;
};

// EP64_TP1_PP1_DP1: experts over 64 workers, one tensor and pipeline part, `replicas` groups.
std::string StrategyString(int expert, int tensor, int pipeline, int replicas);

}  // namespace moe::api

#endif  // MOE_CONTROLLER_API_MOE_DEPLOYMENT_H_
