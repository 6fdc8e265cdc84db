// Which layout is decided, from what: no deployment, no status.
#include "controller/reconcile/auto_layout.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "controller/reconcile/planned_layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "planner/published_models.h"
#include "tests/controller/reconcile/gpu_scene.h"

namespace moe::reconcile {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

AutoLayout Decide(const api::MoEDeploymentSpec& spec, const api::ModelStatus& model,
                  const GpuInventory& gpus, const api::LayoutChoice* present = nullptr) {
  return DecideAutoLayout({.spec = &spec, .model = &model, .gpus = &gpus}, present);
}

api::LayoutDecision Decided(const AutoLayout& result) {
  EXPECT_TRUE(result.decision.has_value()) << result.reason << ": " << result.message;
  return result.decision.value_or(api::LayoutDecision());
}

TEST(PlannerShapeTest, IsThatOfThePublishedModel) {
  const auto shape = PlannerShape(Olmoe());
  ASSERT_TRUE(shape.ok()) << shape.status();
  const planner::ModelShape published = planner::Olmoe1b7b();
  EXPECT_EQ(shape->total_params(), published.total_params());
  EXPECT_EQ(shape->active_params(), published.active_params());
  EXPECT_EQ(shape->kv_bytes_per_token(), published.kv_bytes_per_token());
  EXPECT_NEAR(shape->bytes_per_weight, 2, 1e-4) << "by the tensors' index, norms included";
}

TEST(PlannerShapeTest, WhatMakesNoSenseIsSaid) {
  api::ModelStatus model = Olmoe();
  model.weight_bytes = 1000;
  EXPECT_THAT(std::string(PlannerShape(model).status().message()), HasSubstr("do not fit"));
  model = Olmoe();
  model.shape->num_kv_heads = 17;
  EXPECT_THAT(std::string(PlannerShape(model).status().message()), HasSubstr("KV heads is 17"));
  model.shape.reset();
  EXPECT_THAT(std::string(PlannerShape(model).status().message()),
              HasSubstr("older than the operator"));
}

TEST(PossibleWidthsTest, DivideTheExpertsFillPodsAndFitTheGpus) {
  const auto widths = [](int gpus_per_pod, int replicas, int num_experts, int num_gpus) {
    return PossibleWidths(AutoOnGpus(gpus_per_pod, replicas), num_experts, num_gpus);
  };
  EXPECT_THAT(widths(1, 1, 64, 100), ElementsAre(1, 2, 4, 8, 16, 32, 64));
  EXPECT_THAT(widths(1, 1, 64, 63), ElementsAre(1, 2, 4, 8, 16, 32));
  EXPECT_THAT(widths(1, 2, 64, 64), ElementsAre(1, 2, 4, 8, 16, 32));
  EXPECT_THAT(widths(8, 1, 64, 64), ElementsAre(8, 16, 32, 64));
  EXPECT_THAT(widths(8, 8, 64, 64), ElementsAre(8));
  EXPECT_THAT(widths(8, 9, 64, 64), IsEmpty());
  EXPECT_THAT(widths(8, 1, 60, 64), IsEmpty()) << "8 does not divide any part of 60";
  EXPECT_THAT(widths(4, 1, 60, 64), ElementsAre(4, 12, 20, 60));
  EXPECT_THAT(widths(1, 0, 4, 64), ElementsAre(1, 2, 4)) << "scaled to zero counts as one";
  EXPECT_THAT(widths(1, 64, 64, 1 << 20), ElementsAre(1, 2, 4, 8, 16, 32))
      << "2,048 workers of one MoEDeployment";
}

TEST(AutoLayoutTest, OnCpusThereIsOneWorkerForEachExpertAndItSaysWhy) {
  struct Case {
    const char* name;
    void (*change)(api::MoEDeploymentSpec*, api::ModelStatus*);
    int expert;
    int attention_ranks;
    const char* because;
  };
  const std::vector<Case> cases = {
      {"as it is", [](api::MoEDeploymentSpec*, api::ModelStatus*) {}, 64, 1,
       "one worker for each of the 64 experts: there are no figures, since the planner knows no "
       "CPUs"},
      {"attention ranks are the user's",
       [](api::MoEDeploymentSpec* spec, api::ModelStatus*) {
         spec->parallelism.attention_ranks = 4;
       },
       64, 4, "one worker for each"},
      {"replicated attention is on all",
       [](api::MoEDeploymentSpec* spec, api::ModelStatus*) {
         spec->parallelism.attention = api::Attention::kReplicated;
       },
       64, 64, "one worker for each"},
      {"a report without a shape is enough",
       [](api::MoEDeploymentSpec*, api::ModelStatus* model) { model->shape.reset(); }, 64, 1,
       "one worker for each"},
      {"more experts than workers of a group",
       [](api::MoEDeploymentSpec*, api::ModelStatus* model) { model->num_experts = 2048; }, 1024, 1,
       "1024 workers for 2048 experts, as many as"},
      {"more workers than one deployment may have",
       [](api::MoEDeploymentSpec* spec, api::ModelStatus*) { spec->replicas = 64; }, 32, 1,
       "32 workers for 64 experts, as many as"},
      {"pods of several",
       [](api::MoEDeploymentSpec* spec, api::ModelStatus* model) {
         spec->worker.gpus_per_pod = 8;
         model->num_experts = 48;
       },
       48, 1, "one worker for each of the 48 experts"},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    api::MoEDeploymentSpec spec = AutoOnGpus(1);
    spec.backend = api::Backend::kCpu;
    api::ModelStatus model = Olmoe();
    test_case.change(&spec, &model);
    const api::LayoutDecision decision =
        Decided(DecideAutoLayout({.spec = &spec, .model = &model, .gpus = nullptr}, nullptr));
    EXPECT_EQ(decision.choice.expert, test_case.expert);
    EXPECT_EQ(decision.choice.attention_ranks, test_case.attention_ranks);
    EXPECT_THAT(decision.because, HasSubstr(test_case.because));
    EXPECT_EQ(decision.basis, kCpuRule);
    EXPECT_FALSE(decision.choice.figures.has_value());
    EXPECT_THAT(decision.alternatives, IsEmpty());
    EXPECT_FALSE(decision.plain_replicas.has_value());
    EXPECT_EQ(decision.choice.num_gpus, 0);
  }
}

TEST(AutoLayoutTest, WithoutALayoutItSaysWhatIsMissing) {
  struct Case {
    const char* name;
    void (*change)(api::MoEDeploymentSpec*, api::ModelStatus*, GpuInventory*);
    bool failed;
    const char* reason;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"no GPUs",
       [](auto*, auto*, GpuInventory* gpus) {
         *gpus = H100Nodes(0);
         gpus->left_out = {{"cordoned", 2}};
       },
       false, "NoGpus",
       "nvidia.com/gpu.product and the resource nvidia.com/gpu; 2 nodes with GPUs not counted: 2 "
       "cordoned"},
      {"two kinds of GPUs",
       [](auto*, auto*, GpuInventory* gpus) {
         gpus->pools.push_back({.product = "NVIDIA-L40S", .nodes_by_gpus = {{4, 2}}});
       },
       false, "GpusOfSeveralKinds",
       "64 x NVIDIA-H100-80GB-HBM3 on 8 nodes, 8 x NVIDIA-L40S on 2 nodes; write a nodeSelector "
       "for nvidia.com/gpu.product into worker.podTemplate"},
      {"fewer GPUs than groups need", [](auto* spec, auto*, auto*) { spec->replicas = 9; }, false,
       "NotEnoughGpus",
       "9 groups of pods of 8 GPUs can't be made of 64 x NVIDIA-H100-80GB-HBM3 on 8 nodes, of "
       "which such pods can use 64"},
      {"fewer GPUs than groups with spares need",
       [](auto* spec, auto*, auto*) {
         spec->replicas = 5;
         spec->worker.spares = 1;
       },
       false, "NotEnoughGpus",
       "5 groups of pods of 8 GPUs, each with 1 spare, can't be made of 64 x "
       "NVIDIA-H100-80GB-HBM3 on 8 nodes, of which such pods can use 64; lower replicas, "
       "worker.spares or worker.gpusPerPod, or add nodes"},
      {"pods that no node has room for",
       [](auto*, auto*, GpuInventory* gpus) { *gpus = H100Nodes(16, 4); }, false, "NotEnoughGpus",
       "of which such pods can use 0"},
      {"pods that can't be filled", [](auto* spec, auto*, auto*) { spec->worker.gpus_per_pod = 3; },
       true, "InvalidLayout",
       "64 workers can't be put into pods of 3; write a worker.gpusPerPod that divides 64"},
      {"a model that is too large",
       [](auto*, api::ModelStatus* model, GpuInventory* gpus) {
         *gpus = H100Nodes(1);
         model->shape->intermediate *= 60;
         model->weight_bytes *= 57;
       },
       false, "ModelDoesNotFit", "no layout that can be made fits: EP8_TP1_PP1_DP1: "},
      {"more attention ranks than the GPUs that there are",
       [](auto* spec, auto*, GpuInventory* gpus) {
         *gpus = H100Nodes(1);
         spec->parallelism.attention_ranks = 16;
       },
       false, "ModelDoesNotFit", "attentionRanks is 16, and groups can have 8 workers"},
      {"no model", [](auto*, api::ModelStatus* model, auto*) { model->num_experts = 0; }, true,
       "InvalidLayout", "nothing can be made of the model"},
  };
  for (const Case& test_case : cases) {
    SCOPED_TRACE(test_case.name);
    api::MoEDeploymentSpec spec = AutoOnGpus();
    api::ModelStatus model = Olmoe();
    GpuInventory gpus = H100Nodes(8);
    test_case.change(&spec, &model, &gpus);
    const AutoLayout result = Decide(spec, model, gpus);
    EXPECT_FALSE(result.decision.has_value());
    EXPECT_EQ(result.failed, test_case.failed);
    EXPECT_EQ(result.reason, test_case.reason);
    EXPECT_THAT(result.message, HasSubstr(test_case.message));
  }
  const api::MoEDeploymentSpec spec = AutoOnGpus();
  const api::ModelStatus model = Olmoe();
  const AutoLayout unknown =
      DecideAutoLayout({.spec = &spec, .model = &model, .gpus = nullptr}, nullptr);
  EXPECT_EQ(unknown.reason, "NodesNotKnown");
  EXPECT_THAT(unknown.message, HasSubstr("the right to list and watch nodes"));
}

TEST(AutoLayoutTest, AnUnknownGpuOrShapeGetsTheWidestGroupAndNoFigures) {
  struct Case {
    const char* name;
    void (*change)(api::ModelStatus*, GpuInventory*);
    const char* basis;
    const char* because;
  };
  for (const Case& test_case : {Case{"a GPU that the planner does not know",
                                     [](api::ModelStatus*, GpuInventory* gpus) {
                                       gpus->pools[0].product = "NVIDIA-X1";
                                       gpus->pools[0].device.reset();
                                     },
                                     kUnknownGpu, "the planner does not know NVIDIA-X1"},
                                Case{"an image that tells no shape",
                                     [](api::ModelStatus* model, GpuInventory*) {
                                       model->shape.reset();
                                       model->shape_missing = true;
                                     },
                                     kUnknownShape, "does not tell its shape"}}) {
    SCOPED_TRACE(test_case.name);
    api::ModelStatus model = Olmoe();
    GpuInventory gpus = H100Nodes(4);
    test_case.change(&model, &gpus);
    const api::LayoutDecision decision = Decided(Decide(AutoOnGpus(), model, gpus));
    EXPECT_EQ(decision.choice.layout, "EP32_TP1_PP1_DP1");
    EXPECT_EQ(decision.choice.attention_ranks, 32);
    EXPECT_EQ(decision.choice.num_gpus, 32);
    EXPECT_FALSE(decision.choice.figures.has_value());
    EXPECT_FALSE(decision.plain_replicas.has_value());
    EXPECT_EQ(decision.basis, test_case.basis);
    EXPECT_THAT(decision.because, HasSubstr("32 workers for 64 experts, as many as"));
    EXPECT_THAT(decision.because, HasSubstr(test_case.because));
    EXPECT_THAT(decision.gpus, HasSubstr("32 x "));
  }
}

TEST(AutoLayoutTest, PodsOfANodesGpusKeepTheExchangeOnNvlink) {
  const api::LayoutDecision decision = Decided(Decide(AutoOnGpus(), Olmoe(), H100Nodes(8)));
  EXPECT_EQ(decision.basis, kPlanned);
  EXPECT_EQ(decision.choice.expert, 8) << decision.choice.layout;
  EXPECT_EQ(decision.choice.num_gpus, 8);
  EXPECT_EQ(decision.gpus, "64 x NVIDIA-H100-80GB-HBM3 on 8 nodes");
  EXPECT_THAT(decision.assumptions, HasSubstr("64 sequences in flight in each of 1 groups"));
  EXPECT_THAT(decision.assumptions, HasSubstr("400 Gb/s"));
  EXPECT_THAT(decision.assumptions, HasSubstr("NVLink among 8 GPUs"));
  ASSERT_TRUE(decision.choice.figures.has_value());
  const api::LayoutFigures& figures = *decision.choice.figures;
  EXPECT_EQ(figures.sequences, 64);
  EXPECT_GT(figures.pass_milliseconds, 1);
  EXPECT_LT(figures.pass_milliseconds, 4);
  EXPECT_NEAR(figures.tokens_per_second, 64 / figures.pass_milliseconds * 1e3, 100);
  EXPECT_GT(figures.gpu_memory_bytes, 13838323712 / 8);
  EXPECT_FALSE(figures.limited_by.empty());
}

TEST(AutoLayoutTest, PodsOfOneGpuAreToldWhatPodsOfMoreWouldReach) {
  const api::LayoutDecision decision = Decided(Decide(AutoOnGpus(1), Olmoe(), H100Nodes(8)));
  EXPECT_THAT(decision.assumptions, HasSubstr("no NVLink between pods of one GPU"));
  std::vector<std::string> needs;
  for (const api::LayoutChoice& alternative : decision.alternatives) {
    needs.push_back(alternative.needs);
    ASSERT_TRUE(alternative.figures.has_value());
  }
  EXPECT_THAT(needs, testing::Contains("worker.gpusPerPod: 8"));
}

TEST(AutoLayoutTest, ThreeAlternativesOfWhichOneAtMostIsNotBuilt) {
  for (const int gpus_per_pod : {1, 2, 8}) {
    SCOPED_TRACE(gpus_per_pod);
    const api::LayoutDecision decision =
        Decided(Decide(AutoOnGpus(gpus_per_pod), Olmoe(), H100Nodes(8)));
    ASSERT_THAT(decision.alternatives, SizeIs(api::kMaxAlternatives));
    std::set<std::pair<std::string, std::string>> seen = {{decision.choice.layout, ""}};
    int num_not_built = 0;
    double requests = 1e9;
    for (const api::LayoutChoice& alternative : decision.alternatives) {
      EXPECT_TRUE(seen.insert({alternative.layout, alternative.needs}).second)
          << alternative.layout;
      num_not_built += alternative.needs.find("(not built)") != std::string::npos ? 1 : 0;
      EXPECT_LE(alternative.figures->requests_per_second, requests) << "the best first";
      requests = alternative.figures->requests_per_second;
      EXPECT_LE(alternative.num_gpus, 64);
    }
    EXPECT_EQ(num_not_built, 1);
    EXPECT_THAT(decision.choice.needs, IsEmpty()) << "what is chosen can be made";
  }
}

TEST(AutoLayoutTest, TheSpecBindsAttention) {
  api::MoEDeploymentSpec spec = AutoOnGpus();
  spec.parallelism.attention_ranks = 2;
  EXPECT_EQ(Decided(Decide(spec, Olmoe(), H100Nodes(8))).choice.attention_ranks, 2);
  spec = AutoOnGpus();
  spec.parallelism.attention = api::Attention::kReplicated;
  api::LayoutDecision decision = Decided(Decide(spec, Olmoe(), H100Nodes(8)));
  EXPECT_TRUE(decision.choice.replicated_attention);
  EXPECT_EQ(decision.choice.attention_ranks, decision.choice.expert);
  EXPECT_THAT(decision.choice.layout, HasSubstr("+replicated"));
  spec.parallelism.attention = api::Attention::kSharded;
  decision = Decided(Decide(spec, Olmoe(), H100Nodes(8)));
  EXPECT_FALSE(decision.choice.replicated_attention);
}

TEST(AutoLayoutTest, ReplicasShareTheGpus) {
  const api::LayoutDecision decision = Decided(Decide(AutoOnGpus(8, 8), Olmoe(), H100Nodes(8)));
  EXPECT_EQ(decision.choice.expert, 8);
  EXPECT_EQ(decision.choice.num_gpus, 64);
  EXPECT_THAT(decision.choice.layout, HasSubstr("_DP1")) << "of one group: replicas come and go";
  const api::LayoutDecision one = Decided(Decide(AutoOnGpus(8, 1), Olmoe(), H100Nodes(8)));
  EXPECT_NEAR(decision.choice.figures->requests_per_second,
              8 * one.choice.figures->requests_per_second, 0.1);
}

TEST(AutoLayoutTest, ALargeModelIsSpreadAsFarAsItsMemoryAsks) {
  api::ModelStatus model = Olmoe();
  model.shape->intermediate *= 20;  // about 265 GB
  model.weight_bytes = 264e9;
  const api::LayoutDecision decision = Decided(Decide(AutoOnGpus(1), model, H100Nodes(8)));
  EXPECT_GE(decision.choice.expert, 4);
  EXPECT_LT(decision.choice.figures->gpu_memory_bytes, 80e9);
  ASSERT_TRUE(decision.plain_replicas.has_value());
  EXPECT_FALSE(decision.plain_replicas->better);
  EXPECT_FALSE(decision.plain_replicas->figures.has_value());
  EXPECT_THAT(decision.plain_replicas->reason, HasSubstr("GB"));
}

TEST(AutoLayoutTest, ShortModelsAreJudgedByShorterRequests) {
  api::ModelStatus model = Olmoe();
  model.shape->max_positions = 100;
  EXPECT_THAT(Decided(Decide(AutoOnGpus(), model, H100Nodes(8))).assumptions,
              HasSubstr("of 80 input and 20 output tokens"));
  api::MoEDeploymentSpec spec = AutoOnGpus();
  spec.engine.max_context = 50;
  EXPECT_THAT(Decided(Decide(spec, Olmoe(), H100Nodes(8))).assumptions,
              HasSubstr("of 40 input and 10 output tokens"));
}

TEST(AutoLayoutTest, SaysWhetherPlainReplicasWouldServeBetter) {
  // Across pods of one GPU each layer waits for the network twice.
  const api::LayoutDecision apart = Decided(Decide(AutoOnGpus(1), Olmoe(), H100Nodes(1)));
  ASSERT_TRUE(apart.plain_replicas.has_value());
  EXPECT_GT(apart.choice.expert, 1);
  EXPECT_TRUE(apart.plain_replicas->better);
  EXPECT_EQ(apart.plain_replicas->replicas, apart.choice.num_gpus);
  EXPECT_GT(apart.plain_replicas->figures->requests_per_second,
            apart.choice.figures->requests_per_second * kWorthwhile);
  // On one GPU there is nothing else.
  const api::LayoutDecision one = Decided(Decide(AutoOnGpus(1), Olmoe(), H100Nodes(1, 1)));
  EXPECT_EQ(one.choice.layout, "EP1_TP1_PP1_DP1");
  EXPECT_FALSE(one.plain_replicas->better);
  EXPECT_THAT(one.plain_replicas->reason, HasSubstr("these are plain replicas"));
}

TEST(AutoLayoutTest, ThePresentLayoutIsGivenUpOnlyForWhatIsWorthIt) {
  api::MoEDeploymentSpec spec = AutoOnGpus();
  spec.engine.max_sequences = 8;
  const api::LayoutDecision best = Decided(Decide(spec, Olmoe(), H100Nodes(8)));
  ASSERT_EQ(best.choice.layout, "EP8_TP1_PP1_DP1");
  struct Case {
    const char* name;
    int expert;
    int attention_ranks;
    bool kept;
  };
  for (const Case& test_case :
       {Case{"the best itself", 8, 8, true}, Case{"2% fewer requests", 8, 4, true},
        Case{"7% fewer requests", 8, 2, false},
        Case{"half of the requests, with the network between nodes", 64, 64, false},
        Case{"a layout that can't be made", 7, 7, false}}) {
    SCOPED_TRACE(test_case.name);
    const api::LayoutChoice present{.expert = test_case.expert,
                                    .attention_ranks = test_case.attention_ranks};
    const api::LayoutDecision decision = Decided(Decide(spec, Olmoe(), H100Nodes(8), &present));
    EXPECT_TRUE(SameLayout(decision.choice, test_case.kept ? present : best.choice));
    const bool is_best = SameLayout(decision.choice, best.choice);
    EXPECT_THAT(decision.because, HasSubstr(is_best ? "it completes the most requests of"
                                                    : "completes 5% more requests"));
  }
}

}  // namespace
}  // namespace moe::reconcile
