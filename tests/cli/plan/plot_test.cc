#include "cli/plan/plot.h"

#include <regex>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/planner/scenarios.h"

namespace moe::cli {
namespace {

using planner::ParseLayout;
using ::testing::HasSubstr;
using ::testing::Not;

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(PlotTest, EachLayoutHasALineInEachPanelAndEachCrossoverAMark) {
  const auto comparison = planner::Compare(
      planner::OlmoeOn(64),
      {planner::Founding(), ParseLayout("DP64").value(), ParseLayout("EP64+replicated").value()});
  ASSERT_TRUE(comparison.ok()) << comparison.status();
  const std::string svg = FormatPlot(planner::OlmoeOn(64), *comparison);
  EXPECT_EQ(Count(svg, "<polyline "), 9u);
  size_t crossovers = 0;
  for (const planner::Sweep& sweep : comparison->sweeps) crossovers += sweep.crossovers.size();
  EXPECT_EQ(Count(svg, "stroke-dasharray"), crossovers);
  EXPECT_THAT(svg, HasSubstr(">EP64_TP1_PP1_DP1+replicated</text>"));
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

TEST(PlotTest, EveryCoordinateLiesInTheDrawing) {
  const auto comparison =
      planner::Compare(planner::OlmoeOn(64), {planner::Founding(), ParseLayout("DP64").value()});
  ASSERT_TRUE(comparison.ok());
  const std::string svg = FormatPlot(planner::OlmoeOn(64), *comparison);
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  // With a decimal each: a number in the title has none.
  const std::regex point("([-0-9]+\\.[0-9]),([-0-9]+\\.[0-9]) ");
  size_t points = 0;
  for (std::sregex_iterator it(svg.begin(), svg.end(), point), end; it != end; ++it) {
    ++points;
    EXPECT_GE(std::stod((*it)[1]), 0);
    EXPECT_LE(std::stod((*it)[1]), 1640);
    EXPECT_GE(std::stod((*it)[2]), 0);
    EXPECT_LE(std::stod((*it)[2]), 480);
  }
  EXPECT_GT(points, 100u);
}

TEST(PlotTest, NamesAreEscaped) {
  planner::Scenario scenario = planner::OlmoeOn(64);
  scenario.model.name = "<a & \"b\">";
  const auto comparison =
      planner::Compare(scenario, {planner::Founding(), ParseLayout("DP64").value()});
  ASSERT_TRUE(comparison.ok());
  EXPECT_THAT(FormatPlot(scenario, *comparison), HasSubstr("&lt;a &amp; &quot;b&quot;&gt; on 64"));
}

}  // namespace
}  // namespace moe::cli
