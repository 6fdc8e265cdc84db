"""`moe serve` as a user meets it: the programs themselves, the openai client, kill -9."""

import glob
import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
import unittest
import urllib.request

import openai

from served import BIN, DEMO, Served, alive, descendants, wait_until

QUESTIONS = ["What is expert parallelism?", "What does a router do?", "What is an epoch?",
             "What happens when a worker dies?", "What is a KV cache?", "Who are you?"]


def client(served):
    return openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)


def completion(api, prompt, **options):
    """Token ids can't be seen through the API, so text and log-probabilities stand for them."""
    reply = api.completions.create(model="demo", prompt=prompt, logprobs=2, temperature=0,
                                   **options)
    choice = reply.choices[0]
    return choice.text, choice.logprobs.token_logprobs, reply.usage.completion_tokens


def stream_text(api, prompt, on_first=None, **options):
    pieces, logprobs, usage, finish = [], [], None, None
    stream = api.completions.create(model="demo", prompt=prompt, logprobs=2, temperature=0,
                                    stream=True, stream_options={"include_usage": True}, **options)
    for chunk in stream:
        if chunk.usage:
            usage = chunk.usage.completion_tokens
        for choice in chunk.choices:
            pieces.append(choice.text)
            if choice.logprobs:
                logprobs += choice.logprobs.token_logprobs
            finish = choice.finish_reason or finish
            if on_first:
                on_first()
                on_first = None
    return "".join(pieces), logprobs, usage, finish


def failovers(served):
    return served.status()["epoch"]


class ServeTest(unittest.TestCase):

    def test_sixty_four_workers_answer_the_openai_client(self):
        with Served("--expert-parallel", "64").wait_ready() as served:
            api = client(served)
            self.assertEqual([model.id for model in api.models.list()], ["demo"])
            self.assertIn("EP64_TP1_PP1_DP1", served.text())
            whole = api.chat.completions.create(
                model="demo", temperature=0, max_tokens=60,
                messages=[{"role": "user", "content": QUESTIONS[0]}])
            self.assertTrue(whole.choices[0].message.content.strip())
            self.assertEqual(whole.usage.total_tokens,
                             whole.usage.prompt_tokens + whole.usage.completion_tokens)
            streamed = "".join(
                chunk.choices[0].delta.content or ""
                for chunk in api.chat.completions.create(
                    model="demo", temperature=0, max_tokens=60, stream=True,
                    messages=[{"role": "user", "content": QUESTIONS[0]}])
                if chunk.choices)
            self.assertEqual(streamed, whole.choices[0].message.content)

            status = served.status()
            self.assertEqual(len(status["workers"]), 64)
            for worker in status["workers"]:
                self.assertEqual(worker["experts"], [worker["slot"]])
            # Every token of both requests went through top-8 experts of 16 layers, and each was
            # counted once. The last token of an answer is drawn but not computed.
            num_computed = 2 * (whole.usage.prompt_tokens + whole.usage.completion_tokens - 1)
            def expert_tokens():
                return sum(map(sum, served.status()["expert_tokens"]))
            wait_until(lambda: expert_tokens() == num_computed * 16 * 8, 5,
                       f"{num_computed} tokens x 16 layers x 8 experts; have {expert_tokens()}")
            self.check_metrics(served, status, num_computed)
            self.assertEqual(served.stop(), 0)

    def check_metrics(self, served, status, num_computed):
        code, text = served.get("/metrics")
        self.assertEqual(code, 200)
        self.check_exposition(text)
        for name in ("vllm:num_requests_running", "vllm:time_to_first_token_seconds_bucket",
                     "vllm:request_success_total", "moe_epoch"):
            self.assertIn(name, text)
        total = 0
        for worker in (status["workers"][0], status["workers"][17]):
            with urllib.request.urlopen(f"http://{worker['metrics_address']}/metrics") as reply:
                text = reply.read().decode()
            self.check_exposition(text)
            lines = [line for line in text.splitlines() if line.startswith("moe_expert_tokens_total{")]
            self.assertEqual(len(lines), 16)
            self.assertTrue(all(f'expert="{worker["slot"]}"' in line for line in lines))
            total += sum(float(line.split()[-1]) for line in lines)
        self.assertLessEqual(total, num_computed * 16 * 8)
        self.assertGreater(total, 0)

    def check_exposition(self, text):
        check = subprocess.run(["promtool", "check", "metrics"], input=text, text=True,
                               capture_output=True, check=False)
        self.assertNotIn("error", (check.stdout + check.stderr).lower())

    def test_every_layout_gives_the_same_tokens_and_log_probabilities(self):
        want = None
        for args in (["--expert-parallel", "1"],
                     ["--expert-parallel", "8", "--attention-ranks", "3", "--max-step-tokens", "7"],
                     ["--expert-parallel", "4", "--attention", "replicated"],
                     ["--expert-parallel", "64", "--kernel-level", "avx2"]):
            with Served(*args).wait_ready() as served:
                api = client(served)
                got = [completion(api, question, max_tokens=30) for question in QUESTIONS]
                want = want or got
                self.assertEqual(got, want, args)
                # Said with a reason wherever these tests run: their worker is built without CUDA.
                self.assertIn("auto: backend cpu: ", served.text())

    def test_a_killed_rank_costs_no_token_whatever_its_part(self):
        args = ("--expert-parallel", "8", "--attention-ranks", "2")
        # So that answers are long enough to be interrupted.
        options = {"max_tokens": 300, "extra_body": {"ignore_eos": True}}
        with Served(*args).wait_ready() as served:
            api = client(served)
            want = [stream_text(api, question, **options) for question in QUESTIONS[:3]]
            for slot, part in ((5, "an expert rank"), (1, "an owner"), (0, "the leader")):
                epoch = failovers(served)
                pid = served.worker_pid(slot)
                got = [None] * len(want)
                started = threading.Barrier(len(want) + 1, timeout=60)

                def run(i):
                    got[i] = stream_text(api, QUESTIONS[i], on_first=started.wait, **options)

                threads = [threading.Thread(target=run, args=(i,)) for i in range(len(want))]
                for thread in threads:
                    thread.start()
                started.wait()
                os.kill(pid, signal.SIGKILL)
                for thread in threads:
                    thread.join(120)
                self.assertEqual(got, want, f"after the loss of {part}")
                self.assertGreater(failovers(served), epoch)
                self.assertNotEqual(served.worker_pid(slot), pid)
            self.assertEqual(served.stop(), 0)

    def test_a_stopped_rank_is_replaced_by_the_step_deadline(self):
        with Served("--expert-parallel", "4", "--step-deadline", "3").wait_ready() as served:
            api = client(served)
            options = {"max_tokens": 200, "extra_body": {"ignore_eos": True}}
            want = stream_text(api, QUESTIONS[0], **options)
            pid = served.worker_pid(2)
            got = stream_text(api, QUESTIONS[0],
                              on_first=lambda: os.kill(pid, signal.SIGSTOP), **options)
            self.assertEqual(got, want)
            wait_until(lambda: not alive(pid), 20, "the stopped process is gone")

    def test_a_worker_that_finishes_its_epoch_serves_on_after_sigterm(self):
        """As the workers of pods do while a deployment is deleted."""
        with Served("--expert-parallel", "4", env={"MOE_FINISH_EPOCH": "true"}).wait_ready() as served:
            api = client(served)
            options = {"max_tokens": 200, "extra_body": {"ignore_eos": True}}
            want = stream_text(api, QUESTIONS[0], **options)
            epoch = failovers(served)
            leader, rank, other = (served.worker_pid(slot) for slot in (0, 2, 3))

            def leave():
                os.kill(leader, signal.SIGTERM)
                os.kill(rank, signal.SIGTERM)

            self.assertEqual(stream_text(api, QUESTIONS[0], on_first=leave, **options), want)
            self.assertEqual(failovers(served), epoch)
            self.assertTrue(alive(leader) and alive(rank))
            # The epoch ends, and they go with it.
            os.kill(other, signal.SIGKILL)
            wait_until(lambda: not alive(leader) and not alive(rank), 20, "both have gone")
            self.assertEqual(stream_text(api, QUESTIONS[0], **options), want)
            self.assertEqual(served.stop(), 0)

    def test_processes_without_a_free_file_descriptor_serve_on(self):
        with Served("--expert-parallel", "4").wait_ready() as served:
            api = client(served)
            options = {"max_tokens": 200, "extra_body": {"ignore_eos": True}}
            want = stream_text(api, QUESTIONS[2], **options)
            epoch = failovers(served)
            limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE)
                      for pid in descendants(served.process.pid)}
            flood = []

            def exhaust():
                for pid, (_, hard) in limits.items():
                    highest = max(map(int, os.listdir(f"/proc/{pid}/fd")))
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, hard))
                for _ in range(40):
                    try:
                        flood.append(socket.create_connection(("127.0.0.1", served.port), timeout=0.2))
                    except OSError:
                        pass  # those before it are not accepted any more

            self.assertEqual(stream_text(api, QUESTIONS[2], on_first=exhaust, **options), want)
            self.assertTrue(all(map(alive, limits)), served.text())
            for connection in flood:
                connection.close()
            for pid, limit in limits.items():
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
            self.assertEqual(stream_text(client(served), QUESTIONS[2], **options), want)
            self.assertEqual(failovers(served), epoch)

    def test_sigterm_lets_requests_finish_and_leaves_nothing_behind(self):
        with Served("--expert-parallel", "8").wait_ready() as served:
            api = client(served)
            options = {"max_tokens": 200, "extra_body": {"ignore_eos": True}}
            want = stream_text(api, QUESTIONS[1], **options)
            pids = descendants(served.process.pid)
            self.assertGreaterEqual(len(pids), 10)
            got = stream_text(api, QUESTIONS[1],
                              on_first=lambda: served.process.send_signal(signal.SIGTERM), **options)
            self.assertEqual(got, want)
            self.assertEqual(served.process.wait(60), 0)
            for pid in pids:
                self.assertFalse(alive(pid))
            self.assertEqual(glob.glob(f"/tmp/moe-serve-*-{served.process.pid}-*"), [])

    def test_kill_9_of_moe_itself_leaves_no_process(self):
        with Served("--expert-parallel", "8").wait_ready() as served:
            pids = descendants(served.process.pid)
            self.assertGreaterEqual(len(pids), 10)
            served.process.kill()
            served.process.wait()
            wait_until(lambda: not any(map(alive, pids)), 10, "all children are gone")
            run_dirs = glob.glob(f"/tmp/moe-serve-*-{served.process.pid}-*")
        with Served("--expert-parallel", "1").wait_ready():
            for path in run_dirs:
                self.assertFalse(os.path.exists(path), "the next run cleans up")

    def test_a_worker_that_keeps_dying_ends_the_service_with_its_last_words(self):
        with Served("--expert-parallel", "2").wait_ready() as served:
            deadline = time.monotonic() + 120
            killed = set()
            while served.process.poll() is None and time.monotonic() < deadline:
                code, body = served.get("/moe/status")
                workers = json.loads(body)["workers"] if code == 200 else []
                for worker in workers:
                    if worker["slot"] == 1 and worker["pid"] not in killed and worker["pid"] > 0:
                        killed.add(worker["pid"])
                        try:
                            os.kill(worker["pid"], signal.SIGKILL)
                        except ProcessLookupError:
                            pass
                time.sleep(0.1)
            self.assertNotIn(served.process.wait(30), (0, None))
            self.assertEqual(len(killed), 5, served.text())
            self.assertRegex(served.text(), r"(?i)worker 1|slot 1")

    def test_wrong_input_is_explained(self):
        moe = os.path.join(BIN, "moe")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            rows = [
                (["serve", "/nonexistent"], "/nonexistent"),
                (["serve", DEMO, "--expert-parallel", "65"], "must be 1 to 64"),
                (["serve", DEMO, "--expert-parallel", "many"], "neither a number nor 'auto'"),
                (["serve", DEMO, "--kv-memory", "lots"], "not an amount of memory"),
                (["serve", DEMO, "--backend", "cuda"], "--backend cuda: this moe-worker was built without CUDA"),
                (["serve", DEMO, "--backend", "cpu", "--share-gpus"],
                 "--share-gpus has no meaning with --backend cpu"),
                (["serve", DEMO, "--backend", "rocm"], "rocm"),
                (["serve", DEMO, "--port", str(taken.getsockname()[1])], "Address already in use"),
                (["serve"], "model is required"),
                (["fly"], "fly"),
                (["generate", "hello", "--url", "http://127.0.0.1:1"], "is `moe serve` running"),
            ]
            for args, message in rows:
                run = subprocess.run([moe, *args], capture_output=True, text=True, timeout=60,
                                     check=False)
                self.assertNotEqual(run.returncode, 0, args)
                self.assertIn(message, run.stderr + run.stdout, args)


if __name__ == "__main__":
    unittest.main(verbosity=2)
