#include "cli/plan/plot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "planner/feasibility.h"

namespace moe::cli {
namespace {

constexpr double kWidth = 460;  // of one panel's drawing area
constexpr double kHeight = 300;
constexpr double kLeft = 80;  // beside it
constexpr double kTop = 60;   // above all panels
constexpr double kBottom = 60;
constexpr double kLegendLine = 18;
// Distinct for most kinds of colour vision (Okabe and Ito).
constexpr std::array<const char*, 7> kColors = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                "#E69F00", "#56B4E9", "#000000"};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

// From values to coordinates, both logarithmic.
struct Scale {
  double min = 1;
  double max = 10;
  double from = 0;
  double to = 1;
  double At(double value) const {
    return from + (to - from) * std::log(value / min) / std::log(max / min);
  }
};

std::string Text(double x, double y, const std::string& anchor, const std::string& text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor,
                         Escape(text));
}

std::string Short(double value) {
  if (value >= 1e6) return absl::StrFormat("%gM", value / 1e6);
  if (value >= 1e3) return absl::StrFormat("%gk", value / 1e3);
  return absl::StrFormat("%g", value);
}

// Lines at powers of ten.
std::string Grid(const Scale& x, const Scale& y, double unit) {
  std::string svg;
  const auto line = [&svg](double x1, double y1, double x2, double y2) {
    absl::StrAppendFormat(
        &svg, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x1, y1,
        x2, y2);
  };
  for (double value = std::pow(10, std::ceil(std::log10(x.min / unit) - 1e-9)) * unit;
       value <= x.max * 1.0001; value *= 10) {
    line(x.At(value), y.from, x.At(value), y.to);
    svg += Text(x.At(value), y.from + 16, "middle", Short(value / unit));
  }
  for (double value = std::pow(10, std::ceil(std::log10(y.min) - 1e-9)); value <= y.max * 1.0001;
       value *= 10) {
    line(x.from, y.At(value), x.to, y.At(value));
    svg += Text(x.from - 6, y.At(value) + 4, "end", Short(value));
  }
  return svg;
}

std::string Panel(const planner::Sweep& sweep, double left, const std::string& caption,
                  double unit) {
  double lowest = 0;
  double highest = 0;
  for (const std::vector<double>& rates : sweep.sequences_per_second) {
    for (const double rate : rates) {
      if (rate <= 0) continue;
      lowest = lowest == 0 ? rate : std::min(lowest, rate);
      highest = std::max(highest, rate);
    }
  }
  if (highest == 0) return Text(left, kTop + kHeight / 2, "start", "nothing fits the memory");
  const Scale x{.min = sweep.min, .max = sweep.max, .from = left, .to = left + kWidth};
  const Scale y{.min = lowest / 1.1, .max = highest * 1.1, .from = kTop + kHeight, .to = kTop};
  std::string svg = absl::StrFormat(
      "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" "
      "stroke=\"#888\"/>\n",
      left, kTop, kWidth, kHeight);
  svg += Grid(x, y, unit);
  svg += Text(left + kWidth / 2, kTop + kHeight + 36, "middle", caption);
  for (size_t layout = 0; layout < sweep.sequences_per_second.size(); ++layout) {
    std::string points;
    for (size_t i = 0; i < sweep.values.size(); ++i) {
      const double rate = sweep.sequences_per_second[layout][i];
      if (rate > 0) absl::StrAppendFormat(&points, "%.1f,%.1f ", x.At(sweep.values[i]), y.At(rate));
    }
    absl::StrAppendFormat(&svg,
                          "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" "
                          "stroke-width=\"2\"/>\n",
                          points, kColors[layout % kColors.size()]);
  }
  for (const planner::Crossover& crossover : sweep.crossovers) {
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#444\" "
                          "stroke-dasharray=\"4 3\"/>\n",
                          x.At(crossover.value), kTop, x.At(crossover.value), kTop + kHeight);
    svg += Text(x.At(crossover.value), kTop - 6, "middle",
                absl::StrFormat("%.4g", crossover.value / unit));
  }
  return svg;
}

}  // namespace

std::string FormatPlot(const planner::Scenario& scenario, const planner::Comparison& comparison) {
  const double panels = static_cast<double>(comparison.sweeps.size());
  const double width = panels * (kWidth + kLeft) + 20;
  const double legend = kTop + kHeight + kBottom;
  const double height =
      legend + kLegendLine * (static_cast<double>(comparison.predictions.size()) + 1);
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      width, height, width, height);
  svg += Text(kLeft, 22, "start",
              absl::StrFormat("%s on %s x %s: sequences/s, predicted, %scalibrated on hardware "
                              "(dashed: one layout overtakes another)",
                              scenario.model.name, planner::WithThousands(scenario.num_gpus),
                              scenario.device.title, scenario.device.calibrated() ? "" : "not "));
  double left = kLeft;
  for (const planner::Sweep& sweep : comparison.sweeps) {
    const std::string with =
        absl::StrFormat(", with %s sequences in flight", planner::WithThousands(comparison.batch));
    switch (sweep.axis) {
      case planner::Axis::kBatch:
        svg += Panel(sweep, left, "sequences in flight on all GPUs", 1);
        break;
      case planner::Axis::kContext:
        svg += Panel(sweep, left, absl::StrCat("tokens of a sequence", with), 1);
        break;
      case planner::Axis::kLinkSpeed:
        svg += Panel(sweep, left, absl::StrCat("Gb/s of a GPU's network link", with), 1e9 / 8);
        break;
    }
    left += kWidth + kLeft;
  }
  for (size_t i = 0; i < comparison.predictions.size(); ++i) {
    const double y = legend + kLegendLine * static_cast<double>(i);
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                          "stroke-width=\"3\"/>\n",
                          kLeft, y, kLeft + 24, y, kColors[i % kColors.size()]);
    svg += Text(kLeft + 32, y + 4, "start", LayoutName(comparison.predictions[i].layout));
  }
  return svg + "</svg>\n";
}

}  // namespace moe::cli
