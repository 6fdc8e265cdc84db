#include "worker/exchange/nccl/nccl_bootstrap.h"

#include <cstring>

#include "absl/status/status.h"

namespace moe::exchange {
namespace {

constexpr std::string_view kMagic = "EXNCCL1\n";

}  // namespace

std::string MakeNcclBootstrap(const NcclBootstrap& bootstrap) {
  std::string bytes(kMagic);
  bytes.append(bootstrap.id.bytes.data(), bootstrap.id.bytes.size());
  bytes.append(bootstrap.control);
  return bytes;
}

absl::StatusOr<NcclBootstrap> ParseNcclBootstrap(std::string_view bytes) {
  NcclBootstrap bootstrap;
  constexpr size_t kHead = kMagic.size() + sizeof(bootstrap.id.bytes);
  if (bytes.size() <= kHead || bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::InvalidArgumentError("what rank 0 gave is no bootstrap of the NCCL exchange");
  }
  std::memcpy(bootstrap.id.bytes.data(), bytes.data() + kMagic.size(), bootstrap.id.bytes.size());
  bootstrap.control = std::string(bytes.substr(kHead));
  return bootstrap;
}

}  // namespace moe::exchange
