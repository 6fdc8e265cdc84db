"""Drives `moe simulate`: what people type, what they get, and what they get for mistakes.

Run by ctest (simulate_program); alone:
MOE_BIN=build/bin MOE_ROOT=. python3 tests/cli/simulate/simulate_test.py
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

MOE = pathlib.Path(os.environ["MOE_BIN"]) / "moe"
ROOT = pathlib.Path(os.environ["MOE_ROOT"])
OLMOE = ["--model", "olmoe-1b-7b", "--layout", "EP8_TP1_PP1_DP2"]
SHORT = [*OLMOE, "--arrivals", "poisson:50/s", "--duration", "3s", "--output-tokens", "16"]


def simulate(*arguments):
    return subprocess.run([MOE, "simulate", *arguments], capture_output=True, text=True, timeout=120)


class SimulateTest(unittest.TestCase):
    def succeed(self, *arguments):
        result = simulate(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def refuse(self, code, message, *arguments):
        result = simulate(*arguments)
        self.assertEqual(result.returncode, code, arguments)
        self.assertIn(message, result.stderr)
        self.assertEqual(result.stdout, "")

    def test_a_load_is_served(self):
        text = self.succeed(*SHORT)
        for part in ["time to first token", "requests/s completed", "KV cache in use", "idle",
                     "not calibrated on hardware"]:
            self.assertIn(part, text)

    def test_the_same_seed_gives_the_same_bytes(self):
        once = self.succeed(*SHORT, "-o", "json", "--fail", "1s:rank=9")
        self.assertEqual(once, self.succeed(*SHORT, "-o", "json", "--fail", "1s:rank=9"))
        self.assertNotEqual(once, self.succeed(*SHORT, "-o", "json", "--fail", "1s:rank=9", "--seed", "2"))

    def test_requests_add_up(self):
        out = json.loads(self.succeed(
            *OLMOE, "--arrivals", "bursts:50/1s", "--duration", "3s", "--output-tokens", "16",
            "--max-queue", "1", "--max-sequences", "2", "-o", "json"))
        requests = out["requests"]
        self.assertGreater(requests["rejected"], 0)
        self.assertEqual(requests["arrived"], requests["completed"] + requests["rejected"])
        self.assertEqual(out["tokens"]["output"], 16 * requests["completed"])

    def test_a_failure_is_recovered_from(self):
        out = json.loads(self.succeed(*SHORT, "--fail", "1s:rank=9", "--fail", "1.5s:node=0", "-o", "json"))
        self.assertEqual(out["requests"]["completed"], out["requests"]["arrived"])
        self.assertEqual([r["ranks"] for r in out["recoveries"]], [1, 8])
        for recovery in out["recoveries"]:
            self.assertLess(recovery["failed_at_seconds"], recovery["detected_at_seconds"])
            self.assertLess(recovery["detected_at_seconds"], recovery["active_at_seconds"])

    def test_a_trace_is_replayed(self):
        with tempfile.TemporaryDirectory() as folder:
            trace = pathlib.Path(folder) / "requests.csv"
            trace.write_text("seconds,input,output\n0.5,100,7\n0,2000,3\n")
            out = json.loads(self.succeed(*OLMOE, "--trace", trace, "-o", "json"))
            self.assertEqual(out["requests"]["completed"], 2)
            self.assertEqual(out["tokens"]["output"], 10)
            self.assertEqual(out["tokens"]["input"], 2100)
            out = json.loads(self.succeed(*OLMOE, "--trace", trace, "--duration", "100ms", "-o", "json"))
            self.assertEqual(out["requests"]["arrived"], 1)
            trace.write_text("0,1\n")
            self.refuse(2, "requests.csv, line 1", *OLMOE, "--trace", trace)
            self.refuse(2, "leave --arrivals", *OLMOE, "--trace", trace, "--arrivals", "poisson:1/s")

    def test_a_measured_router_is_used(self):
        with tempfile.TemporaryDirectory() as folder:
            counts = pathlib.Path(folder) / "experts.json"
            # All that a token chooses is on the first of the 8 ranks.
            favourites = [[5000] * 8 + [1] * 56] * 16
            counts.write_text(json.dumps({"num_layers": 16, "num_experts": 64, "expert_tokens": favourites}))
            even = json.loads(self.succeed(*SHORT, "-o", "json"))["steps"]
            skewed = json.loads(self.succeed(*SHORT, "--router", counts, "-o", "json"))["steps"]
            self.assertLess(even["traffic_max_over_mean"], 3)
            self.assertGreater(skewed["traffic_max_over_mean"], 7)
            counts.write_text(json.dumps({"expert_tokens": [[1, 2]]}))
            self.refuse(2, "this model has 16 layers of 64 experts", *SHORT, "--router", counts)
            counts.write_text("[]")
            self.refuse(2, "experts.json", *SHORT, "--router", counts)

    def test_measured_step_times_are_used(self):
        with tempfile.TemporaryDirectory() as folder:
            steps = pathlib.Path(folder) / "steps.json"
            curves = {"source": "a test", "decode": [[1, 0.02]], "prefill": [[1, 0.05]]}
            steps.write_text(json.dumps(curves))
            one = [*OLMOE, "--arrivals", "bursts:1/1s", "--duration", "900ms", "--steps", steps]
            seconds = json.loads(self.succeed(*one, "-o", "json"))["seconds"]
            self.assertAlmostEqual(seconds["first_token"]["p50"], 0.05, places=9)
            self.assertAlmostEqual(seconds["per_output_token"]["p50"], 0.02, places=9)
            self.assertIn("steps as measured", self.succeed(*one))
            steps.write_text(json.dumps({**curves, "decode": []}))
            self.refuse(2, "no time of a decode step", *one)

    def test_a_folder_is_read(self):
        out = json.loads(self.succeed("--model", ROOT / "models/demo", "--layout", "EP64_TP1_PP1_DP1",
                                      "--input-tokens", "20", "--duration", "1s", "-o", "json"))
        self.assertEqual(out["scenario"]["model"], "demo")

    def test_mistakes_are_explained(self):
        layout = OLMOE[:2]
        self.refuse(2, "--model is missing", "--layout", "DP1")
        self.refuse(2, "--layout is missing", *layout)
        self.refuse(2, "64", *layout, "--layout", "EP48_TP1_PP1_DP1")
        self.refuse(2, "can't be simulated", *layout, "--layout", "EP8_TP1_PP2_DP1")
        self.refuse(2, "poisson:200/s", *OLMOE, "--arrivals", "200")
        self.refuse(2, "--input-tokens 'x'", *OLMOE, "--input-tokens", "x")
        self.refuse(2, "--output-tokens '0'", *OLMOE, "--output-tokens", "0")
        self.refuse(2, "--duration", *OLMOE, "--duration", "60")
        self.refuse(2, "20s:rank=3", *OLMOE, "--fail", "rank=3")
        self.refuse(2, "no rank 16", *OLMOE, "--fail", "1s:rank=16")
        self.refuse(2, "rank 3 ends at 2m", *OLMOE, "--fail", "2m:rank=3")
        self.refuse(2, "no node 2", *OLMOE, "--fail", "1s:node=2")
        self.refuse(2, "zipf:1.1", *OLMOE, "--router", "skewed")
        self.refuse(2, "--load-speed", *OLMOE, "--load-speed", "fast")
        self.refuse(2, "h200", *OLMOE, "--gpu", "h2000")
        self.refuse(1, "holds nothing", *OLMOE, "--kv-tokens", "5")
        self.refuse(1, "requests would arrive", *OLMOE, "--arrivals", "poisson:1000000/s", "--duration", "1h")
        self.refuse(1, "nowhere.csv", *OLMOE, "--trace", "nowhere.csv")


if __name__ == "__main__":
    unittest.main()
