// The coordinator over TLS: who may do what with which certificate (fault 50), and the whole way
// from a token to an active group.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "controller/coordinator/certifier.h"
#include "controller/coordinator/file_epoch_store.h"
#include "controller/coordinator/server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "identity/credentials.h"
#include "identity/enrollment.h"
#include "proto/coordinator.grpc.pb.h"
#include "runtime/pod_runtime.h"
#include "tests/identity/test_authority.h"
#include "worker/membership/membership.h"

namespace moe::coordinator {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(90);
constexpr char kGroup[] = "ns/a/0";

// Tokens are "ROLE:UID" of deployment ns/a.
class FakeAuthenticator : public Authenticator {
 public:
  absl::StatusOr<PodIdentity> Review(std::string_view token) override {
    const size_t colon = token.find(':');
    if (colon == std::string_view::npos) return absl::UnauthenticatedError("a bad token");
    return PodIdentity{.ns = "ns",
                       .deployment = "a",
                       .role = token.substr(0, colon) == "worker" ? identity::Role::kWorker
                                                                  : identity::Role::kGateway,
                       .pod_uid = std::string(token.substr(colon + 1)),
                       .pod_ip = "127.0.0.1"};
  }
};

// A worker that answers everything at once.
class EagerWorker : public membership::MembershipHandler {
 public:
  EagerWorker(const std::string& coordinator, const std::string& uid,
              const identity::IdentityFiles& files) {
    membership::MembershipOptions options;
    options.coordinator_address = coordinator;
    options.credentials = identity::MakeChannelCredentials(files);
    options.group = kGroup;
    options.worker_id = uid;
    options.numerics_id = "cpu-1";
    options.engine_address = "10.0.0.1:7710";
    options.heartbeat_interval = absl::Milliseconds(200);
    absl::MutexLock lock(&mu_);
    membership_ = *membership::Membership::Start(options, this);
  }
  ~EagerWorker() override { membership_->Stop(absl::ZeroDuration()); }

  void OnAssign(const v1::GroupSpec& /*spec*/, int slot) override {
    absl::MutexLock lock(&mu_);
    slot_ = slot;
    membership_->SendLoaded(v1::Loaded());
  }
  void OnPrepare(uint64_t epoch, const std::vector<membership::EpochMember>& /*m*/) override {
    absl::MutexLock lock(&mu_);
    membership_->SendPrepared(epoch, slot_ == 0 ? "secret" : "");
  }
  void OnJoin(uint64_t epoch, const std::string& /*bootstrap*/) override {
    absl::MutexLock lock(&mu_);
    membership_->SendJoined(epoch);
  }
  void OnActivate(uint64_t /*epoch*/) override {}
  void OnAbort(uint64_t /*epoch*/, const std::string& /*reason*/) override {}
  void OnDismiss(const std::string& reason) override { ADD_FAILURE() << reason; }
  void OnConnectionState(bool /*connected*/) override {}
  v1::Heartbeat MakeHeartbeat() override { return {}; }

 private:
  absl::Mutex mu_;
  int slot_ ABSL_GUARDED_BY(mu_) = -1;
  std::unique_ptr<membership::Membership> membership_;
};

class SecureServerTest : public ::testing::Test {
 protected:
  SecureServerTest()
      : certifier_({}, &authenticator_, authority_.authority()), runtime_({0, 1}, [] {}) {
    ServerOptions options;
    options.listen_address = "127.0.0.1:0";
    options.credentials = identity::MakeServerCredentials(authority_.IssueServer(),
                                                          identity::PeerCertificate::kOptional);
    options.certifier = &certifier_;
    server_ = *CoordinatorServer::Start(std::move(options));
  }

  void AddGroup() {
    GroupOptions group;
    group.placement = *PlaceInBlocks(4, 2);
    group.num_layers = 1;
    group.retry_unknown_workers = true;
    ASSERT_EQ(server_->AddGroup(kGroup, std::move(group),
                                *FileEpochStore::Open(authority_.folder() + "/term"), &runtime_,
                                [this](const v1::GroupState& state) {
                                  absl::MutexLock lock(&mu_);
                                  state_ = state;
                                }),
              absl::OkStatus());
    server_->ShowDeployment("ns/a");
  }
  static runtime::WorkerPod Pod(int slot, const std::string& uid, int incarnation = 1) {
    return {.slot = slot,
            .incarnation = incarnation,
            .uid = uid,
            .ended = false,
            .description = "",
            .last_lines = ""};
  }
  bool WaitActive(uint64_t above = 0) {
    absl::MutexLock lock(&mu_);
    const auto active = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return state_.phase() == v1::GroupState::ACTIVE && state_.epoch() > above;
    };
    return mu_.AwaitWithTimeout(absl::Condition(&active), kPatience);
  }

  std::shared_ptr<grpc::ChannelCredentials> Peer(const std::string& uri, bool expired = false) {
    return identity::MakeChannelCredentials(authority_.IssuePeer(uri, expired));
  }
  std::unique_ptr<v1::Coordinator::Stub> Stub(
      const std::shared_ptr<grpc::ChannelCredentials>& credentials) const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    return v1::Coordinator::NewStub(
        grpc::CreateCustomChannel(server_->address(), credentials, arguments));
  }
  // What a session ends with.
  grpc::Status EndOfSession(const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                            const std::string& group, const std::string& worker_id) const {
    const auto stub = Stub(credentials);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    const auto stream = stub->Session(&context);
    v1::WorkerMessage message;
    message.mutable_hello()->set_group(group);
    message.mutable_hello()->set_worker_id(worker_id);
    message.mutable_hello()->set_numerics_id("cpu-1");
    stream->Write(message);
    v1::ControllerMessage answer;
    while (stream->Read(&answer)) {
    }
    return stream->Finish();
  }
  // OK if the first states came.
  grpc::StatusCode Watch(const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                         const std::string& deployment) const {
    const auto stub = Stub(credentials);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    v1::WatchGroupsRequest request;
    request.set_deployment(deployment);
    const auto reader = stub->WatchGroups(&context, request);
    v1::GroupStates states;
    const bool came = reader->Read(&states);
    if (!came) return reader->Finish().error_code();
    context.TryCancel();
    while (reader->Read(&states)) {
    }
    reader->Finish();
    return grpc::StatusCode::OK;
  }

  identity::TestAuthority authority_;
  identity::TestAuthority other_authority_;
  FakeAuthenticator authenticator_;
  Certifier certifier_;
  runtime::PodRuntime runtime_;
  absl::Mutex mu_;
  v1::GroupState state_ ABSL_GUARDED_BY(mu_);
  std::unique_ptr<CoordinatorServer> server_;
};

TEST_F(SecureServerTest, OnlyTheRightCertificateOpensASession) {
  AddGroup();
  const auto anonymous = identity::MakeAnonymousChannelCredentials(authority_.ca_file());
  identity::IdentityFiles foreign = other_authority_.IssuePeer("moe://ns/a/worker/pod-1");
  foreign.authority = authority_.ca_file();
  struct Case {
    const char* what;
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    const char* group;
    const char* worker_id;
    grpc::StatusCode code;
  };
  const auto worker = Peer("moe://ns/a/worker/pod-1");
  for (const Case& c : std::vector<Case>{
           {"no certificate", anonymous, kGroup, "pod-1", grpc::StatusCode::UNAUTHENTICATED},
           {"plaintext", grpc::InsecureChannelCredentials(), kGroup, "pod-1",
            grpc::StatusCode::UNAVAILABLE},
           {"another authority's", identity::MakeChannelCredentials(foreign), kGroup, "pod-1",
            grpc::StatusCode::UNAVAILABLE},
           {"expired", Peer("moe://ns/a/worker/pod-1", /*expired=*/true), kGroup, "pod-1",
            grpc::StatusCode::UNAVAILABLE},
           {"a name that is not ours", Peer("https://ns/a/worker/pod-1"), kGroup, "pod-1",
            grpc::StatusCode::UNAUTHENTICATED},
           {"a gateway's", Peer("moe://ns/a/gateway/pod-1"), kGroup, "pod-1",
            grpc::StatusCode::PERMISSION_DENIED},
           {"another pod's", worker, kGroup, "pod-2", grpc::StatusCode::PERMISSION_DENIED},
           {"a process of another pod", worker, kGroup, "pod-2/0",
            grpc::StatusCode::PERMISSION_DENIED},
           {"what is no process of its pod", worker, kGroup, "pod-1/x",
            grpc::StatusCode::PERMISSION_DENIED},
           {"another deployment's group", worker, "ns/b/0", "pod-1",
            grpc::StatusCode::PERMISSION_DENIED},
           {"another namespace's worker", Peer("moe://other/a/worker/pod-1"), kGroup, "pod-1",
            grpc::StatusCode::PERMISSION_DENIED},
           {"no group", worker, "", "pod-1", grpc::StatusCode::PERMISSION_DENIED},
           // Those that may come and are asked to try again.
           {"one of several processes of its pod", worker, kGroup, "pod-1/3",
            grpc::StatusCode::UNAVAILABLE},
           {"a group that is not led yet", worker, "ns/a/7", "pod-1",
            grpc::StatusCode::UNAVAILABLE},
           {"a pod that is not known yet", worker, kGroup, "pod-1",
            grpc::StatusCode::UNAVAILABLE}}) {
    const grpc::Status status = EndOfSession(c.credentials, c.group, c.worker_id);
    EXPECT_EQ(status.error_code(), c.code) << c.what << ": " << status.error_message();
  }
}

TEST_F(SecureServerTest, AWatcherSeesItsOwnDeploymentOnly) {
  AddGroup();
  EXPECT_EQ(Watch(Peer("moe://ns/a/gateway/pod-9"), "ns/a"), grpc::StatusCode::OK);
  EXPECT_EQ(Watch(Peer("moe://ns/a/worker/pod-1"), "ns/a"), grpc::StatusCode::OK);
  EXPECT_EQ(Watch(Peer("moe://ns/a/gateway/pod-9"), "ns/b"), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Watch(Peer("moe://ns/a/gateway/pod-9"), ""), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Watch(Peer("moe://ns/b/gateway/pod-9"), "ns/a"), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_EQ(Watch(identity::MakeAnonymousChannelCredentials(authority_.ca_file()), "ns/a"),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(SecureServerTest, PodsEnrollJoinAreReplacedAndSurviveANewController) {
  // The pods come before their group and before they are known; they try again until they are.
  std::vector<std::unique_ptr<identity::Enrollment>> enrollments;
  std::vector<std::unique_ptr<EagerWorker>> workers;
  const auto start_pod = [&](const std::string& uid) {
    const std::string token_file = absl::StrCat(authority_.folder(), "/token-", uid);
    ASSERT_TRUE(identity::WritePrivateFile(token_file, "worker:" + uid).ok());
    enrollments.push_back(*identity::Enrollment::Start(
        {.coordinator = server_->address(),
         .token_file = token_file,
         .ca_file = authority_.ca_file(),
         .identity_dir = absl::StrCat(authority_.folder(), "/pod-", uid)}));
    ASSERT_TRUE(enrollments.back()->WaitForCertificate());
    workers.push_back(
        std::make_unique<EagerWorker>(server_->address(), uid, enrollments.back()->files()));
  };
  start_pod("pod-a");
  start_pod("pod-b");
  AddGroup();
  runtime_.Observe({Pod(0, "pod-a"), Pod(1, "pod-b")});
  ASSERT_TRUE(WaitActive());
  const v1::GroupState first = *server_->State(kGroup);
  EXPECT_EQ(first.workers(0).worker_id(), "pod-a");
  EXPECT_EQ(first.workers(1).worker_id(), "pod-b");

  // A pod is deleted; another one of its slot takes its rank.
  workers[1].reset();
  runtime_.Observe({Pod(0, "pod-a")});
  start_pod("pod-c");
  runtime_.Observe({Pod(0, "pod-a"), Pod(1, "pod-c", 2)});
  ASSERT_TRUE(WaitActive(first.epoch()));
  const v1::GroupState second = *server_->State(kGroup);
  EXPECT_EQ(second.workers(1).worker_id(), "pod-c");
  EXPECT_EQ(second.workers(1).num_failures(), 1u);

  // Another controller finds pods and epoch as they are.
  server_->RemoveGroup(kGroup);
  runtime::PodRuntime next_runtime({0, 1}, [] {});
  next_runtime.Observe({Pod(0, "pod-a"), Pod(1, "pod-c", 2)});
  GroupOptions group;
  group.placement = *PlaceInBlocks(4, 2);
  group.num_layers = 1;
  group.retry_unknown_workers = true;
  {
    absl::MutexLock lock(&mu_);
    state_.Clear();
  }
  ASSERT_EQ(server_->AddGroup(kGroup, std::move(group),
                              *FileEpochStore::Open(authority_.folder() + "/term"), &next_runtime,
                              [this](const v1::GroupState& state) {
                                absl::MutexLock lock(&mu_);
                                state_ = state;
                              }),
            absl::OkStatus());
  ASSERT_TRUE(WaitActive());
  EXPECT_EQ(server_->State(kGroup)->epoch(), second.epoch());
  EXPECT_EQ(server_->State(kGroup)->term(), second.term() + 1);
  EXPECT_TRUE(next_runtime.WantedSlots().empty());
  server_.reset();
}

TEST_F(SecureServerTest, ABadTokenBuysNothing) {
  const auto stub = Stub(identity::MakeAnonymousChannelCredentials(authority_.ca_file()));
  grpc::ClientContext context;
  v1::CertifyRequest request;
  request.set_token("nonsense");
  request.set_signing_request(*identity::KeyPair::Generate()->SigningRequest());
  v1::CertifyReply reply;
  EXPECT_EQ(stub->Certify(&context, request, &reply).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_TRUE(reply.certificate_chain_pem().empty());
}

TEST_F(SecureServerTest, WhoDoesNotLeadCertifiesNobody) {
  server_->SetLeading(false, "10.0.0.9:7700");
  const auto stub = Stub(identity::MakeAnonymousChannelCredentials(authority_.ca_file()));
  grpc::ClientContext context;
  v1::CertifyRequest request;
  request.set_token("worker:pod-1");
  request.set_signing_request(*identity::KeyPair::Generate()->SigningRequest());
  v1::CertifyReply reply;
  EXPECT_EQ(stub->Certify(&context, request, &reply).error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto& trailing = context.GetServerTrailingMetadata();
  const auto found = trailing.find("moe-leader");
  ASSERT_NE(found, trailing.end());
  EXPECT_EQ(std::string(found->second.data(), found->second.size()), "10.0.0.9:7700");
}

}  // namespace
}  // namespace moe::coordinator
