#include "controller/kube/watch_stream.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "controller/kube/answer.h"

namespace moe::kube {
namespace {

std::optional<WatchEvent::Type> TypeOf(const Json& line) {
  const auto type = line.find("type");
  if (type == line.end() || !type->is_string()) {
    return std::nullopt;
  }
  const auto& name = type->get_ref<const std::string&>();
  if (name == "ADDED") {
    return WatchEvent::kAdded;
  }
  if (name == "MODIFIED") {
    return WatchEvent::kModified;
  }
  if (name == "DELETED") {
    return WatchEvent::kDeleted;
  }
  if (name == "BOOKMARK") {
    return WatchEvent::kBookmark;
  }
  if (name == "ERROR") {
    return WatchEvent::kError;
  }
  return std::nullopt;
}

absl::StatusOr<WatchEvent> ParseEvent(absl::string_view text) {
  absl::StatusOr<Json> line = ParseObject(text);
  if (!line.ok()) {
    return absl::DataLossError(absl::StrCat("a line of the watch: ", line.status().message()));
  }
  const std::optional<WatchEvent::Type> type = TypeOf(*line);
  const auto object = line->find("object");
  if (!type.has_value() || object == line->end() || !object->is_object()) {
    return absl::DataLossError("a line of the watch is no event");
  }
  WatchEvent event;
  event.type = *type;
  event.object = std::move(*object);
  event.resource_version = MetadataString(event.object, "resourceVersion");
  if (event.type == WatchEvent::kError) {
    return event;
  }
  if (event.resource_version.empty()) {
    return absl::DataLossError("an event of the watch has no resourceVersion");
  }
  if (event.type != WatchEvent::kBookmark && MetadataString(event.object, "name").empty()) {
    return absl::DataLossError("an event of the watch has no name");
  }
  return event;
}

}  // namespace

absl::Status WatchStream::Feed(absl::string_view bytes, std::vector<WatchEvent>* events) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const absl::string_view piece = bytes.substr(0, end);
    if (piece.size() > max_line_bytes_ - line_.size()) {
      return absl::DataLossError(
          absl::StrCat("a line of the watch is above ", max_line_bytes_, " bytes"));
    }
    line_.append(piece.data(), piece.size());
    if (end == absl::string_view::npos) {
      return absl::OkStatus();
    }
    bytes.remove_prefix(end + 1);
    absl::StatusOr<WatchEvent> event = ParseEvent(line_);
    if (!event.ok()) {
      return event.status();
    }
    line_.clear();
    events->push_back(*std::move(event));
  }
  return absl::OkStatus();
}

absl::Status WatchStream::Finish() const {
  return line_.empty() ? absl::OkStatus()
                       : absl::DataLossError("the watch broke off within a line");
}

}  // namespace moe::kube
