"""What the API server alone accepts and refuses, with what words, and which defaults it shows.

Each file in data/crd/accepted must be taken; each in data/crd/rejected must be refused with the text of its
`# expect:` line. These tests need an API server only: tools/test-cluster --api-server test_crd.py
"""

import glob
import json
import os

import pytest

from cluster import ROOT, kubectl

DATA = os.path.join(os.path.dirname(__file__), "data", "crd")
SAMPLES = sorted(glob.glob(os.path.join(ROOT, "deploy", "samples", "*.yaml")))


def files(kind):
    found = sorted(glob.glob(os.path.join(DATA, kind, "*.yaml")))
    assert found, f"no files in {DATA}/{kind}"
    return [pytest.param(path, id=os.path.basename(path).removesuffix(".yaml")) for path in found]


def create(path):
    return kubectl("create", "--dry-run=server", "--validate=strict", "-f", path, "-o", "json", check=False)


@pytest.mark.parametrize("path", files("accepted"))
def test_accepted(crds, path):
    done = create(path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", files("rejected"))
def test_rejected_with_what_to_write_instead(crds, path):
    with open(path, encoding="utf-8") as file:
        first = file.readline()
    assert first.startswith("# expect: "), f"{path} does not say what it expects"
    done = create(path)
    assert done.returncode != 0, "was accepted"
    assert first.removeprefix("# expect: ").strip() in " ".join(done.stderr.split()), done.stderr


@pytest.mark.parametrize("path", [pytest.param(path, id=os.path.basename(path)) for path in SAMPLES])
def test_every_sample_is_accepted(crds, path):
    done = create(path)
    assert done.returncode == 0, done.stderr


def test_defaults_are_visible(crds):
    spec = json.loads(create(os.path.join(DATA, "accepted", "smallest.yaml")).stdout)["spec"]
    assert spec["replicas"] == 1
    assert spec["backend"] in ("CPU", "CUDA")
    assert spec["parallelism"]["tensor"] == spec["parallelism"]["pipeline"] == 1
    assert spec["gateway"]["replicas"] == 2
    assert spec["updateStrategy"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert spec["progressDeadlineSeconds"] == 1800


def test_status_can_be_written_only_through_its_subresource(crds):
    path = os.path.join(DATA, "accepted", "smallest.yaml")
    name = "status-of-smallest"
    body = json.loads(create(path).stdout)
    body["metadata"] = {"name": name, "namespace": "default"}
    body["status"] = {"term": 7}
    try:
        kubectl("create", "-f", "-", stdin=json.dumps(body))
        stored = json.loads(kubectl("get", "moed", name, "-o", "json").stdout)
        assert "term" not in stored.get("status", {})
        kubectl("patch", "moed", name, "--subresource=status", "--type=merge", "-p", '{"status": {"term": 7}}')
        stored = json.loads(kubectl("get", "moed", name, "-o", "json").stdout)
        assert stored["status"]["term"] == 7
        assert stored["metadata"]["generation"] == 1, "a status is no change of the spec"
    finally:
        kubectl("delete", "moed", name, "--ignore-not-found")


def test_scale_subresource_sets_replicas(crds):
    path = os.path.join(DATA, "accepted", "smallest.yaml")
    name = "scale-of-smallest"
    body = json.loads(create(path).stdout)
    body["metadata"] = {"name": name, "namespace": "default"}
    try:
        kubectl("create", "-f", "-", stdin=json.dumps(body))
        kubectl("scale", "moed", name, "--replicas=3")
        assert json.loads(kubectl("get", "moed", name, "-o", "json").stdout)["spec"]["replicas"] == 3
        refused = kubectl("scale", "moed", name, "--replicas=100000", check=False)
        assert refused.returncode != 0
    finally:
        kubectl("delete", "moed", name, "--ignore-not-found")


def test_printer_columns(crds):
    header = kubectl("get", "moed", "-A", "-o", "wide", check=False)
    columns = [c["name"] for c in json.loads(kubectl("get", "crd", "moedeployments.moe-operator.dev", "-o", "json").stdout)
               ["spec"]["versions"][0]["additionalPrinterColumns"]]
    assert columns == ["Ready", "Reason", "Strategy", "Workers", "Epoch", "URL", "Age"], header.stdout
