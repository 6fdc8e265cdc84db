"""The real moe-gateway, a scripted engine, and the openai package as its users have it.

Usage: openai_client_test.py FAKE_ENGINE MOE_GATEWAY
"""

import concurrent.futures
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

import openai

FAKE_ENGINE, GATEWAY = sys.argv[1:3]
ANSWER = "Grüße, this is a tést."
KEY = "secret-key"


class Engine:
    """The scripted engine as a process."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [FAKE_ENGINE, folder, ANSWER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def start_gateway(folder, port="0", **environment):
    return subprocess.Popen(
        [GATEWAY, "--coordinator", f"unix:{folder}/coordinator.sock", "--model", f"{folder}/model",
         "--served-model-name", "tiny", "--port", port],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment})


def read_url(gateway):
    line = gateway.stdout.readline()
    match = re.fullmatch(
        r"Serving tiny on (http://127\.0\.0\.1:\d+) \| EP2_TP1_PP1_DP1, 2 workers \| KV cache 4096 "
        r"tokens\n", line)
    assert match, (line, gateway.poll() is not None and gateway.stderr.read())
    return match[1]


def get(url, key=None):
    request = urllib.request.Request(url)
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return answer.read().decode()


class OpenAiClientTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="moe-openai-")
        cls.engine = Engine(cls.folder)
        cls.gateway = start_gateway(cls.folder, MOE_API_KEY=KEY)
        cls.url = read_url(cls.gateway)
        cls.http = openai.DefaultHttpxClient(trust_env=False)
        cls.client = openai.OpenAI(
            base_url=cls.url + "/v1", api_key=KEY, max_retries=0, http_client=cls.http)

    @classmethod
    def tearDownClass(cls):
        cls.http.close()
        cls.gateway.send_signal(signal.SIGTERM)
        out, err = cls.gateway.communicate(timeout=60)
        assert cls.gateway.returncode == 0, (cls.gateway.returncode, err)
        assert out == "", out
        cls.engine.stop()
        shutil.rmtree(cls.folder)

    def chat(self, **arguments):
        return self.client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "hello"}], **arguments)

    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny"])
        self.assertEqual(self.client.models.retrieve("tiny").id, "tiny")

    def test_chat(self):
        answer = self.chat(temperature=0, seed=1)
        self.assertEqual(answer.choices[0].message.content, ANSWER)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.completion_tokens, len(ANSWER.encode()) + 1)
        self.assertEqual(answer.usage.total_tokens,
                         answer.usage.prompt_tokens + answer.usage.completion_tokens)

    def test_chat_stream_equals_whole(self):
        whole = self.chat(n=2, logprobs=True, top_logprobs=2)
        texts, logprobs, usage, roles = ["", ""], [[], []], None, 0
        for chunk in self.chat(n=2, logprobs=True, top_logprobs=2, stream=True,
                               stream_options={"include_usage": True}):
            if not chunk.choices:
                usage = chunk.usage
                continue
            for choice in chunk.choices:
                roles += choice.delta.role == "assistant"
                texts[choice.index] += choice.delta.content or ""
                if choice.logprobs:
                    logprobs[choice.index] += choice.logprobs.content
        self.assertEqual(texts, [choice.message.content for choice in whole.choices])
        self.assertEqual(logprobs, [choice.logprobs.content for choice in whole.choices])
        self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)
        self.assertEqual(roles, 2)

    def test_stop_and_length(self):
        answer = self.chat(stop=["this", "tést"])
        self.assertEqual(answer.choices[0].message.content, "Grüße, ")
        self.assertEqual(self.chat(max_tokens=2).choices[0].finish_reason, "length")
        self.assertEqual(self.chat(max_completion_tokens=2).choices[0].message.content, "Gr")

    def test_completions_as_lm_eval_asks(self):
        prompts = [[104, 105, 106], [97, 98]]
        answer = self.client.completions.create(
            model="tiny", prompt=prompts, echo=True, logprobs=1, max_tokens=1, temperature=0,
            seed=1234)
        self.assertEqual([choice.index for choice in answer.choices], [0, 1])
        for prompt, choice in zip(prompts, answer.choices):
            logprobs = choice.logprobs
            self.assertEqual(len(logprobs.token_logprobs), len(prompt) + 1)
            self.assertIsNone(logprobs.token_logprobs[0])
            for token, top in list(zip(logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
                self.assertEqual(token, max(top.values()))

    def test_extra_parameters(self):
        stream = self.client.completions.create(
            model="tiny", prompt="hi", max_tokens=4, stream=True, logprobs=None,
            stream_options={"include_usage": True, "continuous_usage_stats": True},
            extra_body={"ignore_eos": True, "repetition_penalty": 1.0, "top_k": -1, "min_p": 0},
            extra_headers={"x-request-id": "bench-1"})
        chunks = list(stream)
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), "Grü")
        self.assertTrue(all(chunk.usage for chunk in chunks))
        self.assertEqual(chunks[-1].usage.completion_tokens, 4)

    def test_errors_have_their_classes(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(tools=[{"type": "function", "function": {"name": "f"}}])
        self.assertEqual(caught.exception.param, "tools")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat(response_format={"type": "json_object"})
        self.assertEqual(caught.exception.param, "response_format")
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="gpt-9", prompt="hi")
        with self.assertRaises(openai.AuthenticationError):
            self.client.with_options(api_key="wrong").models.list()
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="tiny", prompt="a" * 600)
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_many_at_once(self):
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: self.chat().choices[0].message.content, range(96)))
        self.assertEqual(set(answers), {ANSWER})

    def test_health_status_metrics(self):
        self.assertIn("ok", get(self.url + "/health"))
        status = json.loads(get(self.url + "/moe/status", KEY))
        self.assertEqual(status["expert_tokens"], [[0, 10], [20, 30]])
        metrics = get(self.url + "/metrics", KEY)
        self.assertIn('vllm:time_to_first_token_seconds_count{model_name="tiny"}', metrics)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            get(self.url + "/metrics")
        caught.exception.close()


class ProcessTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="moe-gateway-")
        self.engine = Engine(self.folder)

    def tearDown(self):
        self.engine.stop()
        shutil.rmtree(self.folder)

    def test_sigterm_finishes_what_runs(self):
        gateway = start_gateway(self.folder)
        url = read_url(gateway)
        with openai.DefaultHttpxClient(trust_env=False) as http:
            client = openai.OpenAI(base_url=url + "/v1", api_key="x", http_client=http)
            stream = client.completions.create(model="tiny", prompt="hi", max_tokens=100, stream=True)
            text = next(iter(stream)).choices[0].text
            gateway.send_signal(signal.SIGTERM)
            text += "".join(chunk.choices[0].text for chunk in stream)
        self.assertEqual(text, ANSWER)
        _, err = gateway.communicate(timeout=60)
        self.assertEqual((gateway.returncode, err), (0, ""))

    def test_sigint_ends_an_idle_gateway(self):
        gateway = start_gateway(self.folder)
        read_url(gateway)
        gateway.send_signal(signal.SIGINT)
        gateway.communicate(timeout=60)
        self.assertEqual(gateway.returncode, 0)

    def test_a_port_in_use_is_a_clear_line(self):
        first = start_gateway(self.folder)
        port = read_url(first).rsplit(":", 1)[1]
        second = start_gateway(self.folder, port)
        _, err = second.communicate(timeout=60)
        self.assertEqual(second.returncode, 1)
        self.assertRegex(err, rf"^error: can't listen on 127\.0\.0\.1:{port}: .*in use.*\n$")
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)

    def test_a_malformed_model_is_a_clear_line(self):
        with open(f"{self.folder}/model/tokenizer.json", "w", encoding="utf-8") as file:
            file.write("{")
        gateway = start_gateway(self.folder)
        _, err = gateway.communicate(timeout=60)
        self.assertEqual(gateway.returncode, 1)
        self.assertRegex(err, r"^error: .*tokenizer\.json.*\n$")

    def test_it_ends_with_its_parent(self):
        script = ("import os, subprocess, sys, time\n"
                  "p = subprocess.Popen(sys.argv[1:] + ['--parent-pid', str(os.getpid())],"
                  " stdout=subprocess.PIPE)\n"
                  "p.stdout.readline()\nprint(p.pid, flush=True)\ntime.sleep(1000)\n")
        parent = subprocess.Popen(
            [sys.executable, "-c", script, GATEWAY, "--coordinator",
             f"unix:{self.folder}/coordinator.sock", "--model", f"{self.folder}/model", "--port", "0"],
            stdout=subprocess.PIPE, text=True)
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.communicate()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        return
            except FileNotFoundError:
                return
            time.sleep(0.01)
        self.fail("the gateway outlived its parent")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
