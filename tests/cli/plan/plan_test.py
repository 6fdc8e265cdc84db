"""Drives `moe plan`: what people type, what they get, and what they get for mistakes.

Run by ctest (planner_program); alone:
MOE_BIN=build/bin MOE_ROOT=. python3 tests/cli/plan/plan_test.py
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

MOE = pathlib.Path(os.environ["MOE_BIN"]) / "moe"
ROOT = pathlib.Path(os.environ["MOE_ROOT"])
OLMOE = ["--model", "olmoe-1b-7b"]


def plan(*arguments):
    return subprocess.run([MOE, "plan", *arguments], capture_output=True, text=True, timeout=60)


class PlanTest(unittest.TestCase):
    def succeed(self, *arguments):
        result = plan(*arguments)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr, "")
        return result.stdout

    def test_one_command_ranks_all_layouts(self):
        text = self.succeed(*OLMOE, "--gpus", "64", "--gpu", "h200", "--link", "400Gb/s",
                            "--gpus-per-node", "8", "--input-tokens", "512", "--output-tokens", "128")
        self.assertIn("layouts looked at", text)
        self.assertIn("EP1_TP1_PP1_DP64", text)
        self.assertIn("nothing here is calibrated on hardware yet", text)

    def test_every_target_gives_what_it_says(self):
        ranked = {}
        for target in ["throughput", "latency", "8ms", "20000seq/s"]:
            ranked[target] = json.loads(
                self.succeed(*OLMOE, "--gpus", "64", "--target", target, "-o", "json"))["ranked"][0]
        self.assertLessEqual(ranked["8ms"]["forward_seconds"]["total"], 0.008)
        self.assertGreaterEqual(ranked["20000seq/s"]["sequences_per_second"], 20000)
        self.assertLessEqual(ranked["latency"]["forward_seconds"]["total"],
                             ranked["throughput"]["forward_seconds"]["total"])
        self.assertGreaterEqual(ranked["throughput"]["completed_requests_per_second"],
                                ranked["latency"]["completed_requests_per_second"])

    def test_a_folder_and_a_file_are_read(self):
        for path in [ROOT / "models/demo", ROOT / "models/demo/config.json"]:
            out = json.loads(self.succeed("--model", path, "--gpus", "8", "--input-tokens", "100",
                                          "-o", "json"))
            self.assertEqual(out["scenario"]["model"], "demo")
            self.assertGreater(len(out["ranked"]), 1)

    def test_parts_of_a_pass_add_up(self):
        for layout in json.loads(self.succeed(*OLMOE, "--gpus", "64", "-o", "json"))["ranked"]:
            parts = dict(layout["forward_seconds"])
            total, hidden = parts.pop("total"), parts.pop("hidden")
            self.assertAlmostEqual(sum(parts.values()) - hidden, total, places=12)

    def test_yaml_is_a_deployment(self):
        import yaml  # also used by the tests of deploy/
        for target in ["throughput", "latency", "8ms"]:
            text = self.succeed(*OLMOE, "--gpus", "64", "--target", target, "-o", "yaml")
            manifest = yaml.safe_load(text)
            self.assertEqual(manifest["kind"], "MoEDeployment")
            spec = manifest["spec"]
            self.assertLessEqual(spec["parallelism"]["expert"] * spec["replicas"], 64)
            self.assertIn("No worker has run on a GPU yet", text)

    def test_price_gives_the_cost_of_tokens(self):
        best = json.loads(self.succeed(*OLMOE, "--gpus", "64", "--price", "2.5", "-o", "json"))["ranked"][0]
        self.assertAlmostEqual(best["cost_per_million_output_tokens"],
                               2.5 * 64 / 3600 / best["output_tokens_per_second"] * 1e6, places=9)

    def test_compare_draws_a_plot(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "plan.svg"
            text = self.succeed(*OLMOE, "--compare", "EP64_TP1_PP1_DP1", "DP64", "--plot", path)
            self.assertIn("By sequences in flight on all GPUs", text)
            root = xml.etree.ElementTree.parse(path).getroot()
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
        out = json.loads(self.succeed(*OLMOE, "--compare", "EP64_TP1_PP1_DP1", "DP64", "-o", "json"))
        self.assertEqual([layout["strategy"] for layout in out["layouts"]],
                         ["EP64_TP1_PP1_DP1", "EP1_TP1_PP1_DP64"])
        self.assertEqual([sweep["axis"] for sweep in out["sweeps"]], ["batch", "context", "link"])

    def test_founding_reports_every_target(self):
        text = self.succeed("--founding")
        self.assertEqual(text.count("   => "), 6)
        out = json.loads(self.succeed("--founding", "-o", "json"))
        self.assertEqual(len(out["targets"]), 6)
        # By change, since not every attempt fits every GPU.
        def seconds(report):
            return {attempt["change"]: attempt["prediction"]["forward_seconds"]["total"]
                    for attempt in report["attempts"] if "prediction" in attempt}
        fast = seconds(out)
        slow = seconds(json.loads(self.succeed("--founding", "--gpu", "a100", "-o", "json")))
        self.assertLess(len(slow), len(fast))
        for change, value in slow.items():
            self.assertGreater(value, fast[change], change)

    def test_own_hardware_files_are_read(self):
        device = json.loads((ROOT / "planner/devices/h200.json").read_text())
        device["memory_bytes_per_second"]["value"] *= 2
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "twice.json"
            path.write_text(json.dumps(device))
            arguments = [*OLMOE, "--gpus", "1", "--batch", "8", "-o", "json"]
            one = json.loads(self.succeed(*arguments))["ranked"][0]
            two = json.loads(self.succeed(*arguments, "--gpu", path))["ranked"][0]
            self.assertEqual(two["limited_by"], one["limited_by"])
            self.assertLess(two["forward_seconds"]["experts"], one["forward_seconds"]["experts"])
            del device["title"]
            path.write_text(json.dumps(device))
            result = plan(*arguments, "--gpu", path)
            self.assertEqual(result.returncode, 2)
            self.assertIn("title must be a text", result.stderr)

    def test_sources_are_told(self):
        text = self.succeed("--sources")
        self.assertIn("memory_bytes_per_second: NVIDIA H200 Tensor Core GPU data sheet", text)

    def test_the_earlier_plan_is_refused_in_numbers(self):
        for option in ["--layout", "--compare"]:
            layouts = ["EP64 x TP16 x PP4 x DP4"] + (["DP64"] if option == "--compare" else [])
            result = plan(*OLMOE, "--gpus", "64", option, *layouts)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn("needs 16,384 GPUs where 64 exist; what fits: EP64_TP1_PP1_DP1 (64 GPUs)",
                          result.stdout + result.stderr)

    def test_wrong_input_is_named_in_one_line(self):
        for arguments, message in [
                ([], "--model is missing"),
                (OLMOE, "--gpus is missing"),
                (["--model", "nothing", "--gpus", "8"], "none of the models known by name: olmoe-1b-7b"),
                ([*OLMOE, "--gpus", "8", "--gpu", "h900"], "--gpu 'h900' is not known; there are a100"),
                ([*OLMOE, "--gpus", "8", "--gpu", "./none.json"], "none.json"),
                ([*OLMOE, "--gpus", "8", "--link", "fast"], "or a speed such as 400Gb/s"),
                ([*OLMOE, "--gpus", "8", "--library", "mpi"], "--library 'mpi' is not known"),
                ([*OLMOE, "--gpus", "8", "--target", "soon"], "target 'soon' is none of"),
                ([*OLMOE, "--gpus", "8", "--input-tokens", "4096"], "more than the 4096 positions"),
                ([*OLMOE, "--gpus", "8", "--layout", "EP9x"], "layout 'EP9x'"),
                ([*OLMOE, "--compare", "DP8"], "--compare needs two layouts or more"),
                ([*OLMOE, "--compare", "DP8", "DP8"], "is given twice"),
                ([*OLMOE, "--gpus", "8", "--plot", "x.svg"], "--plot needs --compare"),
                ([*OLMOE, "--compare", "EP8", "DP8", "-o", "yaml"], "leave --compare and --founding out"),
                (["--founding", "--batch", "5"], "leave --batch"),
                ([*OLMOE, "--compare", "EP8", "DP8", "--plot", "/nowhere/x.svg"], "cannot write /nowhere/x.svg"),
                (["--model", "deepseek-v3", "--gpus", "1", "-o", "yaml"], "671.0 GB of weights"),
        ]:
            result = plan(*arguments)
            self.assertIn(result.returncode, (1, 2), arguments)
            self.assertIn(message, result.stderr, arguments)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        for arguments in [[*OLMOE, "--gpus", "0"], [*OLMOE, "--gpus", "x"],
                          [*OLMOE, "--gpus", "8", "-o", "xml"], [*OLMOE, "--gpus", "8", "--batch", "nan"]]:
            self.assertNotEqual(plan(*arguments).returncode, 0, arguments)

    def test_equal_questions_get_equal_answers(self):
        arguments = [*OLMOE, "--gpus", "64", "-o", "json"]
        self.assertEqual(self.succeed(*arguments), self.succeed(*arguments))


if __name__ == "__main__":
    unittest.main()
