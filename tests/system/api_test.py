"""The parameters of the HTTP API, through the programs themselves.

What a unit test of one part can't show: that a parameter reaches the sampler and does there what the
API promises. Log-probabilities make most of it exact: they come from the raw logits, so they say
which tokens a limit allowed, and the same number reached in two ways must be the same bits.
"""

import concurrent.futures
import http.client
import json
import math
import os
import signal
import unittest

import openai
from tokenizers import Tokenizer

from served import DEMO, Served, descendants, wait_until

QUESTION = "What is expert parallelism?"
TEXTS = ["Expert parallelism places different experts on different workers.",
         "Q: What is an epoch?\nA: A numbered membership of the group.",
         "héllo wörld, ☃ 你好 and bytes \U0001f600"]


class ApiTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.served = Served("--expert-parallel", "8")
        cls.addClassCleanup(cls.served.__exit__)
        cls.served.wait_ready()
        cls.api = openai.OpenAI(base_url=cls.served.url + "/v1", api_key="none", max_retries=0)
        cls.addClassCleanup(cls.api.close)
        cls.tokenizer = Tokenizer.from_file(os.path.join(DEMO, "tokenizer.json"))

    def ids(self, text):
        return self.tokenizer.encode(text).ids

    def complete(self, prompt, extra=None, **options):
        return self.api.completions.create(
            model="demo", prompt=prompt, **{"temperature": 0, **options}, extra_body=extra or {})

    def chat(self, content=QUESTION, extra=None, **options):
        return self.api.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": content}],
            **{"temperature": 0, "max_tokens": 60, **options}, extra_body=extra or {})

    def refused(self, param, path="/v1/completions", **body):
        code, reply = self.served.post(path, {"prompt": "a", **body})
        self.assertEqual((code, reply["error"]["param"]), (400, param), reply)

    # --- log-probabilities ---

    def test_echo_scores_a_prompt_as_lm_eval_asks(self):
        prompts = [self.ids(text) for text in TEXTS]
        answer = self.complete(prompts, echo=True, logprobs=1, max_tokens=1, seed=1234)
        self.assertEqual([choice.index for choice in answer.choices], list(range(len(prompts))))
        self.assertEqual(answer.usage.prompt_tokens, sum(map(len, prompts)))
        self.assertEqual(answer.usage.completion_tokens, len(prompts))
        for prompt, choice in zip(prompts, answer.choices):
            scores = choice.logprobs
            for entries in (scores.tokens, scores.token_logprobs, scores.top_logprobs,
                            scores.text_offset):
                self.assertEqual(len(entries), len(prompt) + 1)
            self.assertIsNone(scores.token_logprobs[0])
            self.assertIsNone(scores.top_logprobs[0])
            # Each position again, by a prompt that ends before it. A bias forces the token;
            # log-probabilities are taken before biases.
            for i in range(1, len(prompt)):
                forced = self.complete(prompt[:i], logprobs=1, max_tokens=1,
                                       logit_bias={str(prompt[i]): 100}).choices[0].logprobs
                self.assertEqual(forced.tokens, [scores.tokens[i]])
                self.assertEqual(forced.token_logprobs, [scores.token_logprobs[i]])
                self.assertEqual(forced.top_logprobs[0], scores.top_logprobs[i])
            following = self.complete(prompt, logprobs=1, max_tokens=1).choices[0].logprobs
            self.assertEqual(following.token_logprobs, scores.token_logprobs[-1:])
            self.assertEqual(following.top_logprobs, scores.top_logprobs[-1:])
            self.assertEqual(following.tokens, scores.tokens[-1:])

    def test_a_continuation_is_greedy_exactly_if_each_token_has_the_top_score(self):
        """lm-eval's rule: equal floats, not nearly equal ones."""
        context = self.ids("Expert parallelism")
        drawn = self.complete(context, max_tokens=8, logprobs=1).choices[0]
        continuation = self.ids("Expert parallelism" + drawn.text)[len(context):]
        for tokens, greedy in ((continuation, True), (self.ids("zebra crossing"), False)):
            scores = self.complete([context + tokens], echo=True, logprobs=1, max_tokens=1,
                                   seed=1234).choices[0].logprobs
            pairs = list(zip(scores.token_logprobs, scores.top_logprobs))[len(context):-1]
            self.assertEqual(len(pairs), len(tokens))
            self.assertEqual(all(score == max(top.values()) for score, top in pairs), greedy)
            if greedy:
                self.assertEqual([score for score, _ in pairs],
                                 drawn.logprobs.token_logprobs[:len(pairs)])

    def test_echo_gives_prompt_and_answer_as_one_text(self):
        for text in TEXTS[:2]:
            whole = self.complete(text, echo=True, logprobs=2, max_tokens=12).choices[0]
            answer = self.complete(text, logprobs=2, max_tokens=12).choices[0]
            self.assertEqual(whole.text, text + answer.text)
            self.assertEqual("".join(whole.logprobs.tokens[:len(self.ids(text))]), text)
            for token, offset in zip(whole.logprobs.tokens, whole.logprobs.text_offset):
                self.assertTrue(whole.text[offset:].startswith(token) or offset == len(whole.text))
            prompt_only = self.complete(text, echo=True, logprobs=2, max_tokens=0)
            self.assertEqual(prompt_only.choices[0].text, text)
            self.assertEqual(prompt_only.usage.completion_tokens, 0)
            self.assertEqual(prompt_only.choices[0].logprobs.token_logprobs,
                             whole.logprobs.token_logprobs[:len(self.ids(text))])

    def test_a_prompt_has_the_same_scores_alone_and_in_a_batch_of_any_kind(self):
        alone = [self.complete(text, echo=True, logprobs=3, max_tokens=2).choices[0]
                 for text in TEXTS]
        for batch in (TEXTS, [self.ids(text) for text in TEXTS]):
            together = self.complete(batch, echo=True, logprobs=3, max_tokens=2)
            for one, choice in zip(alone, together.choices):
                self.assertEqual(choice.logprobs, one.logprobs)

    def test_chat_log_probabilities(self):
        whole = self.chat(logprobs=True, top_logprobs=4)
        content = whole.choices[0].logprobs.content
        self.assertEqual(len(content), whole.usage.completion_tokens)
        text = b"".join(bytes(entry.bytes) for entry in content)
        # The token that ends the answer is scored and is not text.
        self.assertTrue(text.decode().startswith(whole.choices[0].message.content))
        for entry in content:
            self.assertEqual(len(entry.top_logprobs), 4)
            scores = [top.logprob for top in entry.top_logprobs]
            self.assertEqual(scores, sorted(scores, reverse=True))
            self.assertEqual((entry.token, entry.logprob),
                             (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob))
            self.assertLess(sum(map(math.exp, scores)), 1.0001)
        plain = self.chat(logprobs=True).choices[0].logprobs.content
        self.assertEqual([entry.logprob for entry in plain], [entry.logprob for entry in content])
        self.assertTrue(all(entry.top_logprobs == [] for entry in plain))
        self.assertIsNone(self.chat().choices[0].logprobs)
        streamed = []
        for chunk in self.chat(logprobs=True, top_logprobs=4, stream=True):
            for choice in chunk.choices:
                streamed += choice.logprobs.content if choice.logprobs else []
        self.assertEqual(streamed, content)

    # --- sampling ---

    def test_choices_are_drawn_apart_and_again_the_same(self):
        options = {"temperature": 2, "max_tokens": 20, "seed": 7, "logprobs": 0}
        four = self.complete(QUESTION, n=4, **options)
        self.assertEqual([choice.index for choice in four.choices], [0, 1, 2, 3])
        texts = [choice.text for choice in four.choices]
        self.assertEqual(len(set(texts)), 4)
        self.assertEqual(four.usage.completion_tokens,
                         sum(len(choice.logprobs.tokens) for choice in four.choices))
        self.assertEqual(four.usage.prompt_tokens, len(self.ids(QUESTION)), "once, not four times")
        self.assertEqual(self.complete(QUESTION, n=4, **options).choices, four.choices)
        self.assertEqual(self.complete(QUESTION, **options).choices[0], four.choices[0])
        streamed = [""] * 4
        for chunk in self.complete(QUESTION, n=4, stream=True, **options):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
        self.assertEqual(streamed, texts)
        both = self.complete([QUESTION, "An epoch"], n=2, **options)
        self.assertEqual([choice.index for choice in both.choices], [0, 1, 2, 3])
        self.assertEqual([choice.text for choice in both.choices[:2]], texts[:2])

    def test_a_seed_repeats_and_no_seed_does_not(self):
        def text(**options):
            return self.complete(QUESTION, temperature=2, max_tokens=20, **options).choices[0].text
        self.assertEqual(text(seed=1), text(seed=1))
        self.assertEqual(len({text(seed=seed) for seed in (1, 2, 3, -1, 2**63)}), 5)
        self.assertEqual(len({text() for _ in range(3)}), 3)

    def test_limits_leave_only_the_tokens_that_they_name(self):
        def drawn(**extra):
            scores = []
            # Fixed seeds: what is drawn without limits is then known to be outside of them.
            for seed in (1, 2, 3):
                choice = self.complete(QUESTION, temperature=1, seed=seed, max_tokens=60, logprobs=20,
                                       extra={"ignore_eos": True, **extra}).choices[0].logprobs
                self.assertEqual(len(choice.tokens), 60)
                scores += [(score, sorted(top.values(), reverse=True))
                           for score, top in zip(choice.token_logprobs, choice.top_logprobs)]
            return scores
        for score, top in drawn(top_k=3):
            self.assertGreaterEqual(score, top[2])
        for score, top in drawn(min_p=0.25):
            self.assertGreaterEqual(score, top[0] + math.log(0.25) - 1e-5)
        for score, top in drawn(top_p=0.5):
            above = sum(math.exp(other) for other in top if other > score)
            self.assertLess(above, 0.5 + 1e-5)
        free = drawn()
        self.assertTrue(any(score < top[2] for score, top in free), "limits matter here")
        self.assertTrue(any(score < top[0] + math.log(0.25) for score, top in free))
        self.assertTrue(any(sum(math.exp(other) for other in top if other > score) > 0.5
                            for score, top in free))

    def test_the_narrowest_limit_is_greedy(self):
        greedy = self.complete(QUESTION, max_tokens=30, logprobs=0).choices[0]
        for extra in ({"top_k": 1}, {"min_p": 1}, {"top_p": 1e-6}):
            self.assertEqual(self.complete(QUESTION, temperature=2, max_tokens=30, logprobs=0,
                                           extra=extra).choices[0], greedy, extra)

    def test_logit_bias_forbids_and_forces(self):
        prompt = "An expert is"
        free = self.complete(prompt, max_tokens=1, logprobs=5).choices[0].logprobs
        first = self.ids(prompt + free.tokens[0])[len(self.ids(prompt)):]
        self.assertEqual(len(first), 1)
        forbidden = self.complete(prompt, max_tokens=1, logprobs=5,
                                  logit_bias={str(first[0]): -100}).choices[0].logprobs
        second = sorted(free.top_logprobs[0].items(), key=lambda item: -item[1])[1]
        self.assertEqual((forbidden.tokens[0], forbidden.token_logprobs[0]), second)
        word = self.ids(" epoch")
        forced = self.complete(prompt, max_tokens=5, logprobs=0,
                               logit_bias={str(word[0]): 100}).choices[0]
        self.assertEqual(forced.logprobs.tokens, [self.tokenizer.decode(word[:1])] * 5)

    def test_frequency_and_presence_penalties_pick_what_they_say(self):
        for frequency, presence in ((2, 0), (0, 2), (1.5, 0.5), (-1, 0.25)):
            scores = self.complete("the the the", max_tokens=60, logprobs=20,
                                   frequency_penalty=frequency, presence_penalty=presence,
                                   extra={"ignore_eos": True}).choices[0].logprobs
            counts = {}
            num_changed = 0
            for token, top in zip(scores.tokens, scores.top_logprobs):
                def penalized(text, top=top):
                    seen = counts.get(text, 0)
                    return top[text] - frequency * seen - (presence if seen else 0)
                best = max(map(penalized, top))
                # Float32 in the server; two tokens may be as good as each other.
                self.assertGreater(penalized(token), best - 1e-4, (frequency, presence))
                num_changed += top[token] < max(top.values())
                counts[token] = counts.get(token, 0) + 1
            self.assertGreater(num_changed, 0, "the penalty changed nothing")

    def test_a_repetition_penalty_counts_the_prompt_too(self):
        prompt = "the router the router the router the"
        def tokens(penalty):
            scores = self.complete(prompt, max_tokens=40, logprobs=0,
                                   extra={"ignore_eos": True, "repetition_penalty": penalty})
            return scores.choices[0].logprobs.tokens
        plain = self.complete(prompt, max_tokens=40, logprobs=0, extra={"ignore_eos": True})
        self.assertEqual(tokens(1.0), plain.choices[0].logprobs.tokens)
        self.assertGreater(len(set(tokens(3.0))), len(set(tokens(1.0))))
        self.assertNotIn(" router", tokens(10.0)[:5])

    # --- length ---

    def test_lengths(self):
        free = self.chat()
        self.assertEqual(free.choices[0].finish_reason, "stop")
        num_tokens = free.usage.completion_tokens
        cut = self.chat(max_tokens=num_tokens - 1)
        self.assertEqual((cut.choices[0].finish_reason, cut.usage.completion_tokens),
                         ("length", num_tokens - 1))
        longer = self.chat(extra={"min_tokens": num_tokens + 7})
        self.assertGreaterEqual(longer.usage.completion_tokens, num_tokens + 7)
        self.assertTrue(longer.choices[0].message.content.startswith(
            free.choices[0].message.content))
        endless = self.chat(extra={"ignore_eos": True}, max_tokens=100)
        self.assertEqual((endless.choices[0].finish_reason, endless.usage.completion_tokens),
                         ("length", 100))
        comma = self.ids(",")
        at_comma = self.complete("One, two, three, four", max_tokens=40, logprobs=0,
                                 extra={"stop_token_ids": comma, "ignore_eos": True}).choices[0]
        self.assertNotIn(",", at_comma.logprobs.tokens[:-1])
        self.assertEqual((at_comma.finish_reason, at_comma.logprobs.tokens[-1]), ("stop", ","))
        newer = self.chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=5)
        self.assertEqual(newer.usage.completion_tokens, 5)
        self.assertEqual(self.complete(QUESTION, extra={"ignore_eos": True})
                         .usage.completion_tokens, 16, "this API's default")

    def test_stop_strings_cut_the_text_before_them(self):
        free = self.chat()
        text = free.choices[0].message.content
        for stop in (text[10:16], text[20:23], text[-3:]):
            want = text[:text.index(stop)]
            whole = self.chat(stop=["never said", stop])
            self.assertEqual(whole.choices[0].message.content, want)
            self.assertEqual(whole.choices[0].finish_reason, "stop")
            self.assertLessEqual(whole.usage.completion_tokens, free.usage.completion_tokens)
            pieces = [chunk.choices[0].delta.content or ""
                      for chunk in self.chat(stop=stop, stream=True)]
            self.assertEqual("".join(pieces), want)
        self.assertEqual(self.chat(stop="never said").choices[0].message.content, text)

    # --- streams ---

    def test_usage_in_streams(self):
        whole = self.chat()
        plain = list(self.chat(stream=True))
        self.assertTrue(all(chunk.usage is None and chunk.choices for chunk in plain))
        once = list(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertTrue(all(chunk.usage is None and chunk.choices for chunk in once[:-1]))
        self.assertEqual((once[-1].choices, once[-1].usage), ([], whole.usage))
        always = list(self.chat(stream=True, stream_options={
            "include_usage": True, "continuous_usage_stats": True}))
        counts = [chunk.usage.completion_tokens for chunk in always]
        self.assertEqual(counts, sorted(counts))
        self.assertLess(counts[0], counts[-1])
        self.assertEqual({chunk.usage.prompt_tokens for chunk in always},
                         {whole.usage.prompt_tokens})
        self.assertEqual((always[-1].choices, always[-1].usage), ([], whole.usage))
        for chunks in (plain, once, always):
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            self.assertEqual(text, whole.choices[0].message.content)
            self.assertTrue(chunks[0].choices[0].delta.content, "no chunk before a token")

    def test_a_client_that_leaves_frees_the_cache(self):
        def idle():
            engine = self.served.status()["engine"]
            return engine["running"] + engine["waiting"] == 0 and engine["kv_usage"] == 0
        wait_until(idle, 30, "an idle engine")
        body = {"model": "demo", "prompt": QUESTION, "ignore_eos": True, "max_tokens": 1500, "n": 4}
        for stream in (True, False):
            generated = self.served.status()["engine"]["generated_tokens"]
            connection = http.client.HTTPConnection("127.0.0.1", self.served.port)
            connection.request("POST", "/v1/completions", json.dumps({**body, "stream": stream}),
                               {"Content-Type": "application/json"})
            wait_until(lambda: self.served.status()["engine"]["running"] == 4, 30, "it runs")
            if stream:
                connection.getresponse().close()
            connection.close()
            wait_until(idle, 30, "its sequences are gone")
            ran = self.served.status()["engine"]["generated_tokens"] - generated
            self.assertLess(ran, 4 * 1500, "it ran to its end")

    # --- what is refused ---

    def test_wrong_requests_name_the_field_and_leave_the_engine_as_it_was(self):
        with open(os.path.join(DEMO, "config.json"), encoding="utf-8") as file:
            vocab_size = json.load(file)["vocab_size"]
        pids = [worker["pid"] for worker in self.served.status()["workers"]]
        want = self.complete(QUESTION, max_tokens=20, logprobs=3).choices
        self.refused("prompt", prompt=[vocab_size])
        self.refused("prompt[1]", prompt=[[1], [-1]])
        self.refused("logit_bias", logit_bias={str(vocab_size): 1})
        self.refused("stop_token_ids", stop_token_ids=[vocab_size])
        self.refused("prompt", prompt="a " * 100000)
        self.refused("messages", "/v1/chat/completions",
                     messages=[{"role": "user", "content": "a " * 100000}])
        self.refused("logprobs", logprobs=1000000)
        self.refused("min_tokens", min_tokens=17)
        self.refused("response_format", response_format={"type": "json_object"})
        self.refused("tools", tools=[{"type": "function", "function": {"name": "f"}}])
        # Allowed, however odd: answered, and nobody else notices.
        for odd in ({"repetition_penalty": 0.01}, {"repetition_penalty": 10, "temperature": 2},
                    {"temperature": 1e-5}, {"temperature": 1.1e-5, "top_p": 1e-30},
                    {"min_p": 1e-30, "top_k": 2**31 - 1}, {"frequency_penalty": -2, "seed": -1},
                    {"logit_bias": {str(i): -100 for i in range(1000)}},
                    {"max_tokens": 2**31 - 1, "stop": "e"}):
            code, reply = self.served.post("/v1/completions", {"prompt": QUESTION, **odd})
            self.assertEqual(code, 200, (odd, reply))
        self.assertEqual(self.complete(QUESTION, max_tokens=20, logprobs=3).choices, want)
        self.assertEqual([worker["pid"] for worker in self.served.status()["workers"]], pids)


class HealthTest(unittest.TestCase):

    def test_between_two_epochs_health_says_recovering_and_requests_wait(self):
        with Served("--expert-parallel", "8").wait_ready() as served:
            api = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
            def text():
                return api.completions.create(model="demo", prompt=QUESTION, temperature=0,
                                              max_tokens=20).choices[0].text
            want = text()
            before = set(descendants(served.process.pid))
            os.kill(served.worker_pid(5), signal.SIGKILL)
            # The replacement stands still until it was seen that the group waits for it.
            replacement = wait_until(lambda: set(descendants(served.process.pid)) - before, 30,
                                     "a new worker").pop()
            os.kill(replacement, signal.SIGSTOP)
            asked = concurrent.futures.ThreadPoolExecutor(1).submit(text)
            seen = []
            def is_recovering():
                seen.append(served.get("/health"))
                return len(seen) > 50 and seen[-1][0] == 503
            wait_until(is_recovering, 60, f"recovering; health said {seen}")
            os.kill(replacement, signal.SIGCONT)
            wait_until(lambda: served.get("/health")[0] == 200, 60, "serving again")
            self.assertEqual(asked.result(60), want)
            for code, body in seen:
                self.assertTrue(code == 200 or (code == 503 and "recovering" in body), (code, body))
            self.assertEqual(served.status()["failovers"], 0, "the leader was never given up")
            os.kill(served.worker_pid(3), signal.SIGKILL)
            self.assertEqual(text(), want, "asked in the middle of it")
            self.assertEqual(served.stop(), 0)


if __name__ == "__main__":
    unittest.main(verbosity=2)
