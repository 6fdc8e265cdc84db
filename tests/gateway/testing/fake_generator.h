// A Generator without an engine: every request gets the same scripted answer.
#ifndef MOE_TESTS_GATEWAY_TESTING_FAKE_GENERATOR_H_
#define MOE_TESTS_GATEWAY_TESTING_FAKE_GENERATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "gateway/journal/generation.h"

namespace moe::gateway::testing {

// Thread-safe. Outlives its generations.
class FakeGenerator : public Generator {
 public:
  FakeGenerator();

  // Of the requests that start from now on.
  void SetAnswer(const std::string& text);
  void SetAnswerTokens(std::vector<int32_t> tokens);
  // Ends with this error after so many tokens.
  void FailAfter(int num_tokens, absl::Status status);
  // A sequence's own failure, as a token event.
  void SetEventError(const std::string& error);
  // As a bug would: throws after so many tokens, at Start for 0. -1 is never.
  void ThrowAfter(int num_tokens);
  // Start itself fails.
  void SetStartStatus(absl::Status status);
  // At most so many at once; more fail with ResourceExhausted at Next.
  void SetMaxLive(int max_live);
  void SetServing(bool serving);
  void SetOtherModelServes(bool serves);
  // False: as if no engine had been there ever.
  void SetKnown(bool known);
  // How many tokens one call of Next gives; 0 holds all back until it is changed.
  void SetPiece(int num_tokens);

  std::vector<GenerationRequest> requests() const;
  int num_live() const;
  int num_cancelled() const;  // destroyed before their end
  int max_seen_live() const;

  absl::StatusOr<std::unique_ptr<Generation>> Start(GenerationRequest request) override;
  engine::v1::Welcome welcome() const override;
  EngineView view() const override;

 private:
  class FakeGeneration;

  mutable absl::Mutex mutex_;
  EngineView view_ ABSL_GUARDED_BY(mutex_);
  bool known_ ABSL_GUARDED_BY(mutex_) = true;
  std::vector<int32_t> answer_ ABSL_GUARDED_BY(mutex_);
  int piece_ ABSL_GUARDED_BY(mutex_) = 1;
  int fail_after_ ABSL_GUARDED_BY(mutex_) = -1;
  int throw_after_ ABSL_GUARDED_BY(mutex_) = -1;
  absl::Status fail_status_ ABSL_GUARDED_BY(mutex_);
  std::string event_error_ ABSL_GUARDED_BY(mutex_);
  absl::Status start_status_ ABSL_GUARDED_BY(mutex_);
  int max_live_ ABSL_GUARDED_BY(mutex_) = 1 << 20;
  int num_live_ ABSL_GUARDED_BY(mutex_) = 0;
  int max_seen_live_ ABSL_GUARDED_BY(mutex_) = 0;
  int num_cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<GenerationRequest> requests_ ABSL_GUARDED_BY(mutex_);
  std::vector<FakeGeneration*> live_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moe::gateway::testing

#endif  // MOE_TESTS_GATEWAY_TESTING_FAKE_GENERATOR_H_
