// What the gateway knows of the model that it serves: text in, text out, and which tokens end it.
//
// Tested by tests/gateway/serving/run_test.cc.
#ifndef MOE_GATEWAY_SERVING_SERVED_MODEL_H_
#define MOE_GATEWAY_SERVING_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/text/chat_template.h"
#include "gateway/text/tokenizer.h"

namespace moe::gateway {

// Immutable, so any thread may use it.
struct ServedModel {
  std::string name;  // as clients call it
  std::unique_ptr<text::Tokenizer> tokenizer;
  std::unique_ptr<text::ChatTemplate> chat_template;
  std::vector<int32_t> end_token_ids;  // ascending; any of these ends a text
  int64_t max_context = 0;             // config.json's max_position_embeddings; 0 when it has none
};

// Reads the text files of a model folder, and the end tokens from generation_config.json,
// config.json and the tokenizer, all that are there together. InvalidArgument for a file that is
// malformed, and for a tokenizer with ids that the model's vocab_size does not reach; messages name
// the file inside the folder.
absl::StatusOr<ServedModel> LoadServedModel(const std::string& model_dir, std::string name);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_SERVING_SERVED_MODEL_H_
