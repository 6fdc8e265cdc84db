// Bodies that must be refused with a 400 that names the field at fault.
//
// One list for the parser's test and for the server's: what the parser refuses must also come back
// as an error over HTTP, and leave the server as it was.
#ifndef MOE_TESTS_GATEWAY_TESTING_BAD_BODIES_H_
#define MOE_TESTS_GATEWAY_TESTING_BAD_BODIES_H_

#include <cstdint>
#include <string>
#include <vector>

namespace moe::gateway::testing {

struct BadBody {
  const char* sentence;
  std::string body;
  const char* param;  // "error.param" of the answer; "" is null
};

// `vocab_size`: the width of the logits.
std::vector<BadBody> BadCompletionBodies(int32_t vocab_size);
std::vector<BadBody> BadChatBodies();

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_TESTING_BAD_BODIES_H_
