"""mode: Auto: on CPUs by a rule, on GPUs by the planner, from what the nodes' labels say. The node's GPUs are on paper
and the workers' program has no CUDA: they are made, and say so."""

import json
import os

import pytest

from cluster import condition, items, kubectl, manifest, run, wait_until

PRODUCT = "nvidia.com/gpu.product"
MEMORY = "nvidia.com/gpu.memory"
NODE = "node-0"


def set_node_gpus(number):
    quantity = {"nvidia.com/gpu": str(number)}
    kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": {"capacity": quantity, "allocatable": quantity}}))


@pytest.fixture
def h100_node():
    """The node says that its GPUs are eight H100, until the test is over."""
    kubectl("label", "node", NODE, "--overwrite", f"{PRODUCT}=NVIDIA-H100-80GB-HBM3", f"{MEMORY}=81559")
    set_node_gpus(8)
    yield
    kubectl("label", "node", NODE, f"{PRODUCT}-", f"{MEMORY}-")
    set_node_gpus(64)


def auto_manifest(name, backend, **spec):
    return manifest(name, 0, gateways=1, grace_seconds=10, parallelism={"mode": "Auto"}, backend=backend, **spec)


def wait_layout(deployment, reason):
    def decided():
        present = condition(deployment.get(), "LayoutDecided")
        return present if present.get("reason") == reason else None
    return wait_until(decided, 90, lambda: f"{reason}; {json.dumps(deployment.get().get('status'))[:4000]}")


def test_on_cpus_one_worker_for_each_expert_serves(make_deployment):
    deployment = make_deployment(auto_manifest("auto", "CPU"), "auto", "auto-cpu")
    wait_layout(deployment, "OneWorkerForEachExpert")
    status = deployment.wait_ready()["status"]
    experts = status["model"]["numExperts"]
    assert status["strategy"] == f"EP{experts}_TP1_PP1_DP1"
    assert status["decision"]["chosen"]["expert"] == experts
    assert "the planner knows no CPUs" in status["decision"]["because"]
    assert status["model"]["shape"]["hiddenSize"] > 0
    # Fixed with the same numbers is the same deployment.
    before = status["revision"], [pod["metadata"]["uid"] for pod in deployment.workers()]
    deployment.patch(json.dumps({"spec": {"parallelism": {"mode": "Fixed", "expert": experts}}}))
    wait_until(lambda: "decision" not in deployment.get()["status"], 30, "the decision is taken out")
    after = deployment.wait_ready()["status"]["revision"], [pod["metadata"]["uid"] for pod in deployment.workers()]
    assert before == after


def test_on_gpus_the_planner_decides_from_the_nodes_labels(make_deployment, h100_node):
    deployment = make_deployment(auto_manifest("planned", "CUDA", worker={"gpusPerPod": 8}), "planned", "auto-gpu")
    decided = wait_layout(deployment, "Planned")
    assert "8 x NVIDIA-H100-80GB-HBM3 on 1 node" in decided["message"], decided
    status = deployment.get()["status"]
    chosen = status["decision"]["chosen"]
    assert chosen["expert"] == 8 and chosen["gpus"] == 8
    for figure in ("passMilliseconds", "tokensPerSecond", "requestsPerSecond", "gpuMemoryBytes", "limitedBy"):
        assert chosen["figures"][figure], chosen
    assert 1 <= len(status["decision"]["alternatives"]) <= 3
    assert status["decision"]["chosen"]["layout"].startswith("EP8_")
    events = [event.get("message") or event.get("note") for event in items("events", deployment.namespace)
              if event["reason"] == "LayoutDecided"]
    assert any(chosen["layout"] in text for text in events), events
    plugin = os.path.join(os.environ["MOE_BIN"], "kubectl-moe")
    shown = run(plugin, "status", "planned", "-n", deployment.namespace).stdout
    assert f"layout: {chosen['layout']} on 8 GPUs" in shown and "ms a pass" in shown, shown
    # The node's GPUs are another kind now: what was decided stays.
    kubectl("label", "node", NODE, "--overwrite", f"{PRODUCT}=NVIDIA-X1")
    wait_until(lambda: deployment.get()["status"]["decision"].get("gpus") == "8 x NVIDIA-X1 on 1 node", 60,
               lambda: json.dumps(deployment.get()["status"]["decision"]))
    assert deployment.get()["status"]["decision"]["chosen"]["expert"] == 8


def test_gpus_that_the_planner_does_not_know_are_said(make_deployment, h100_node):
    kubectl("label", "node", NODE, "--overwrite", f"{PRODUCT}=NVIDIA-H100-80GB-HBM3-MIG-1g.10gb")
    deployment = make_deployment(auto_manifest("unknown", "CUDA"), "unknown", "auto-unknown")
    decided = wait_layout(deployment, "UnknownGpu")
    assert "the planner does not know NVIDIA-H100-80GB-HBM3-MIG-1g.10gb" in decided["message"], decided
    assert "figures" not in deployment.get()["status"]["decision"]["chosen"]


def test_a_cluster_without_labels_has_no_gpus_to_decide_from(make_deployment):
    deployment = make_deployment(auto_manifest("none", "CUDA"), "none", "auto-none")
    missing = wait_layout(deployment, "NoGpus")
    assert missing["status"] == "False" and PRODUCT in missing["message"], missing
