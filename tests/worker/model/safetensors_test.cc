#include "worker/model/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace moe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// Prefix and header text, then `data_bytes` of data that are never looked at.
struct Image {
  std::string head;
  uint64_t file_bytes;
};

Image MakeImage(const std::string& json, uint64_t data_bytes) {
  std::string prefix(8, '\0');
  for (size_t i = 0; i < 8; ++i) prefix[i] = static_cast<char>(json.size() >> (8 * i));
  return {prefix + json, 8 + json.size() + data_bytes};
}

absl::StatusOr<SafetensorsIndex> Parse(const std::string& json, uint64_t data_bytes) {
  const Image image = MakeImage(json, data_bytes);
  return ParseSafetensorsHeader(image.head, image.file_bytes, "w.safetensors");
}

TEST(SafetensorsTest, ReadsDtypesShapesRangesAndMetadata) {
  const std::string json =
      R"({"__metadata__": {"format": "pt"},
          "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
          "b": {"dtype": "F32", "shape": [], "data_offsets": [12, 16]},
          "empty": {"dtype": "I64", "shape": [0, 5], "data_offsets": [16, 16]}}   )";
  const auto index = Parse(json, 16);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->data_begin, 8 + json.size());
  EXPECT_EQ(index->metadata.at("format"), "pt");
  ASSERT_EQ(index->tensors.size(), 3U);
  const TensorInfo& a = index->tensors.at("a");
  EXPECT_EQ(a.dtype, DType::kBF16);
  EXPECT_THAT(a.shape, ElementsAre(2, 3));
  EXPECT_EQ(a.begin, index->data_begin);
  EXPECT_EQ(a.end, index->data_begin + 12);
  EXPECT_EQ(index->tensors.at("b").end, index->data_begin + 16);
}

TEST(SafetensorsTest, AFileWithoutTensorsIsValid) { EXPECT_TRUE(Parse("{}", 0).ok()); }

TEST(SafetensorsTest, WhatIsWrittenIsRead) {
  const std::vector<NamedTensor> tensors = {
      {"z\"\n", DType::kBF16, {3, 5}}, {"a", DType::kF8E4M3, {7}}, {"m", DType::kI64, {}}};
  const std::string head = MakeSafetensorsHeader(tensors, {{"format", "pt"}});
  EXPECT_EQ(head.size() % 64, 0U);
  const auto index = ParseSafetensorsHeader(head, head.size() + 30 + 7 + 8, "w");
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->tensors.at("a").begin, head.size() + 30);
  EXPECT_EQ(index->tensors.at("m").end, head.size() + 45);
}

TEST(SafetensorsTest, EveryDtypeHasItsNameAndSize) {
  for (const char* name : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16",
                           "BF16", "I32", "U32", "F32", "I64", "U64", "F64", "C64"}) {
    const auto dtype = ParseDType(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    EXPECT_EQ(DTypeName(*dtype), name);
  }
  EXPECT_EQ(DTypeBytes(DType::kF8E8M0), 1);
  EXPECT_EQ(DTypeBytes(DType::kBF16), 2);
  EXPECT_EQ(DTypeBytes(DType::kC64), 8);
  EXPECT_FALSE(ParseDType("bf16").has_value());
}

TEST(SafetensorsTest, RefusesABadPrefix) {
  struct Case {
    const char* sentence;
    std::string head;
    uint64_t file_bytes;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"an empty file", "", 0, "0 bytes long"},
      {"7 bytes", std::string(7, '\0'), 7, "7 bytes long"},
      {"a header longer than the file", std::string("\x10\0\0\0\0\0\0\0{}", 10), 10,
       "header length 16, but the file is only 10"},
      {"a header of 2^64 - 1 bytes", std::string(8, '\xff') + "{}", 10, "header length 18446744"},
      {"a header of 100,000,001 bytes", std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), 200'000'000,
       "header length 100000001; at most 100000000"},
      {"an empty header", std::string(8, '\0'), 8, "does not begin with '{'"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const auto index = ParseSafetensorsHeader(c.head, c.file_bytes, "w.safetensors");
    EXPECT_EQ(index.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(index.status().message()), StartsWith("w.safetensors: "));
    EXPECT_THAT(std::string(index.status().message()), HasSubstr(c.message));
  }
}

TEST(SafetensorsTest, RefusesABadHeaderNamingFileAndTensor) {
  struct Case {
    const char* sentence;
    std::string json;
    uint64_t data_bytes;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"a space before the object", " {}", 0, "does not begin with '{'"},
      {"an array", "[]", 0, "does not begin with '{'"},
      {"cut JSON", R"({"a": )", 0, "not valid JSON"},
      {"text behind the object", "{} x", 0, "not valid JSON"},
      {"a NUL behind the object", std::string("{}\0", 3), 0, "NUL byte"},
      {"not UTF-8", "{\"\xff\": 1}", 0, "not valid JSON"},
      {"a tensor twice",
       R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
           "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})",
       2, "tensor \"a\": appears twice"},
      {"metadata twice", R"({"__metadata__": {}, "__metadata__": {}})", 0, "appears twice"},
      {"a metadata key twice", R"({"__metadata__": {"x": "1", "x": "2"}})", 0, "appears twice"},
      {"metadata that is not text", R"({"__metadata__": {"x": 1}})", 0, "x holds a number"},
      {"nested metadata", R"({"__metadata__": {"x": {"y": "z"}}})", 0, "x holds an object"},
      {"dtype twice",
       R"({"a": {"dtype": "U8", "dtype": "I8", "shape": [1], "data_offsets": [0, 1]}})", 1,
       "tensor \"a\": dtype appears twice"},
      {"a tensor that is a number", R"({"a": 1})", 0, "tensor \"a\": is a number, not an object"},
      {"a tensor that is a list", R"({"a": []})", 0, "tensor \"a\": is an array, not an object"},
      {"no shape", R"({"a": {"dtype": "U8", "data_offsets": [0, 1]}})", 1,
       "tensor \"a\": dtype, shape or data_offsets is missing"},
      {"no dtype", R"({"a": {"shape": [1], "data_offsets": [0, 1]}})", 1, "is missing"},
      {"no offsets", R"({"a": {"dtype": "U8", "shape": [1]}})", 1, "is missing"},
      {"an unknown key", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], "x": 1}})",
       1, "tensor \"a\": the key \"x\" is unknown"},
      {"an unknown dtype", R"({"a": {"dtype": "F12", "shape": [1], "data_offsets": [0, 1]}})", 1,
       "tensor \"a\": dtype \"F12\" is unknown"},
      {"a dtype that is a number", R"({"a": {"dtype": 3, "shape": [1], "data_offsets": [0, 1]}})",
       1, "dtype holds a number"},
      {"one offset", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}})", 1,
       "fewer than two"},
      {"three offsets", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]}})", 1,
       "more than two"},
      {"negative offset", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [-1, 0]}})", 1,
       "tensor \"a\": data_offsets has the negative value -1"},
      {"fractional offset", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1.0]}})", 1,
       "data_offsets holds the number 1.0"},
      {"an offset beyond 2^64",
       R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 18446744073709551617]}})", 1,
       "data_offsets holds the number 18446744073709551617"},
      {"reversed offsets", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}})", 1,
       "tensor \"a\": data_offsets [1, 0] are in the wrong order"},
      {"offsets beyond the file", R"({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}})",
       8, "tensor \"a\": data_offsets end at 9, but the file has only 8"},
      {"an end of 2^64 - 1",
       R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 18446744073709551615]}})", 1,
       "data_offsets end at 18446744073709551615"},
      {"overlapping tensors",
       R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
           "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}})",
       6, "tensor \"b\": overlaps tensor \"a\""},
      {"two names for the same bytes",
       R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
           "b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}})",
       4, "overlaps"},
      {"a hole between tensors",
       R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
           "b": {"dtype": "U8", "shape": [1], "data_offsets": [2, 3]}})",
       3, "tensor \"b\": begins 1 bytes after the end of \"a\""},
      {"a hole before the first tensor",
       R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})", 2,
       "begins 1 bytes after the end of the header"},
      {"trailing bytes", R"({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})", 9,
       "8 bytes follow the last tensor \"a\""},
      {"trailing bytes without tensors", "{}", 1, "1 bytes follow the last tensor"},
      {"a shape whose product wraps to the right size",
       R"({"a": {"dtype": "U8", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}})", 0,
       "tensor \"a\": the size of shape [4294967296, 4294967296] exceeds 64 bits"},
      {"a shape whose bytes wrap",
       R"({"a": {"dtype": "F64", "shape": [2305843009213693953], "data_offsets": [0, 8]}})", 8,
       "exceeds 64 bits"},
      {"a wrapped product times zero comes too late",
       R"({"a": {"dtype": "U8", "shape": [4294967296, 4294967296, 0], "data_offsets": [0, 0]}})", 0,
       "exceeds 64 bits"},
      {"a dimension beyond int64",
       R"({"a": {"dtype": "U8", "shape": [9223372036854775808], "data_offsets": [0, 0]}})", 0,
       "which is too large"},
      {"a negative dimension",
       R"({"a": {"dtype": "U8", "shape": [-1, -1], "data_offsets": [0, 1]}})", 1,
       "shape has the negative value -1"},
      {"a nested shape", R"({"a": {"dtype": "U8", "shape": [[1]], "data_offsets": [0, 1]}})", 1,
       "shape holds an array"},
      {"33 dimensions",
       R"({"a": {"dtype": "U8", "shape": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,
           1,1,1,1], "data_offsets": [0, 1]}})",
       1, "more than 32 dimensions"},
      {"shape times dtype is not the range",
       R"({"a": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 4]}})", 4,
       "tensor \"a\": shape [2, 2] of BF16 takes 8 bytes, but data_offsets give 4"},
      {"100,000 open brackets", "{\"a\": " + std::string(100000, '['), 0, "not an object"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.sentence);
    const auto index = Parse(c.json, c.data_bytes);
    EXPECT_EQ(index.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(index.status().message()), StartsWith("w.safetensors: "));
    EXPECT_THAT(std::string(index.status().message()), HasSubstr(c.message));
  }
}

TEST(SafetensorsTest, ACutHeaderIsRefused) {
  const Image image = MakeImage("{}      ", 0);
  EXPECT_FALSE(ParseSafetensorsHeader(image.head.substr(0, 12), image.file_bytes, "w").ok());
}

}  // namespace
}  // namespace moe::model
