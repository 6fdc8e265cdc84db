"""Drives `moe calibrate` and gives what it wrote to `moe plan` and `moe simulate`.

Run by ctest (calibrate_program); alone:
MOE_BIN=build/bin MOE_ROOT=. python3 tests/cli/calibrate/calibrate_test.py
"""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

MOE = pathlib.Path(os.environ["MOE_BIN"]) / "moe"
DEMO = pathlib.Path(os.environ["MOE_ROOT"]) / "models/demo"


def moe(*arguments):
    return subprocess.run([MOE, *arguments], capture_output=True, text=True, timeout=100)


class CalibrateTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        cls.file = pathlib.Path(cls.folder.name) / "machine.json"
        cls.made = moe("calibrate", "--model", DEMO, "--output", cls.file, "--rounds", "1",
                      "--max-ranks", "8")

    def test_it_says_what_it_found_and_where(self):
        self.assertEqual(self.made.returncode, 0, self.made.stderr)
        self.assertEqual(self.made.stderr, "")
        for part in ["machine ", "products ", "attention ", "exchange ", "host ",
                     f"written to {self.file}"]:
            self.assertIn(part, self.made.stdout)

    def test_the_file_is_whole_and_each_number_has_its_source(self):
        machine = json.loads(self.file.read_text())
        for part in ["device", "exchange"]:
            for name, field in machine[part].items():
                if isinstance(field, dict):
                    self.assertTrue(field["source"], name)
        device = machine["device"]
        self.assertEqual(device["num_cores"]["value"], len(os.sched_getaffinity(0)))
        self.assertIn("shapes of demo", device["memory_bytes_per_second"]["source"])
        self.assertFalse(self.file.with_name("machine.json.part").exists())

    def test_plan_predicts_the_ranks_of_one_machine(self):
        found = moe("plan", "--machine", self.file, "--model", DEMO, "--gpus", "64", "--batch", "8",
                    "--input-tokens", "64", "--output-tokens", "64",
                    "--layout", "EP64+A1+all-to-all", "-o", "json")
        self.assertEqual(found.returncode, 0, found.stderr)
        out = json.loads(found.stdout)
        self.assertTrue(out["scenario"]["calibrated"])
        seconds = out["ranked"][0]["forward_seconds"]
        self.assertGreater(seconds["dispatch"], 0)
        self.assertGreater(seconds["host"], 0)
        table = moe("plan", "--machine", self.file, "--model", DEMO, "--gpus", "64", "--batch", "8",
                    "--input-tokens", "64", "--output-tokens", "64",
                    "--layout", "EP64+A1+all-to-all")
        self.assertIn("ranks share the cores of", table.stdout)
        self.assertNotIn("nothing here is calibrated", table.stdout)

    def test_plan_names_the_sources(self):
        found = moe("plan", "--machine", self.file, "--sources")
        self.assertEqual(found.returncode, 0, found.stderr)
        self.assertIn("measured by moe calibrate", found.stdout)

    def test_simulate_takes_the_file(self):
        found = moe("simulate", "--machine", self.file, "--model", DEMO,
                    "--layout", "EP64_TP1_PP1_DP1+A1", "--arrivals", "steady:2/s", "--duration", "2s",
                    "--input-tokens", "16", "--output-tokens", "8", "--kv-tokens", "4096",
                    "-o", "json")
        self.assertEqual(found.returncode, 0, found.stderr)
        self.assertGreater(json.loads(found.stdout)["tokens"]["output"], 0)

    def test_a_machine_is_no_network(self):
        found = moe("plan", "--gpu", self.file, "--library", self.file, "--gpus-per-node", "8",
                    "--model", DEMO, "--gpus", "64", "--input-tokens", "64", "--output-tokens", "64",
                    "--layout", "EP64+A1+all-to-all")
        self.assertEqual(found.returncode, 1)
        self.assertIn("was measured within one only", found.stdout)

    def test_mistakes_end_before_anything_is_measured(self):
        for arguments, message in [
            (["--output", "/nonexistent/machine.json"], "can't be written"),
            (["--output", self.folder.name], "can't be written"),
            (["--model", "/nonexistent"], "is no folder with a config.json"),
            (["--rounds", "0"], "rounds"),
        ]:
            found = moe("calibrate", *arguments)
            self.assertNotEqual(found.returncode, 0)
            self.assertIn(message, found.stderr)
        both = moe("plan", "--machine", self.file, "--gpu", "h200", "--model", DEMO, "--gpus", "1")
        self.assertNotEqual(both.returncode, 0)


if __name__ == "__main__":
    unittest.main()
