#include "controller/kube/request_path.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "controller/kube/answer.h"

namespace moe::kube {
namespace {

constexpr size_t kMaxNameBytes = 253;

bool IsSegment(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name != "." && name != ".." &&
         name.find_first_of("/%") == absl::string_view::npos;
}

}  // namespace

absl::Status CheckKey(const ResourceType& type, const ObjectKey& key) {
  if (!IsSegment(key.name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(type.plural, ": '", key.name, "' is no name of an object"));
  }
  if (type.namespaced ? !IsSegment(key.ns) : !key.ns.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(type.plural, " ", key.name, ": '", key.ns, "' is not its namespace"));
  }
  return absl::OkStatus();
}

std::string CollectionPath(const ResourceType& type, const std::string& ns) {
  return absl::StrCat(type.group.empty() ? "/api/" : "/apis/", type.ApiVersion(),
                      ns.empty() ? "" : absl::StrCat("/namespaces/", Escape(ns)), "/", type.plural);
}

std::string ObjectPath(const ResourceType& type, const ObjectKey& key,
                       absl::string_view subresource) {
  return absl::StrCat(CollectionPath(type, key.ns), "/", Escape(key.name),
                      subresource.empty() ? "" : "/", subresource);
}

std::string Escape(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || absl::string_view("-._~").find(c) != absl::string_view::npos) {
      escaped += c;
    } else {
      absl::StrAppendFormat(&escaped, "%%%02X", byte);
    }
  }
  return escaped;
}

}  // namespace moe::kube
