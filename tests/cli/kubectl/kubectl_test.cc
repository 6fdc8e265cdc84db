// Tests cli/kubectl/kubectl.h.
#include "cli/kubectl/kubectl.h"

#include <csignal>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cli/kubectl/fake_kubectl.h"

namespace moe::cli {
namespace {

using testing::FakeKubectl;
using ::testing::HasSubstr;

TEST(KubectlTest, PassesWordsAsTheyAre) {
  const FakeKubectl fake;
  fake.Script("cat");
  const Kubectl kubectl({fake.program(), "my context", "ns"});
  EXPECT_EQ(kubectl.Run({"get", "$(id); `id`", "a b", ""}, "input\n").value_or("?"), "input\n");
  EXPECT_EQ(fake.calls(), "--context=my context\n--namespace=ns\nget\n$(id); `id`\na b\n\n--\n");
}

TEST(KubectlTest, WithoutContextAndNamespaceTheyAreKubectlsOwn) {
  const FakeKubectl fake;
  fake.Script("echo done");
  EXPECT_EQ(Kubectl({fake.program(), "", ""}).Run({"version"}).value_or("?"), "done\n");
  EXPECT_EQ(fake.calls(), "version\n--\n");
}

TEST(KubectlTest, MuchInAndOutAtOnceDoesNotHang) {
  const FakeKubectl fake;
  fake.Script("cat; head -c 300000 /dev/zero | tr '\\0' 'e' >&2");
  const std::string input(3 << 20, 'x');
  const auto output = Kubectl({fake.program(), "", ""}).Run({"create"}, input);
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(*output, input);
}

TEST(KubectlTest, AProgramThatDoesNotReadItsInputIsNoError) {
  const FakeKubectl fake;
  fake.Script("exec 0<&-; echo fine");
  signal(SIGPIPE, SIG_IGN);
  EXPECT_EQ(
      Kubectl({fake.program(), "", ""}).Run({"create"}, std::string(1 << 20, 'x')).value_or("?"),
      "fine\n");
}

TEST(KubectlTest, ErrorsAreWhatItSays) {
  const FakeKubectl fake;
  fake.Script("echo 'Error from server (NotFound): no such thing' >&2; exit 1");
  EXPECT_EQ(Kubectl({fake.program(), "", ""}).Run({"get"}).status().message(),
            "Error from server (NotFound): no such thing");
  fake.Script("exit 3");
  EXPECT_THAT(std::string(Kubectl({fake.program(), "", ""}).Run({"get"}).status().message()),
              HasSubstr("ended with 3"));
  EXPECT_TRUE(absl::IsNotFound(Kubectl({"no-such-kubectl", "", ""}).Run({"get"}).status()));
  EXPECT_TRUE(absl::IsNotFound(Kubectl({"no-such-kubectl", "", ""}).Show({"get"}).status()));
}

TEST(KubectlTest, EndlessOutputIsBounded) {
  const FakeKubectl fake;
  fake.Script("head -c 70000000 /dev/zero");
  EXPECT_TRUE(absl::IsResourceExhausted(Kubectl({fake.program(), "", ""}).Run({"get"}).status()));
}

TEST(KubectlTest, ShowGivesTheExitCode) {
  const FakeKubectl fake;
  fake.Script("cat; exit 7");
  EXPECT_EQ(Kubectl({fake.program(), "", ""}).Show({"logs"}).value_or(-1), 7);
}

}  // namespace
}  // namespace moe::cli
