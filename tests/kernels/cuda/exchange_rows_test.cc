// Tests kernels/cuda/exchange_rows.h against plain loops.
#include "kernels/cuda/exchange_rows.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>

#include "tests/kernels/cuda/gpu_test.h"

namespace moe::kernels::cuda {
namespace {

constexpr BFloat16 kUntouched = {0xffff};

// A group of ranks and what its sources chose.
struct Layer {
  int num_ranks = 1;
  int num_experts = 1;
  int top_k = 1;
  int stride = 1;
  std::vector<int32_t> rank_of_expert;
  std::vector<int32_t> local_of_expert;
  std::vector<int32_t> num_rows;  // [num_ranks]
  std::vector<int32_t> ids;       // [num_ranks, stride, top_k]

  int num_local(int rank) const {
    return static_cast<int>(std::count(rank_of_expert.begin(), rank_of_expert.end(), rank));
  }
  const int32_t* row(int source, int t) const {
    return ids.data() + (int64_t{source} * stride + t) * top_k;
  }
  // The j's of a row's experts at a rank.
  std::vector<int> at(int source, int t, int holder) const {
    std::vector<int> js;
    for (int j = 0; j < top_k; ++j) {
      if (rank_of_expert[row(source, t)[j]] == holder) js.push_back(j);
    }
    return js;
  }
};

enum class Routing { kRandom, kAllToOneExpert, kNoneToRankZero };

Layer MakeLayer(int num_ranks, int num_experts, int top_k, int max_rows, Routing routing,
                std::mt19937& random) {
  Layer layer{.num_ranks = num_ranks,
              .num_experts = num_experts,
              .top_k = top_k,
              .stride = max_rows,
              .rank_of_expert = {},
              .local_of_expert = {},
              .num_rows = {},
              .ids = {}};
  std::map<int, int> held;
  for (int e = 0; e < num_experts; ++e) {
    layer.rank_of_expert.push_back(static_cast<int32_t>(random() % num_ranks));
    layer.local_of_expert.push_back(held[layer.rank_of_expert.back()]++);
  }
  for (int s = 0; s < num_ranks; ++s) {
    const int rows = static_cast<int>(random() % (max_rows + 2)) - 1;  // often 0
    layer.num_rows.push_back(std::max(rows, 0));
    for (int t = 0; t < max_rows; ++t) {
      std::vector<int32_t> all(num_experts);
      std::iota(all.begin(), all.end(), 0);
      std::shuffle(all.begin(), all.end(), random);
      if (routing == Routing::kNoneToRankZero) {
        std::stable_partition(all.begin(), all.end(),
                              [&](int32_t e) { return layer.rank_of_expert[e] != 0; });
      }
      if (routing == Routing::kAllToOneExpert) {
        std::iter_swap(all.begin(), std::find(all.begin(), all.end(), num_experts / 2));
      }
      std::sort(all.begin(), all.begin() + top_k);
      // Routes behind the last row are there, too, and count for nothing.
      layer.ids.insert(layer.ids.end(), all.begin(), all.begin() + top_k);
    }
  }
  return layer;
}

class CudaExchangeRowsTest : public GpuTest {
 protected:
  // A layer on the device, as all of its ranks see it.
  struct OnDevice {
    device::DeviceBuffer<int32_t> ids;
    device::DeviceBuffer<int32_t> num_rows;
    device::DeviceBuffer<int32_t> rank_of_expert;
    device::DeviceBuffer<int32_t> local_of_expert;
    Layer layer;

    Routes all() const {
      return {.expert_ids = ids.data(),
              .num_rows = num_rows.data(),
              .num_sources = layer.num_ranks,
              .stride = layer.stride,
              .top_k = layer.top_k};
    }
    Routes of(int source) const {
      return {.expert_ids = ids.data() + int64_t{source} * layer.stride * layer.top_k,
              .num_rows = num_rows.data() + source,
              .num_sources = 1,
              .stride = layer.stride,
              .top_k = layer.top_k};
    }
    Holders holders() const {
      return {.rank_of_expert = rank_of_expert.data(),
              .local_of_expert = local_of_expert.data(),
              .num_experts = layer.num_experts};
    }
  };
  OnDevice ToDevice(const Layer& layer) {
    return {Upload(layer.ids), Upload(layer.num_rows), Upload(layer.rank_of_expert),
            Upload(layer.local_of_expert), layer};
  }

  struct Places {
    device::DeviceBuffer<int32_t> rows_before, pairs_before, row_bounds, pair_bounds;
    CompactPlaces view() const {
      return {rows_before.data(), pairs_before.data(), row_bounds.data(), pair_bounds.data()};
    }
  };
  Places MakePlaces(int num_groups, int stride) {
    return {Allocate<int32_t>(int64_t{num_groups} * stride),
            Allocate<int32_t>(int64_t{num_groups} * stride), Allocate<int32_t>(num_groups + 1),
            Allocate<int32_t>(num_groups + 1)};
  }
  device::DeviceBuffer<int32_t> Scratch(int64_t num_items) {
    return Allocate<int32_t>(ExchangeScratchSize(num_items));
  }
  Places Incoming(const OnDevice& on, int holder) {
    Places places = MakePlaces(on.layer.num_ranks, on.layer.stride);
    const auto scratch = Scratch(int64_t{on.layer.num_ranks} * on.layer.stride);
    Check(CountIncoming(gpu(), on.all(), on.holders(), holder, scratch.data(), places.view()));
    return places;
  }
  Places Outgoing(const OnDevice& on, int source) {
    Places places = MakePlaces(on.layer.num_ranks, on.layer.stride);
    const auto scratch = Scratch(int64_t{on.layer.num_ranks} * on.layer.stride);
    Check(CountOutgoing(gpu(), on.of(source), on.holders(), on.layer.num_ranks, scratch.data(),
                        places.view()));
    return places;
  }
  // Calls body with layers of many kinds.
  void ForLayers(const std::function<void(const Layer&)>& body) {
    std::mt19937 random(4);
    for (const Routing routing :
         {Routing::kRandom, Routing::kAllToOneExpert, Routing::kNoneToRankZero}) {
      for (const auto& [num_ranks, num_experts, top_k, max_rows] :
           std::vector<std::array<int, 4>>{{1, 1, 1, 1},
                                           {1, 8, 3, 7},
                                           {2, 5, 5, 300},
                                           {3, 16, 2, 9},
                                           {5, 9, 8, 33},
                                           {8, 64, 8, 5},
                                           {64, 64, 4, 3}}) {
        SCOPED_TRACE(std::to_string(num_ranks) + " ranks, top " + std::to_string(top_k));
        body(MakeLayer(num_ranks, num_experts, top_k, max_rows, routing, random));
      }
    }
  }
};

TEST_F(CudaExchangeRowsTest, CompactPlacesAreThoseOfPlainLoops) {
  ForLayers([&](const Layer& layer) {
    const OnDevice on = ToDevice(layer);
    for (const int rank : {0, layer.num_ranks - 1}) {
      for (const bool incoming : {true, false}) {
        const Places places = incoming ? Incoming(on, rank) : Outgoing(on, rank);
        std::vector<int32_t> rows_before, pairs_before;
        std::vector<int32_t> row_bounds = {0}, pair_bounds = {0};
        int32_t rows = 0;
        int32_t pairs = 0;
        for (int group = 0; group < layer.num_ranks; ++group) {
          const int source = incoming ? group : rank;
          const int holder = incoming ? rank : group;
          for (int t = 0; t < layer.stride; ++t) {
            rows_before.push_back(rows);
            pairs_before.push_back(pairs);
            if (t >= layer.num_rows[source]) continue;
            const auto num_pairs = static_cast<int32_t>(layer.at(source, t, holder).size());
            rows += num_pairs > 0 ? 1 : 0;
            pairs += num_pairs;
          }
          row_bounds.push_back(rows);
          pair_bounds.push_back(pairs);
        }
        ASSERT_EQ(Download(places.rows_before), rows_before);
        ASSERT_EQ(Download(places.pairs_before), pairs_before);
        ASSERT_EQ(Download(places.row_bounds), row_bounds);
        ASSERT_EQ(Download(places.pair_bounds), pair_bounds);
      }
    }
  });
}

TEST_F(CudaExchangeRowsTest, PairsAreSortedByExpertThenByRow) {
  ForLayers([&](const Layer& layer) {
    const OnDevice on = ToDevice(layer);
    for (const int rank : {0, layer.num_ranks / 2}) {
      const int num_local = layer.num_local(rank);
      if (num_local == 0) continue;
      const Places incoming = Incoming(on, rank);
      const std::vector<int32_t> rows_before = Download(incoming.rows_before);
      const std::vector<int32_t> pairs_before = Download(incoming.pairs_before);
      for (const bool compact : {false, true}) {
        const int slots = std::min(layer.top_k, num_local);
        std::vector<int32_t> expected_offsets = {0};
        std::vector<std::pair<int32_t, int32_t>> expected;
        for (int local = 0; local < num_local; ++local) {
          for (int g = 0; g < layer.num_ranks * layer.stride; ++g) {
            const int source = g / layer.stride;
            const int t = g % layer.stride;
            if (t >= layer.num_rows[source]) continue;
            const std::vector<int> js = layer.at(source, t, rank);
            for (int i = 0; i < static_cast<int>(js.size()); ++i) {
              if (layer.local_of_expert[layer.row(source, t)[js[i]]] != local) continue;
              expected.emplace_back(compact ? rows_before[g] : g,
                                    (compact ? pairs_before[g] : g * slots) + i);
            }
          }
          expected_offsets.push_back(static_cast<int32_t>(expected.size()));
        }
        const auto offsets = Allocate<int32_t>(num_local + 1);
        const auto rows = Allocate<ExpertRow>(static_cast<int64_t>(expected.size()));
        const auto scratch = Scratch(int64_t{num_local} * layer.num_ranks * layer.stride);
        const IncomingPlaces places = {
            .rows_before = compact ? incoming.rows_before.data() : nullptr,
            .pairs_before = compact ? incoming.pairs_before.data() : nullptr,
            .slots = slots};
        Check(SortIncoming(gpu(), on.all(), on.holders(), rank, num_local, places, scratch.data(),
                           offsets.data(), rows.data()));
        ASSERT_EQ(Download(offsets), expected_offsets);
        const std::vector<ExpertRow> sorted = Download(rows);
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_EQ(sorted[i].x_row, expected[i].first) << i;
          ASSERT_EQ(sorted[i].out_row, expected[i].second) << i;
        }
      }
    }
  });
}

TEST_F(CudaExchangeRowsTest, EachRowIsPackedOnceForEachRankThatNeedsIt) {
  std::mt19937 random(5);
  for (const int hidden : {1, 8, 37, 272}) {
    const Layer layer = MakeLayer(3, 12, 4, 11, Routing::kRandom, random);
    const OnDevice on = ToDevice(layer);
    const int self = 1;
    const std::vector<BFloat16> rows = RandomBf16(int64_t{layer.stride} * hidden, random);
    const Places outgoing = Outgoing(on, self);
    const Places incoming = Incoming(on, self);
    const std::vector<int32_t> bounds = Download(outgoing.row_bounds);
    const std::vector<int32_t> in_bounds = Download(incoming.row_bounds);
    std::vector<BFloat16> packed(int64_t{bounds.back()} * hidden, kUntouched);
    std::vector<BFloat16> received(int64_t{in_bounds.back()} * hidden, kUntouched);
    for (int holder = 0; holder < layer.num_ranks; ++holder) {
      int place = holder == self ? in_bounds[self] : bounds[holder];
      std::vector<BFloat16>& to = holder == self ? received : packed;
      for (int t = 0; t < layer.num_rows[self]; ++t) {
        if (layer.at(self, t, holder).empty()) continue;
        std::copy_n(rows.begin() + int64_t{t} * hidden, hidden,
                    to.begin() + int64_t{place++} * hidden);
      }
    }
    const auto device_packed = Allocate<BFloat16>(static_cast<int64_t>(packed.size()));
    const auto device_received = Allocate<BFloat16>(static_cast<int64_t>(received.size()));
    const auto device_rows = Upload(rows);
    Check(PackRows(gpu(), on.of(self), on.holders(), self, outgoing.view(), incoming.view(),
                   device_rows.data(), hidden, device_packed.data(), device_received.data()));
    ExpectSameBits(Download(device_packed), packed);
    ExpectSameBits(Download(device_received), received);
  }
}

TEST_F(CudaExchangeRowsTest, OutputsComeToTheirRowsAndExperts) {
  std::mt19937 random(6);
  for (const int hidden : {1, 8, 37}) {
    for (const bool compact : {false, true}) {
      for (const int self : {-1, 1}) {
        const Layer layer = MakeLayer(3, 12, 4, 11, Routing::kRandom, random);
        const OnDevice on = ToDevice(layer);
        const int source = 1;
        const Places outgoing = Outgoing(on, source);
        const std::vector<int32_t> bounds = Download(outgoing.pair_bounds);
        std::vector<int32_t> slots, slots_before;
        int slots_of_row = 0;
        for (int holder = 0; holder < layer.num_ranks; ++holder) {
          slots.push_back(std::min(layer.top_k, layer.num_local(holder)));
          slots_before.push_back(slots_of_row);
          slots_of_row += slots.back();
        }
        const int num_slots = slots_of_row * layer.stride;
        constexpr int kOwnBegin = 5;
        const int num_returned = compact ? bounds.back() : num_slots;
        const std::vector<BFloat16> returned = RandomBf16(int64_t{num_returned} * hidden, random);
        const std::vector<BFloat16> own =
            RandomBf16(int64_t{kOwnBegin + num_slots} * hidden, random);
        std::vector<BFloat16> expected(int64_t{layer.stride} * layer.top_k * hidden, kUntouched);
        for (int holder = 0; holder < layer.num_ranks; ++holder) {
          int place = compact ? bounds[holder] : slots_before[holder] * layer.stride;
          if (holder == self) place = kOwnBegin;
          const std::vector<BFloat16>& from = holder == self ? own : returned;
          for (int t = 0; t < layer.num_rows[source]; ++t) {
            const std::vector<int> js = layer.at(source, t, holder);
            for (size_t i = 0; i < js.size(); ++i) {
              std::copy_n(from.begin() + (place + static_cast<int64_t>(i)) * hidden, hidden,
                          expected.begin() + (int64_t{t} * layer.top_k + js[i]) * hidden);
            }
            place += compact ? static_cast<int>(js.size()) : slots[holder];
          }
        }
        const auto device_slots = Upload(slots);
        const auto device_before = Upload(slots_before);
        const auto device_own = Upload(own);
        const auto device_returned = Upload(returned);
        const auto out = Allocate<BFloat16>(static_cast<int64_t>(expected.size()));
        ReturnedPlaces places{.self = self, .own = device_own.data(), .own_begin = kOwnBegin};
        if (compact) {
          places.pairs_before = outgoing.pairs_before.data();
          places.pair_bounds = outgoing.pair_bounds.data();
        } else {
          places.slots = device_slots.data();
          places.slots_before = device_before.data();
          places.num_slot_rows = layer.stride;
        }
        Check(ScatterReturned(gpu(), on.of(source), on.holders(), places, device_returned.data(),
                              hidden, out.data()));
        ExpectSameBits(Download(out), expected);
      }
    }
  }
}

TEST_F(CudaExchangeRowsTest, IdsThatNoRankHoldsAreNoPairs) {
  Layer layer{.num_ranks = 1,
              .num_experts = 2,
              .top_k = 3,
              .stride = 1,
              .rank_of_expert = {0, 0},
              .local_of_expert = {0, 1},
              .num_rows = {1},
              .ids = {-5, 1, 2}};
  const OnDevice on = ToDevice(layer);
  EXPECT_EQ(Download(Incoming(on, 0).pair_bounds), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(Download(Outgoing(on, 0).pair_bounds), (std::vector<int32_t>{0, 1}));
}

TEST_F(CudaExchangeRowsTest, MoreItemsThanCanBeCountedAreRefused) {
  const Routes routes{.num_sources = 1 << 16, .stride = 1 << 15, .top_k = 1};
  EXPECT_EQ(CountIncoming(gpu(), routes, {}, 0, nullptr, {}).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace moe::kernels::cuda
