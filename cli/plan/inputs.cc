#include "cli/plan/inputs.h"

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/plan/model_config.h"
#include "planner/catalog/hardware_files.h"
#include "planner/descriptions.h"
#include "planner/published_models.h"
#include "worker/model/file.h"

namespace moe::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = size_t{1} << 24;

// The text of a description and what to call it: a name that is built in, or a path.
struct NamedJson {
  std::string name;
  std::string file;
  std::string json;
};

absl::StatusOr<std::string> ReadText(absl::StatusOr<model::File> file) {
  if (!file.ok()) return file.status();
  return file->ReadAll(kMaxFileBytes);
}

absl::StatusOr<NamedJson> FindDescription(const std::string& kind, const std::string& option,
                                          const std::string& name_or_path) {
  std::vector<std::string> names;
  for (planner::Description& description : planner::Descriptions()) {
    if (description.kind != kind) continue;
    if (description.name == name_or_path) {
      return NamedJson{description.name, absl::StrCat(kind, "/", description.name, ".json"),
                       std::move(description.json)};
    }
    names.push_back(description.name);
  }
  if (name_or_path.find('/') == std::string::npos && !name_or_path.ends_with(".json")) {
    return absl::InvalidArgumentError(
        absl::StrCat(option, " '", name_or_path, "' is not known; there are ",
                     absl::StrJoin(names, ", "), ", or the path of a .json file"));
  }
  auto json = ReadText(model::File::Open(name_or_path));
  if (!json.ok()) return json.status();
  // "devices" are made of parts "device".
  auto part = planner::PartOfFile(*json, kind.substr(0, kind.size() - 1), name_or_path);
  if (!part.ok()) return part.status();
  return NamedJson{fs::path(name_or_path).stem(), name_or_path, *std::move(part)};
}

}  // namespace

absl::StatusOr<ConfigFile> ReadConfigFile(const std::string& path, const std::string& missing) {
  std::error_code error;
  const bool is_folder = fs::is_directory(path, error);
  if (!is_folder && !fs::exists(path, error)) return absl::InvalidArgumentError(missing);
  auto json =
      ReadText(is_folder ? model::File::OpenInDir(path, "config.json") : model::File::Open(path));
  if (!json.ok()) return json.status();
  const fs::path folder = is_folder ? fs::path(path) : fs::absolute(path, error).parent_path();
  return ConfigFile{*std::move(json), model::ModelNameOfDir(folder.string())};
}

absl::StatusOr<planner::ModelShape> ReadModel(const std::string& name_or_path) {
  std::vector<std::string> names;
  for (planner::ModelShape& shape : planner::PublishedModels()) {
    if (shape.name == name_or_path) return std::move(shape);
    names.push_back(shape.name);
  }
  const auto config =
      ReadConfigFile(name_or_path, absl::StrCat("--model '", name_or_path,
                                                "' is no folder with a config.json, no such file, "
                                                "and none of the models known by name: ",
                                                absl::StrJoin(names, ", ")));
  if (!config.ok()) return config.status();
  return ParseModelShape(config->json, config->model_name);
}

absl::Status ReadHardware(const HardwareNames& names, planner::Device* device,
                          planner::Network* network) {
  const auto gpu = FindDescription("devices", "--gpu", names.gpu);
  if (!gpu.ok()) return gpu.status();
  auto parsed = planner::ParseDevice(gpu->json, gpu->name, gpu->file);
  if (!parsed.ok()) return parsed.status();
  *device = *std::move(parsed);

  absl::StatusOr<double> speed = planner::ParseLinkSpeed(names.link);
  if (!speed.ok()) {
    const auto link = FindDescription("links", "--link", names.link);
    if (!link.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(link.status().message(), ", or a speed such as 400Gb/s"));
    }
    network->link_name = link->name;
    speed = planner::ParseLink(link->json, link->file);
    if (!speed.ok()) return speed.status();
  }
  network->link_bytes_per_second = *speed;

  const auto found = FindDescription("exchanges", "--library", names.library);
  if (!found.ok()) return found.status();
  auto library = planner::ParseExchangeLibrary(found->json, found->name, found->file);
  if (!library.ok()) return library.status();
  network->library = *std::move(library);
  return absl::OkStatus();
}

absl::StatusOr<std::string> FormatSources(const HardwareNames& names) {
  struct Choice {
    const char* kind;
    const char* option;
    const std::string* name;
  };
  std::string text;
  for (const Choice& choice :
       {Choice{"devices", "--gpu", &names.gpu}, Choice{"links", "--link", &names.link},
        Choice{"exchanges", "--library", &names.library}}) {
    absl::StrAppend(&text, choice.option, " ", *choice.name, "\n");
    if (choice.name == &names.link && planner::ParseLinkSpeed(names.link).ok()) continue;
    const auto found = FindDescription(choice.kind, choice.option, *choice.name);
    if (!found.ok()) return found.status();
    for (const auto& [field, source] : planner::Sources(found->json)) {
      absl::StrAppend(&text, "  ", field, ": ", source, "\n");
    }
  }
  return text;
}

}  // namespace moe::cli
