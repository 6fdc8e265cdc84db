#include "simulator/step_times.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace moe::simulator {
namespace {

constexpr double kMaxSeconds = 3600;

absl::Status CheckCurve(const std::vector<StepTimes::Point>& curve, absl::string_view name) {
  if (curve.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("there is no time of a ", name, " step"));
  }
  double before = 0;
  for (const StepTimes::Point& point : curve) {
    if (!(point.rows > before && std::isfinite(point.rows) && point.rows >= 1)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rows of ", name, " steps must rise from 1 on; ", point.rows, " follows ", before));
    }
    if (!(point.seconds > 0 && point.seconds <= kMaxSeconds)) {
      return absl::InvalidArgumentError(absl::StrCat("a ", name, " step of ", point.rows,
                                                     " rows takes ", point.seconds,
                                                     " seconds, which is no time"));
    }
    before = point.rows;
  }
  return absl::OkStatus();
}

double At(const std::vector<StepTimes::Point>& curve, double rows) {
  if (curve.size() == 1 || rows <= curve.front().rows) return curve.front().seconds;
  size_t right = 1;
  while (right + 1 < curve.size() && curve[right].rows < rows) ++right;
  const StepTimes::Point& a = curve[right - 1];
  const StepTimes::Point& b = curve[right];
  // Behind the last point the line may not fall.
  const double slope = (b.seconds - a.seconds) / (b.rows - a.rows);
  return rows <= b.rows ? a.seconds + slope * (rows - a.rows)
                        : b.seconds + std::max(0.0, slope) * (rows - b.rows);
}

}  // namespace

absl::Status CheckStepTimes(const StepTimes& times) {
  absl::Status status = CheckCurve(times.decode, "decode");
  return status.ok() ? CheckCurve(times.prefill, "prefill") : status;
}

double SecondsOf(const StepTimes& times, const planner::StepRows& rows, double decode_rows) {
  if (!rows.prefill) return At(times.decode, rows.rows);
  const double all = At(times.prefill, rows.rows);
  if (decode_rows < 1) return all;
  return all + std::max(0.0, At(times.decode, decode_rows) - At(times.prefill, decode_rows));
}

}  // namespace moe::simulator
