// The groups as JSON, for /moe/status.
//
// Tested by tests/gateway/http/api_server_test.cc.
#ifndef MOE_GATEWAY_HTTP_GROUP_STATUS_H_
#define MOE_GATEWAY_HTTP_GROUP_STATUS_H_

#include <string>

#include "gateway/journal/generation.h"

namespace moe::gateway {

// Phase, epoch, layout, KV cache, engine statistics, one entry per worker, and how many tokens each
// expert of each layer ran ("expert_tokens": [layers][experts]; empty while nothing is known). At
// the top it is EngineView::group, with the statistics and the expert load of all groups added up;
// then "groups" has the same for each, and what this gateway has in it.
std::string GroupStatusJson(const std::string& model, const EngineView& view);

}  // namespace moe::gateway

#endif  // MOE_GATEWAY_HTTP_GROUP_STATUS_H_
