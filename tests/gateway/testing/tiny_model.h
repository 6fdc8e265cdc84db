// A model folder with a byte-level tokenizer of 260 tokens and a chat template, for tests.
//
// Token i below 256 is byte i; then come the special tokens. So every border between characters,
// words and stop strings can be hit exactly.
#ifndef MOE_TESTS_GATEWAY_TESTING_TINY_MODEL_H_
#define MOE_TESTS_GATEWAY_TESTING_TINY_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "gateway/serving/served_model.h"

namespace moe::gateway::testing {

inline constexpr int32_t kEndOfText = 256;
inline constexpr int32_t kImStart = 257;
inline constexpr int32_t kImEnd = 258;
inline constexpr int32_t kTinyVocabSize = 260;  // one more than the tokenizer knows

// A folder that is removed at the end.
class TinyModelDir {
 public:
  TinyModelDir();
  ~TinyModelDir();
  TinyModelDir(const TinyModelDir&) = delete;
  TinyModelDir& operator=(const TinyModelDir&) = delete;

  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Served as "tiny".
ServedModel LoadTinyModel();

// One token per byte.
std::vector<int32_t> BytesAsTokens(const std::string& text);

// Writes the files of the model into an existing folder.
void WriteTinyModel(const std::string& dir);

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_TESTING_TINY_MODEL_H_
