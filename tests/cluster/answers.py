"""What the product must answer, and clients that ask for it all the time.

`moe serve` with 8 workers on this machine says what is right: text and log-probabilities of greedy
completions are the same to the bit at every width, so the cluster's must be too.
"""

import os
import sys
import threading
import time

import openai

sys.path.insert(0, os.path.join(os.environ["MOE_ROOT"], "tests", "system"))
from served import Served  # noqa: E402

QUESTIONS = ["What is expert parallelism?", "What does a router do?", "What is an epoch?",
             "What happens when a worker dies?", "What is a KV cache?", "Who are you?"]


def client(url, host=None, key="none", timeout=180):
    headers = {"Host": host} if host else {}
    return openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=timeout, default_headers=headers)


def ask(api, question, model="demo", max_tokens=200, stream=True, seen=None):
    """(text, log-probabilities, number of tokens). `seen` is called at every piece of a stream."""
    options = {"model": model, "prompt": question, "max_tokens": max_tokens, "temperature": 0, "logprobs": 1,
               "extra_body": {"ignore_eos": True}}
    if not stream:
        reply = api.completions.create(**options)
        choice = reply.choices[0]
        return choice.text, choice.logprobs.token_logprobs, reply.usage.completion_tokens
    text, logprobs, usage, finish = [], [], None, None
    for chunk in api.completions.create(stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage.completion_tokens if chunk.usage else usage
        for choice in chunk.choices:
            text.append(choice.text)
            logprobs += choice.logprobs.token_logprobs if choice.logprobs else []
            finish = choice.finish_reason or finish
            if seen:
                seen()
    if finish != "length" or usage is None:
        raise AssertionError(f"a stream ended early: finish {finish!r}, usage {usage!r}, {len(logprobs)} tokens")
    return "".join(text), logprobs, usage


def right_answers():
    """{question: answer}, from `moe serve`."""
    with Served("--expert-parallel", "8").wait_ready() as served:
        with client(served.url) as api:
            return {question: ask(api, question) for question in QUESTIONS}


class Load:
    """Streams answers from several clients until left, and compares each with the right one.

        with Load(url, host, right) as load:
            ...
            load.wait_answers(5)   # more answers than there were
        load.check()
    """

    def __init__(self, url, host, right, num_clients=4):
        self.right = right
        self.url, self.host = url, host
        self.num_answers = 0
        self.failures = []
        self.longest_silence = 0.0  # seconds without any token at any client
        self._last = time.monotonic()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,), daemon=True) for i in range(num_clients)]

    def _seen(self):
        with self._lock:
            now = time.monotonic()
            self.longest_silence = max(self.longest_silence, now - self._last)
            self._last = now

    def _run(self, index):
        questions = list(self.right)
        with client(self.url, self.host) as api:
            while not self._stopping.is_set():
                question = questions[index % len(questions)]
                index += 1
                try:
                    answer = ask(api, question, seen=self._seen)
                    problem = None if answer == self.right[question] else f"another answer: {answer}"
                except Exception as error:  # whatever a client can meet is a failed request
                    problem = f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}; {error.__cause__!r}"
                with self._lock:
                    self.num_answers += 1
                    if problem:
                        self.failures.append((question, problem))
                if problem:
                    self._stopping.wait(0.5)

    def wait_answers(self, more, seconds=120):
        target = self.num_answers + more
        deadline = time.monotonic() + seconds
        while self.num_answers < target:
            assert time.monotonic() < deadline, f"no {more} more answers within {seconds} s; failures: {self.failures[:3]}"
            time.sleep(0.05)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        for thread in self._threads:
            thread.join(240)

    def check(self):
        assert not self.failures, f"{len(self.failures)} of {self.num_answers} requests failed: {self.failures[:3]}"
        assert self.num_answers > 0
