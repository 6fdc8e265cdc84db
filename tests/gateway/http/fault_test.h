// What a test of bad input needs: the server must answer it with an error in JSON that gives
// nothing away, count it, close the connection, and answer the next good request as ever.
#ifndef MOE_TESTS_GATEWAY_HTTP_FAULT_TEST_H_
#define MOE_TESTS_GATEWAY_HTTP_FAULT_TEST_H_

#include <string>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/gateway/http/test_server.h"

namespace moe::gateway::testing {

inline constexpr char kGoodBody[] = R"({"prompt": "hi", "seed": 1})";

class FaultTest : public ServerTest {
 protected:
  using Json = nlohmann::json;

  // The answer to a good request, without what is new in every answer.
  std::string GoodAnswer() {
    const std::string answer = Complete(kGoodBody);
    Json json = Json::parse(BodyOf(answer), nullptr, false);
    if (!json.is_object() || !json.contains("choices")) {
      return "no answer: " + answer.substr(0, 500);
    }
    json.erase("id");
    json.erase("created");
    return json.dump();
  }

  void StartAndAnswerOnce() {
    Start();
    first_good_ = GoodAnswer();
    ASSERT_THAT(first_good_, ::testing::HasSubstr("hello"));
  }

  void ExpectStillGood() { EXPECT_EQ(GoodAnswer(), first_good_); }

  // Returns the error.
  static Json ExpectJsonError(const std::string& answer, int status) {
    EXPECT_EQ(StatusOf(answer), status) << answer.substr(0, 500);
    const Json json = Json::parse(BodyOf(answer), nullptr, false);
    if (!json.is_object() || !json.contains("error")) {
      ADD_FAILURE() << "no error in JSON: " << answer.substr(0, 500);
      return Json::object();
    }
    const Json& error = json["error"];
    const auto message = error["message"].get<std::string>();
    EXPECT_FALSE(message.empty());
    EXPECT_LT(message.size(), 500U);
    // No path, address, place in the source or pointer.
    EXPECT_THAT(message, ::testing::Not(::testing::ContainsRegex(
                             "/(work|tmp|home|root|srv|etc|proc|usr|build)|[.](cc|h|rs|json)([^a-z]"
                             "|$)|[0-9]+[.][0-9]+[.][0-9]+[.][0-9]+|0x[0-9a-f]+|localhost")));
    return error;
  }

  // Sends a request on a connection of its own; an error and the end of the connection must follow.
  Json ExpectRefused(const std::string& request, int status) {
    RawClient client(port());
    client.Send(request);
    const std::string answer = client.ReceiveAll();
    EXPECT_TRUE(client.ended()) << "the connection stays open";
    return ExpectJsonError(answer, status);
  }

  double Rejected(const std::string& reason) {
    return Metric("moe_rejected_requests_total{model_name=\"tiny\",reason=\"" + reason + "\"}");
  }

  void WaitUntilNothingLives() {
    while (generator_.num_live() > 0) {
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

 private:
  std::string first_good_;
};

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_HTTP_FAULT_TEST_H_
