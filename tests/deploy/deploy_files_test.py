"""Checks the files of deploy/ against each other and against the sources: no cluster, no helm.

Run by ctest (deploy_files); alone: python3 tests/deploy/deploy_files_test.py
"""

import json
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "deploy/helm/moe-operator"
CRD = ROOT / "deploy/crds/moedeployments.yaml"
METRIC = re.compile(r'"((?:moe_|vllm:)[a-z0-9_:]+)"')
# In an expression: a name that is not a label, as labels stand in braces or behind by (...).
NAME = re.compile(r"\b((?:moe_|vllm:)[a-z0-9_:]+)\b(?!\s*(?:=(?!=)|!))")
LABELS_OF_TARGETS = {"moe_operator_dev_deployment", "moe_operator_dev_group"}


def load(path):
    return yaml.safe_load(path.read_text())


def source_metrics():
    """Names that the programs export, with those that a histogram makes of its own."""
    names = set()
    for folder in ("controller", "gateway", "worker"):
        for path in (ROOT / folder).rglob("*.cc"):
            for name in METRIC.findall(path.read_text()):
                names.update((name, name + "_bucket", name + "_sum", name + "_count"))
    return names


def dashboards():
    found = sorted((CHART / "dashboards").glob("*.json"))
    assert len(found) == 3, found
    return {path.name: json.loads(path.read_text()) for path in found}


def expressions(dashboard):
    """(panel, expression) of all panels and variables."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.fullmatch(r"label_values\((.*), \w+\)", variable["definition"])[1]


def concrete(expression):
    """Without Grafana's variables."""
    return re.sub(r"\[\$__\w+\]", "[5m]", expression).replace("$namespace", "a").replace(
        "$deployment", "b").replace("$group", "0")


class Versions(unittest.TestCase):
    def test_chart_and_samples_have_the_version_of_the_project(self):
        version = re.search(r"^project\(moe_operator VERSION ([0-9.]+)", (ROOT / "CMakeLists.txt").read_text(), re.M)[1]
        chart = load(CHART / "Chart.yaml")
        self.assertEqual([chart["version"], chart["appVersion"]], [version, version])
        for path in (ROOT / "deploy/samples").glob("*.yaml"):
            for image, tag in re.findall(r"image: \S*(moe-[a-z-]+):(\S+)", path.read_text()):
                self.assertEqual(tag, version, f"{path.name}: {image}")


class Crd(unittest.TestCase):
    def setUp(self):
        self.schema = load(CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def test_the_chart_has_the_same(self):
        self.assertEqual((CHART / "crds/moedeployments.yaml").read_text(), CRD.read_text())

    def test_is_small_enough_for_kubectl_apply(self):
        self.assertLess(len(json.dumps(load(CRD), separators=(",", ":"))), 262144 - 4096)

    def test_limits_are_those_of_the_controller(self):
        header = (ROOT / "controller/api/parse.h").read_text()
        limit = {name: int(value) for name, value in re.findall(r"int (kMax\w+) = (\d+);", header)}
        spec = self.schema["properties"]["spec"]["properties"]
        self.assertEqual(spec["replicas"]["maximum"], limit["kMaxReplicas"])
        self.assertEqual(spec["parallelism"]["properties"]["expert"]["maximum"], limit["kMaxExpert"])
        rules = json.dumps(self.schema["x-kubernetes-validations"])
        self.assertIn(f"size() <= {limit['kMaxNameLength']}", rules)
        rules = json.dumps(self.schema["properties"]["spec"]["x-kubernetes-validations"])
        self.assertIn(f"<= {limit['kMaxWorkers']}", rules)

    def test_every_rule_says_something(self):
        def walk(node, path):
            if isinstance(node, dict):
                for rule in node.get("x-kubernetes-validations", []):
                    self.assertTrue(rule.get("message"), f"{path}: {rule['rule']}")
                    self.assertNotIn("\n", rule.get("messageExpression", ""), path)
                for key, child in node.items():
                    walk(child, f"{path}.{key}")
            elif isinstance(node, list):
                for child in node:
                    walk(child, path)
        walk(self.schema, "")

    def test_every_field_of_the_operator_is_described(self):
        def walk(node, path):
            if path.endswith("podTemplate"):
                self.assertNotIn("description", json.dumps(node["properties"]), "descriptions make it too large")
                return
            for name, child in node.get("properties", {}).items():
                where = f"{path}.{name}"
                if path:
                    self.assertIn("description", child, where)
                walk(child, where)
                if "items" in child:
                    walk(child["items"], where + "[]")
        walk(self.schema, "")


class Samples(unittest.TestCase):
    """Every field that a sample uses is in the schema; the API server prunes others or refuses them."""

    def check(self, value, schema, path):
        if schema.get("x-kubernetes-int-or-string"):
            self.assertIsInstance(value, (int, str), path)
            return
        kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "number": (int, float)}
        self.assertIsInstance(value, kinds[schema["type"]], path)
        if "enum" in schema:
            self.assertIn(value, schema["enum"], path)
        if isinstance(value, dict):
            for name in schema.get("required", []):
                self.assertIn(name, value, path)
            for name, child in value.items():
                known = schema.get("properties", {}).get(name, schema.get("additionalProperties"))
                self.assertIsNotNone(known, f"{path}.{name} is not in the schema")
                self.check(child, known, f"{path}.{name}")
        elif isinstance(value, list):
            for i, child in enumerate(value):
                self.check(child, schema["items"], f"{path}[{i}]")
        elif isinstance(value, int) and not isinstance(value, bool):
            self.assertGreaterEqual(value, schema.get("minimum", value), path)
            self.assertLessEqual(value, schema.get("maximum", value), path)

    def test_samples_and_accepted_objects_follow_the_schema(self):
        spec = load(CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        paths = sorted((ROOT / "deploy/samples").glob("*.yaml"))
        paths += sorted((ROOT / "tests/cluster/data/crd/accepted").glob("*.yaml"))
        checked = 0
        for path in paths:
            for document in yaml.safe_load_all(path.read_text()):
                if document["kind"] == "MoEDeployment":
                    self.check(document["spec"], spec, f"{path.name}: spec")
                    checked += 1
        self.assertGreater(checked, 20)

    def test_every_sample_is_in_the_table(self):
        readme = (ROOT / "deploy/samples/README.md").read_text()
        for path in (ROOT / "deploy/samples").glob("*.yaml"):
            self.assertIn(f"| `{path.name}` |", readme)

    def test_every_rejected_object_says_what_to_expect(self):
        for path in (ROOT / "tests/cluster/data/crd/rejected").glob("*.yaml"):
            self.assertRegex(path.read_text(), r"\A# expect: \S", path.name)
            self.assertEqual(load(path)["kind"], "MoEDeployment")


class Dashboards(unittest.TestCase):
    def test_every_metric_is_one_that_the_programs_export(self):
        exported = source_metrics()
        for name, dashboard in dashboards().items():
            for panel, expression in expressions(dashboard):
                used = set(NAME.findall(expression)) - LABELS_OF_TARGETS
                self.assertTrue(used, f"{name}, {panel}: no metric in {expression}")
                self.assertLessEqual(used, exported, f"{name}, {panel}")

    def test_every_expression_is_one(self):
        rules = [{"record": f"check:{i}", "expr": concrete(expression)} for i, (_, expression) in enumerate(
            pair for dashboard in dashboards().values() for pair in expressions(dashboard))]
        self.assertGreater(len(rules), 50)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump({"groups": [{"name": "check", "rules": rules}]}, file)
            file.flush()
            done = subprocess.run(["promtool", "check", "rules", "--lint=none", file.name], text=True,
                                  capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_panels_do_not_overlap(self):
        uids = set()
        for name, dashboard in dashboards().items():
            self.assertNotIn(dashboard["uid"], uids)
            uids.add(dashboard["uid"])
            ids = [panel["id"] for panel in dashboard["panels"]]
            self.assertEqual(len(ids), len(set(ids)), name)
            taken = set()
            for panel in dashboard["panels"]:
                grid = panel["gridPos"]
                self.assertLessEqual(grid["x"] + grid["w"], 24, panel["title"])
                cells = {(x, y) for x in range(grid["x"], grid["x"] + grid["w"])
                         for y in range(grid["y"], grid["y"] + grid["h"])}
                self.assertFalse(cells & taken, f"{name}: {panel['title']}")
                taken |= cells


class Alerts(unittest.TestCase):
    def setUp(self):
        groups = load(CHART / "files/alerts.yaml")["groups"]
        self.rules = [rule for group in groups for rule in group["rules"]]

    def test_every_metric_is_one_that_the_programs_export(self):
        exported = source_metrics()
        for rule in self.rules:
            used = set(NAME.findall(rule["expr"])) - LABELS_OF_TARGETS
            self.assertTrue(used, rule["alert"])
            self.assertLessEqual(used, exported, rule["alert"])

    def test_every_alert_is_tested_and_says_what_it_means(self):
        cases = load(pathlib.Path(__file__).with_name("alerts_test.yaml"))["tests"]
        fired = {check["alertname"] for case in cases for check in case["alert_rule_test"] if check.get("exp_alerts")}
        for rule in self.rules:
            self.assertIn(rule["alert"], fired)
            self.assertLessEqual({"summary", "description"}, set(rule["annotations"]), rule["alert"])


class Values(unittest.TestCase):
    def test_the_schema_has_exactly_the_values(self):
        def walk(values, schema, path):
            self.assertFalse(schema["additionalProperties"], path)
            extra = {"global"} if not path else set()
            # A default may be left to the chart.
            self.assertEqual(set(values), set(schema["properties"]) - extra, path)
            for name, child in values.items():
                if isinstance(child, dict) and "properties" in schema["properties"][name]:
                    walk(child, schema["properties"][name], f"{path}.{name}")
        walk(load(CHART / "values.yaml"), json.loads((CHART / "values.schema.json").read_text()), "")

    def test_every_value_is_used(self):
        templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())

        def walk(values, path):
            for name, child in values.items():
                where = f"{path}.{name}"
                if f"Values{where}" in templates:
                    continue
                self.assertIsInstance(child, dict, f"no template uses .Values{where}")
                self.assertTrue(child, f"no template uses .Values{where}")
                walk(child, where)
        walk({k: v for k, v in load(CHART / "values.yaml").items() if not k.endswith("mage")}, "")


if __name__ == "__main__":
    unittest.main()
