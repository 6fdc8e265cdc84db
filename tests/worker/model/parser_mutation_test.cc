// The fuzzers' checks over seeded mutations of their corpus: bounded, the same on every run, and
// independent of libFuzzer.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/model_parsers.h"

namespace moe::model {
namespace {

constexpr int kNumInputs = 20000;

std::vector<std::string> ReadCorpus(const std::string& dir) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> seeds;
  for (const std::string& path : paths) {
    std::ifstream file(path, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return seeds;
}

// Changes an input in one of the ways that break parsers.
void Mutate(std::mt19937_64* random, std::string* text) {
  static constexpr std::array<std::string_view, 14> kTokens = {"0",
                                                               "-1",
                                                               "18446744073709551615",
                                                               "9223372036854775808",
                                                               "2147483648",
                                                               "1e999",
                                                               "null",
                                                               "{}",
                                                               "[]",
                                                               "\"\"",
                                                               "[[[[",
                                                               "\\ud800",
                                                               "1.5",
                                                               "true"};
  const auto below = [&](size_t n) { return n == 0 ? 0 : static_cast<size_t>((*random)() % n); };
  const size_t at = below(text->size());
  switch (below(7)) {
    case 0:
      if (!text->empty()) (*text)[at] = static_cast<char>(below(256));
      break;
    case 1:
      if (!text->empty()) (*text)[at] = static_cast<char>((*text)[at] ^ (1 << below(8)));
      break;
    case 2:
      text->erase(at, 1 + below(16));
      break;
    case 3:
      text->insert(at, kTokens[below(kTokens.size())]);
      break;
    case 4:
      text->insert(at, text->substr(below(text->size()), 1 + below(40)));
      break;
    case 5:
      text->resize(at);
      break;
    default: {
      // A number becomes another value, the surest way past a parser's first checks.
      const size_t digit = text->find_first_of("0123456789", at);
      if (digit == std::string::npos) break;
      const size_t end = text->find_first_not_of("0123456789.", digit);
      text->replace(digit, end == std::string::npos ? end : end - digit,
                    kTokens[below(kTokens.size())]);
    }
  }
}

void RunMutations(const std::string& corpus, const std::function<bool(std::string_view)>& check) {
  const std::vector<std::string> seeds = ReadCorpus("tests/fuzz/corpus/" + corpus);
  ASSERT_FALSE(seeds.empty());
  int num_valid_seeds = 0;
  for (const std::string& seed : seeds) num_valid_seeds += check(seed) ? 1 : 0;
  EXPECT_GT(num_valid_seeds, 0) << "a corpus without a valid input reaches little";
  std::mt19937_64 random(20260101);
  int num_valid = 0;
  for (int i = 0; i < kNumInputs; ++i) {
    std::string input = seeds[static_cast<size_t>(i) % seeds.size()];
    for (uint64_t n = 1 + random() % 3; n > 0; --n) Mutate(&random, &input);
    num_valid += check(input) ? 1 : 0;
  }
  EXPECT_GT(num_valid, 0);
  EXPECT_LT(num_valid, kNumInputs);
}

TEST(ParserMutationTest, ConfigsKeepTheirPromises) { RunMutations("config", CheckConfigInput); }

TEST(ParserMutationTest, SafetensorsHeadersKeepTheirPromises) {
  RunMutations("safetensors", CheckSafetensorsInput);
}

}  // namespace
}  // namespace moe::model
