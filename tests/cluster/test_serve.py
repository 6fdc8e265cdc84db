"""The CPU sample as a user applies it: 64 worker pods on a node with 64 GPUs, through a real ingress."""

import json
import os
import re

import pytest

import answers
from cluster import NODE_ADDRESS, ROOT, condition, get, is_true, items, kubectl, restarts, run, wait_until

HOST = "demo.example.com"


@pytest.fixture(scope="module")
def demo(make_deployment):
    sample = os.path.join(ROOT, "deploy", "samples", "demo-cpu.yaml")
    deployment = make_deployment(sample, "demo", "serve")
    # A name to be reached by; and workers outlive gateways by their grace period, which is long for a test.
    deployment.patch(json.dumps({"spec": {
        "ingress": {"host": HOST, "className": "traefik"},
        "gateway": {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 30}}}}}))
    deployment.wait_ready(420)
    return deployment


@pytest.fixture(scope="module")
def api(demo):
    def routed():
        with answers.client(f"http://{NODE_ADDRESS}", HOST, timeout=10) as client:
            try:
                return client.models.list().data
            except Exception:
                return None
    wait_until(routed, 60, "a route of the ingress controller")
    with answers.client(f"http://{NODE_ADDRESS}", HOST) as client:
        yield client


def test_sixty_four_pods_hold_one_expert_each(demo):
    pods = demo.workers()
    assert len(pods) == 64
    assert sorted(int(pod["metadata"]["labels"]["moe-operator.dev/slot"]) for pod in pods) == list(range(64))
    assert sum(restarts(pods)[p["metadata"]["name"]][1] for p in pods) == 0
    ranks = demo.get()["status"]["groups"][0]["ranks"]
    assert sorted(rank["rank"] for rank in ranks) == list(range(64))
    assert sorted(int(rank["experts"]) for rank in ranks) == list(range(64))
    assert {rank["pod"] for rank in ranks} == {pod["metadata"]["name"] for pod in pods}
    for pod in pods:
        assert re.fullmatch(r"demo-g0-s\d+-\d+", pod["metadata"]["name"])
        assert not pod["spec"].get("schedulingGates")
        assert [o["kind"] for o in pod["metadata"]["ownerReferences"] if o.get("controller")] == ["MoEDeployment"]


def test_status_tells_the_truth(demo):
    # Pods are ready once they have been probed, which is later than the group serves.
    wait_until(lambda: demo.get()["status"]["workers"] == "64/64", 60, lambda: demo.get()["status"]["workers"])
    status = demo.get()["status"]
    assert status["strategy"] == "EP64_TP1_PP1_DP1"
    for kind in ("Ready", "Available", "GangScheduled", "ModelReady", "CommunicatorReady"):
        assert is_true(demo.get(), kind), (kind, condition(demo.get(), kind))
    for kind in ("Degraded", "Failed", "UpdateInProgress"):
        assert not is_true(demo.get(), kind), kind
    for found in status["conditions"]:
        assert re.fullmatch(r"[A-Z][A-Za-z]+", found["reason"]), found
        assert found["observedGeneration"] == demo.get()["metadata"]["generation"]
    assert status["model"]["numLayers"] == 16 and status["model"]["numExperts"] == 64
    times = [status["startup"][step] for step in ("started", "scheduled", "imagesPulled", "weightsLoaded", "communicator")]
    assert times == sorted(times), times
    assert len(json.dumps(status)) < 64 * 1024
    row = kubectl("get", "moed", "demo", "-n", demo.namespace).stdout.splitlines()[1].split()
    assert row[:2] == ["demo", "True"] and "EP64_TP1_PP1_DP1" in row and "64/64" in row


def test_events_name_each_turn(demo):
    reasons = {event["reason"] for event in items("events", demo.namespace)
               if event["involvedObject"]["kind"] == "MoEDeployment"}
    assert len(reasons) >= 2, reasons


def test_answers_through_the_ingress_are_those_of_moe_serve(api, right):
    assert [model.id for model in api.models.list()] == ["demo"]
    for question, answer in right.items():
        assert answers.ask(api, question) == answer
        assert answers.ask(api, question, stream=False) == answer


def test_a_chat_through_the_ingress(api):
    reply = api.chat.completions.create(model="demo", temperature=0, max_tokens=60,
                                        messages=[{"role": "user", "content": "What is expert parallelism?"}])
    assert reply.choices[0].message.content.strip()


def test_worker_pods_may_do_next_to_nothing(demo):
    for pod in demo.workers()[:1] + demo.gateways()[:1]:
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"]["drop"] == ["ALL"]
            assert "PRIVATE KEY" not in json.dumps(container)


def test_no_secret_in_any_object_or_log(demo, operator):
    """The CA's key lies in one Secret of the operator's namespace, and nowhere else."""
    for kind in ("pods", "configmaps", "events", "moedeployments"):
        assert "PRIVATE KEY" not in kubectl("get", kind, "-A", "-o", "json").stdout, kind
    for pod in demo.workers()[:2] + demo.gateways():
        log = kubectl("logs", pod["metadata"]["name"], "-n", demo.namespace).stdout
        assert "PRIVATE KEY" not in log and "eyJhbGciOi" not in log


def test_budgets_for_disruption(demo):
    budget = get("poddisruptionbudget", "demo-g0", demo.namespace)
    assert budget["spec"]["minAvailable"] == 63
    assert budget["status"]["expectedPods"] == 64
    assert get("poddisruptionbudget", "demo-gateway", demo.namespace)


def test_kubectl_moe(demo):
    plugin = os.path.join(os.environ["MOE_BIN"], "kubectl-moe")
    text = run(plugin, "status", "demo", "-n", demo.namespace).stdout
    assert "EP64_TP1_PP1_DP1" in text and "node-0" in text and "0 to 63" in text
    status = json.loads(run(plugin, "status", "demo", "-n", demo.namespace, "-o", "json").stdout)
    assert json.dumps(status).count("demo-g0-s") >= 64
    text = run(plugin, "experts", "demo", "-n", demo.namespace).stdout
    assert "hottest" in text and "coldest" in text
    assert run(plugin, "generate", "demo", "-n", demo.namespace, "What is an epoch?").stdout.strip()
