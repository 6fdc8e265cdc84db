#include "tests/system/golden_file.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

namespace moe::testing {

absl::StatusOr<GoldenFile> GoldenFile::Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(path);
  GoldenFile golden;
  golden.bytes_.assign(std::istreambuf_iterator<char>(file), {});
  auto index = model::ParseSafetensorsHeader(golden.bytes_, golden.bytes_.size(), path);
  if (!index.ok()) return index.status();
  golden.index_ = *std::move(index);
  return golden;
}

const char* GoldenFile::Data(const std::string& name, model::DType dtype,
                             size_t* num_elements) const {
  const auto it = index_.tensors.find(name);
  if (it == index_.tensors.end() || it->second.dtype != dtype) {
    std::cerr << "golden tensor " << name << " is missing or of another type" << std::endl;
    std::abort();
  }
  *num_elements = (it->second.end - it->second.begin) / model::DTypeBytes(dtype);
  return bytes_.data() + it->second.begin;
}

std::vector<int32_t> GoldenFile::Ints(const std::string& name) const {
  size_t num_elements = 0;
  const char* data = Data(name, model::DType::kI32, &num_elements);
  std::vector<int32_t> values(num_elements);
  std::memcpy(values.data(), data, num_elements * sizeof(int32_t));
  return values;
}

std::vector<float> GoldenFile::Floats(const std::string& name) const {
  size_t num_elements = 0;
  const char* data = Data(name, model::DType::kF32, &num_elements);
  std::vector<float> values(num_elements);
  std::memcpy(values.data(), data, num_elements * sizeof(float));
  return values;
}

std::vector<int64_t> GoldenFile::Shape(const std::string& name) const {
  return index_.tensors.at(name).shape;
}

}  // namespace moe::testing
