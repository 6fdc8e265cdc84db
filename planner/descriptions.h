// The data files of this folder (devices/, links/, exchanges/), as they were when this was built.
#ifndef MOE_PLANNER_DESCRIPTIONS_H_
#define MOE_PLANNER_DESCRIPTIONS_H_

#include <string>
#include <vector>

namespace moe::planner {

struct Description {
  std::string kind = {};  // "devices", "links" or "exchanges"
  std::string name = {};  // of the file, without ".json"
  std::string json = {};
};

std::vector<Description> Descriptions();

}  // namespace moe::planner

#endif  // MOE_PLANNER_DESCRIPTIONS_H_
