// What must hold for the frame parser whatever comes in. Shared by the libFuzzer target and by
// tcp_frame_test.cc.
#ifndef MOE_TESTS_WORKER_EXCHANGE_TCP_FRAME_INPUT_H_
#define MOE_TESTS_WORKER_EXCHANGE_TCP_FRAME_INPUT_H_

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "worker/exchange/segment.h"
#include "worker/exchange/tcp_frame.h"
#include "worker/exchange/tcp_handshake.h"

namespace moe::exchange {

inline void RequireFrame(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "violated: %s\n", what);
  std::abort();
}

inline GroupShape TcpFrameInputShape() {
  GroupShape shape;
  shape.num_ranks = 2;
  shape.num_layers = 2;
  shape.num_experts = 2;
  shape.hidden = 4;
  shape.top_k = 2;
  shape.max_rows = 3;
  shape.rank_of_expert = {0, 1};
  return shape;
}

// `input` is a frame of epoch 7 for rank 1: header and body. Returns whether it is a good one.
inline bool CheckTcpFrameInput(std::string_view input) {
  const GroupShape shape = TcpFrameInputShape();
  static_cast<void>(ParseTcpBootstrap(input, 7, shape));
  FrameHeader header;
  if (input.size() < sizeof(header)) return false;
  std::memcpy(&header, input.data(), sizeof(header));
  if (const absl::Status status = CheckFrame(shape, 7, header); !status.ok()) {
    RequireFrame(!status.message().empty(), "an error has a message");
    return false;
  }
  RequireFrame(header.epoch == 7, "only this epoch passes");
  const size_t bound = header.type == FrameType::kPlan     ? kMaxPlanBytes
                       : header.type == FrameType::kResult ? kMaxResultBytes
                                                           : PairBytes(6) + RowBytes(shape, 6);
  RequireFrame(header.num_bytes <= bound, "a body is bounded");
  const std::string body(input.substr(sizeof(header)));
  if (body.size() < header.num_bytes) return false;
  if (header.type != FrameType::kDispatch) return true;
  std::vector<RoutedRow> pairs;
  if (!ReadPairs(shape, 1, header, body.data(), &pairs).ok()) return false;
  RequireFrame(pairs.size() == static_cast<size_t>(header.num_pairs), "all pairs are read");
  for (const RoutedRow& pair : pairs) {
    RequireFrame(pair.expert == 1, "only experts of the receiver pass");
    RequireFrame(pair.x_row >= 0 && PairBytes(header.num_pairs) + RowBytes(shape, pair.x_row + 1) <=
                                        header.num_bytes,
                 "a row is in the body");
    RequireFrame(pair.out_row >= 0 && pair.out_row < header.num_pairs, "an output has a pair");
  }
  return true;
}

}  // namespace moe::exchange

#endif  // MOE_TESTS_WORKER_EXCHANGE_TCP_FRAME_INPUT_H_
