#include "worker/exchange/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace moe::exchange {
namespace {

constexpr char kMemfdName[] = "moe-exchange";
constexpr absl::string_view kBootstrapTag = "moe-shm-2";
constexpr uint64_t kMagic = 0x324d48532d454f4d;  // "MOE-SHM2"
constexpr size_t kSecretBytes = 16;
constexpr size_t kLineBytes = 64;
constexpr size_t kPageBytes = 4096;
constexpr size_t kKeepResultBytes = size_t{1} << 20;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// At the start of the file; written by the creator before anybody else can know of the file.
struct Header {
  uint64_t magic;
  unsigned char secret[kSecretBytes];
  uint64_t epoch;
  int32_t num_ranks;
  int32_t num_attention_ranks;
  int32_t replicated;
  int32_t num_layers;
  int32_t num_experts;
  int32_t hidden;
  int32_t top_k;
  int32_t max_rows;
  uint64_t placement;  // hash of rank_of_expert
};

// FNV-1a over the ranks. It guards against a mistake, not against malice.
uint64_t HashPlacement(const std::vector<int>& rank_of_expert) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const int rank : rank_of_expert) {
    hash = (hash ^ static_cast<uint64_t>(rank)) * 0x100000001b3;
  }
  return hash;
}

Header HeaderOf(const GroupShape& shape, uint64_t epoch, const unsigned char* secret) {
  Header header{};
  header.magic = kMagic;
  std::memcpy(header.secret, secret, kSecretBytes);
  header.epoch = epoch;
  header.num_ranks = shape.num_ranks;
  header.num_attention_ranks = shape.replicated ? 0 : shape.num_attention_ranks;
  header.replicated = shape.replicated ? 1 : 0;
  header.num_layers = shape.num_layers;
  header.num_experts = shape.num_experts;
  header.hidden = shape.hidden;
  header.top_k = shape.top_k;
  header.max_rows = shape.max_rows;
  header.placement = HashPlacement(shape.rank_of_expert);
  return header;
}

// All bytes are looked at whatever they are, so that the time says nothing about the secret.
bool SameSecret(const unsigned char* a, const unsigned char* b) {
  unsigned char difference = 0;
  for (size_t i = 0; i < kSecretBytes; ++i) {
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

std::string Errno(absl::string_view what) { return absl::StrCat(what, ": ", std::strerror(errno)); }

// Closes the file unless it was handed on.
class FileCloser {
 public:
  explicit FileCloser(int fd) : fd_(fd) {}
  ~FileCloser() {
    if (fd_ >= 0) close(fd_);
  }
  FileCloser(const FileCloser&) = delete;
  FileCloser& operator=(const FileCloser&) = delete;
  int get() const { return fd_; }
  int Release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

absl::StatusOr<char*> Map(int fd, size_t size) {
  void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        Errno(absl::StrCat("can't map ", size, " bytes of exchange memory")));
  }
  return static_cast<char*>(base);
}

struct Bootstrap {
  int pid = 0;
  int fd = 0;
  std::array<unsigned char, kSecretBytes> secret{};
};

absl::StatusOr<Bootstrap> ParseBootstrap(std::string_view text) {
  absl::Status error =
      absl::InvalidArgumentError("this is not the bootstrap of a shared-memory exchange");
  if (text.size() > 128) return error;
  const std::vector<absl::string_view> parts =
      absl::StrSplit(absl::string_view(text.data(), text.size()), ':');
  Bootstrap bootstrap;
  if (parts.size() != 4 || parts[0] != kBootstrapTag ||
      !absl::SimpleAtoi(parts[1], &bootstrap.pid) || bootstrap.pid <= 0 ||
      !absl::SimpleAtoi(parts[2], &bootstrap.fd) || bootstrap.fd < 0 ||
      parts[3].size() != 2 * kSecretBytes) {
    return error;
  }
  std::string secret;
  if (!absl::HexStringToBytes(parts[3], &secret) || secret.size() != kSecretBytes) return error;
  std::memcpy(bootstrap.secret.data(), secret.data(), kSecretBytes);
  return bootstrap;
}

absl::Status CheckHeader(const Header& found, const Header& expected) {
  if (found.magic != expected.magic) {
    return absl::InvalidArgumentError("the exchange memory has an unknown format");
  }
  if (!SameSecret(found.secret, expected.secret)) {
    return absl::PermissionDeniedError("the bootstrap's secret does not open this exchange memory");
  }
  if (found.epoch != expected.epoch) {
    return absl::FailedPreconditionError(
        absl::StrCat("the exchange memory is of epoch ", found.epoch, ", not ", expected.epoch));
  }
  const std::pair<const char*, std::pair<int64_t, int64_t>> fields[] = {
      {"num_ranks", {found.num_ranks, expected.num_ranks}},
      {"num_attention_ranks", {found.num_attention_ranks, expected.num_attention_ranks}},
      {"replicated", {found.replicated, expected.replicated}},
      {"num_layers", {found.num_layers, expected.num_layers}},
      {"num_experts", {found.num_experts, expected.num_experts}},
      {"hidden", {found.hidden, expected.hidden}},
      {"top_k", {found.top_k, expected.top_k}},
      {"max_rows", {found.max_rows, expected.max_rows}},
  };
  for (const auto& [name, values] : fields) {
    if (values.first != values.second) {
      return absl::FailedPreconditionError(
          absl::StrCat("the exchange memory is for another group: its ", name, " is ", values.first,
                       ", not ", values.second));
    }
  }
  if (found.placement != expected.placement) {
    return absl::FailedPreconditionError(
        "the exchange memory is for another group: its experts are placed differently");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateShape(const GroupShape& shape) {
  const auto check = [](absl::string_view name, int64_t value, int64_t low,
                        int64_t high) -> absl::Status {
    if (value >= low && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("group shape: ", name, " is ", value, ", not in [", low, ", ", high, "]"));
  };
  // The bounds keep every size below within 64 bits and every row number within 31.
  constexpr int64_t kMany = int64_t{1} << 20;
  const int64_t attention_ranks = shape.replicated ? 1 : shape.num_attention_ranks;
  for (const absl::Status& status :
       {check("num_ranks", shape.num_ranks, 1, kMaxRanks),
        check("num_attention_ranks", attention_ranks, 1, shape.num_ranks),
        check("num_layers", shape.num_layers, 1, kMany),
        check("num_experts", shape.num_experts, 1, kMany), check("hidden", shape.hidden, 1, kMany),
        check("top_k", shape.top_k, 1, shape.num_experts),
        check("max_rows", shape.max_rows, 1, kMany),
        check("max_rows * top_k", int64_t{shape.max_rows} * shape.top_k, 1, kMany),
        check("the size of rank_of_expert", static_cast<int64_t>(shape.rank_of_expert.size()),
              shape.num_experts, shape.num_experts)}) {
    if (!status.ok()) return status;
  }
  for (const int rank : shape.rank_of_expert) {
    const absl::Status status = check("a rank of rank_of_expert", rank, 0, shape.num_ranks - 1);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

SegmentLayout SegmentLayout::Of(const GroupShape& shape) {
  const size_t num_ranks = shape.num_ranks;
  const size_t num_owners = shape.replicated ? 0 : shape.num_attention_ranks;
  const size_t mask_words = (num_ranks + 63) / 64;
  const size_t num_pairs = size_t{static_cast<uint32_t>(shape.max_rows)} * shape.top_k;
  const size_t row_bytes = sizeof(kernels::BFloat16) * shape.hidden;

  size_t end = 0;
  const auto place = [&end](size_t bytes, size_t alignment) {
    const size_t at = RoundUp(end, alignment);
    end = at + bytes;
    return at;
  };
  SegmentLayout layout;
  place(sizeof(Header), kPageBytes);
  layout.bells = place(sizeof(Bell) * Doorbells::NumBells(shape.num_ranks), kLineBytes);
  layout.arrivals = place(8 * num_ranks, kLineBytes);
  layout.digests = place(8 * num_ranks * 2, kLineBytes);
  layout.request_stride = RoundUp(8 * num_owners, kLineBytes);
  layout.requests = place(layout.request_stride * num_ranks, kLineBytes);
  layout.plan_head = place(sizeof(PlanHead), kLineBytes);
  layout.plan_for = place(8 * num_ranks, kLineBytes);
  layout.plan_taken = place(8 * num_ranks, kLineBytes);
  layout.awaited = place(8 * mask_words, kLineBytes);
  layout.result_heads = place(sizeof(ResultHead) * num_ranks, kLineBytes);
  layout.seats = place(sizeof(Seat) * num_ranks, kLineBytes);

  const size_t head_end = end;
  end = 0;
  place(8 * mask_words, kLineBytes);  // unanswered
  layout.owner_requests = place(sizeof(Request) * num_ranks, kLineBytes);
  layout.owner_turns = place(sizeof(TurnHead) + 4 * num_ranks, kLineBytes);
  layout.owner_pairs = place(sizeof(RoutedRow) * num_pairs, kLineBytes);
  layout.owner_rows = place(row_bytes * shape.max_rows, kPageBytes);
  layout.owner_results = place(row_bytes * num_pairs, kPageBytes);
  layout.owner_stride = RoundUp(end, kPageBytes);

  end = head_end;
  layout.owners = place(layout.owner_stride * num_owners, kPageBytes);
  layout.shared_results_stride = RoundUp(row_bytes * num_pairs, kPageBytes);
  layout.shared_results =
      place(shape.replicated ? 2 * layout.shared_results_stride : 0, kPageBytes);
  layout.plan_bytes = place(kMaxPlanBytes, kPageBytes);
  layout.result_bytes = place(kMaxResultBytes * num_ranks, kPageBytes);
  layout.total = end;
  return layout;
}

Segment::Segment(const GroupShape& shape, int fd, char* base, size_t size)
    : num_ranks_(shape.num_ranks),
      layout_(SegmentLayout::Of(shape)),
      fd_(fd),
      base_(base),
      size_(size) {}

Segment::~Segment() {
  munmap(base_, size_);
  close(fd_);
}

absl::StatusOr<std::unique_ptr<Segment>> Segment::Create(const GroupShape& shape, uint64_t epoch) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  std::array<unsigned char, kSecretBytes> secret{};
  if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return absl::InternalError(Errno("can't draw a secret for the exchange memory"));
  }
  const size_t size = SegmentLayout::Of(shape).total;
  FileCloser file(memfd_create(kMemfdName, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (file.get() < 0) return absl::ResourceExhaustedError(Errno("can't create exchange memory"));
  if (ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
    return absl::ResourceExhaustedError(
        Errno(absl::StrCat("can't reserve ", size, " bytes of exchange memory")));
  }
  // Without this a peer could cut the file and end all others with SIGBUS.
  if (fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) {
    return absl::InternalError(Errno("can't seal the exchange memory"));
  }
  absl::StatusOr<char*> base = Map(file.get(), size);
  if (!base.ok()) return base.status();
  const Header header = HeaderOf(shape, epoch, secret.data());
  std::memcpy(*base, &header, sizeof(header));

  std::unique_ptr<Segment> segment(new Segment(shape, file.Release(), *base, size));
  segment->bootstrap_ =
      absl::StrCat(kBootstrapTag, ":", getpid(), ":", segment->fd_, ":",
                   absl::BytesToHexString(absl::string_view(
                       reinterpret_cast<const char*>(secret.data()), secret.size())));
  return segment;
}

absl::StatusOr<std::unique_ptr<Segment>> Segment::Open(std::string_view text,
                                                       const GroupShape& shape, uint64_t epoch) {
  if (absl::Status status = ValidateShape(shape); !status.ok()) return status;
  absl::StatusOr<Bootstrap> bootstrap = ParseBootstrap(text);
  if (!bootstrap.ok()) return bootstrap.status();

  const std::string path = absl::StrCat("/proc/", bootstrap->pid, "/fd/", bootstrap->fd);
  const std::string where = absl::StrCat("exchange memory of process ", bootstrap->pid);
  // The number may be any file of any process by now: opening a device could have effects.
  std::array<char, 64> target{};
  const ssize_t target_size = readlink(path.c_str(), target.data(), target.size());
  if (target_size < 0) return absl::UnavailableError(Errno(absl::StrCat("no ", where)));
  if (!absl::StartsWith(absl::string_view(target.data(), target_size),
                        absl::StrCat("/memfd:", kMemfdName, " "))) {
    return absl::UnavailableError(absl::StrCat("no ", where, ": that file is something else"));
  }
  FileCloser file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) return absl::UnavailableError(Errno(absl::StrCat("can't open the ", where)));
  struct stat info{};
  if (fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode) ||
      info.st_size < static_cast<off_t>(kPageBytes) ||
      (fcntl(file.get(), F_GET_SEALS) & kSeals) != kSeals) {
    return absl::UnavailableError(absl::StrCat("no ", where, ": that file is something else"));
  }

  absl::StatusOr<char*> head = Map(file.get(), kPageBytes);
  if (!head.ok()) return head.status();
  Header found;
  std::memcpy(&found, *head, sizeof(found));
  munmap(*head, kPageBytes);
  if (absl::Status status = CheckHeader(found, HeaderOf(shape, epoch, bootstrap->secret.data()));
      !status.ok()) {
    return status;
  }
  const size_t size = SegmentLayout::Of(shape).total;
  if (info.st_size != static_cast<off_t>(size)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the exchange memory has ", info.st_size, " bytes, not ", size));
  }
  absl::StatusOr<char*> base = Map(file.get(), size);
  if (!base.ok()) return base.status();
  return std::unique_ptr<Segment>(new Segment(shape, file.Release(), *base, size));
}

void Segment::DiscardResult(int rank, size_t num_bytes) const {
  if (num_bytes <= kKeepResultBytes) return;
  // The result was copied already. If the system can't do it, the memory just stays in use.
  static_cast<void>(madvise(result_bytes(rank), RoundUp(num_bytes, kPageBytes), MADV_REMOVE));
}

}  // namespace moe::exchange
