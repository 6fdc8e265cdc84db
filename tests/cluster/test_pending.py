"""What the cluster refuses or takes away: no room, no GPU, a quota, a namespace that ends, an operator that is away.
Nothing half-made runs, a condition and an Event say why, and it goes on by itself when it can."""

import json
import os
import time

import pytest

from cluster import (OPERATOR_NAMESPACE, ROOT, apply, condition, controllers, delete_namespace, is_true, items,
                     kubectl, kubectl_json, leader, make_namespace, manifest, plain_pod, wait_until)
from conftest import Deployment, left_of


def pending_manifest(name, gpus=0, num_workers=4, gang_timeout="10m"):
    """A small deployment; each worker may ask for GPUs, as the node has them on paper."""
    limits = {"limits": {"nvidia.com/gpu": gpus}} if gpus else {}
    return manifest(name, num_workers, gateways=1, grace_seconds=10, worker={
        "gangTimeout": gang_timeout,
        "podTemplate": {"spec": {"containers": [{"name": "worker", "resources": limits}]}}})


def set_node_gpus(number):
    quantity = {"nvidia.com/gpu": str(number)}
    kubectl("patch", "node", "node-0", "--subresource=status", "--type=merge", "-p",
            json.dumps({"status": {"capacity": quantity, "allocatable": quantity}}))


@pytest.fixture
def node_gpus():
    """node_gpus(n): the node advertises n GPUs until the test is over."""
    yield set_node_gpus
    set_node_gpus(64)


def events(deployment, reason):
    """Messages of the deployment's Events with that reason, of either API."""
    return [event.get("message") or event.get("note") for event in items("events", deployment.namespace)
            if event["involvedObject"]["kind"] == "MoEDeployment" and event["reason"] == reason]


def wait_condition(deployment, kind, reason, seconds=60):
    def found():
        present = condition(deployment.get(), kind)
        return present if present.get("reason") == reason else None
    return wait_until(found, seconds, lambda: f"{kind}: {reason}; {json.dumps(deployment.get().get('status'))[:3000]}")


def wait_event(deployment, reason, *words):
    def found():
        return [text for text in events(deployment, reason) if all(word in text for word in words)]
    wait_until(found, 20, lambda: f"Event {reason} with {words}; there are {events(deployment, reason)}")


def all_workers(deployment):
    """Their objects, whatever state they are in."""
    return items("pods", deployment.namespace,
                 f"moe-operator.dev/deployment={deployment.name},app.kubernetes.io/component=worker")


def test_workers_on_gpus_whose_program_finds_none_say_so(make_deployment):
    """The node has 64 GPUs on paper alone, and the image is one without CUDA."""
    deployment = make_deployment(manifest("gpus", 2, gateways=1, grace_seconds=10, backend="CUDA"), "gpus",
                                 "pending-no-gpu")
    pods = wait_until(lambda: all_workers(deployment), 60, "workers are made")
    assert pods[0]["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}

    def failure():
        return deployment.get().get("status", {}).get("lastFailure", {})
    wait_until(lambda: "built without CUDA" in failure().get("lastLog", ""), 120, lambda: json.dumps(failure()))
    assert failure()["exitCode"] == 1, failure()
    wait_event(deployment, "WorkerFailed", "exit code 1")
    assert deployment.get()["status"]["revisions"][0]["backend"] == "CUDA"
    assert not is_true(deployment.get(), "Ready")


def test_a_gang_without_room_is_given_back_whole_and_comes_when_there_is_room(make_deployment, node_gpus):
    """4 workers of 20 GPUs on a node with 64: three would fit."""
    deployment = make_deployment(pending_manifest("wide", gpus=20, gang_timeout="6s"), "wide", "pending-room")
    def held_up():
        found = condition(deployment.get(), "GangScheduled")
        return found.get("reason") == "Unschedulable" and "3 of 4 pods have a node" in found["message"] and found
    # The scheduler takes one pod after another.
    assert "nvidia.com/gpu" in wait_until(held_up, 60, lambda: condition(deployment.get(), "GangScheduled"))["message"]
    wait_event(deployment, "Unschedulable", "nvidia.com/gpu")
    given_up = wait_condition(deployment, "GangScheduled", "BackingOff")
    for words in ("not scheduled within 6s", "3 of 4 pods", "Insufficient nvidia.com/gpu", "attempt 1 was given up"):
        assert words in given_up["message"], given_up
    wait_event(deployment, "GangGivenUp", "3 of 4 pods", "Insufficient nvidia.com/gpu")
    wait_until(lambda: not all_workers(deployment), 30, "all four pods are gone, and hold no GPU")
    assert "epoch" not in deployment.get()["status"]["groups"][0], "it had an epoch with three of four workers"
    assert not is_true(deployment.get(), "Ready")
    node_gpus(80)
    time.sleep(5)
    assert not all_workers(deployment), "it does not wait before the next attempt"
    deployment.wait_ready(120)
    assert len(deployment.workers()) == 4


def test_no_gpu_at_all_is_said_at_once(make_deployment, node_gpus):
    node_gpus(0)
    deployment = make_deployment(pending_manifest("none", gpus=1, num_workers=2), "none", "pending-gpu")
    held_up = wait_condition(deployment, "GangScheduled", "Unschedulable")
    assert "0 of 2 pods have a node" in held_up["message"] and "Insufficient nvidia.com/gpu" in held_up["message"]
    assert condition(deployment.get(), "Ready")["reason"] == "Unschedulable"
    wait_event(deployment, "Unschedulable", "Insufficient nvidia.com/gpu")


def test_what_there_is_no_room_for_holds_up_nobody_else(make_deployment, node_gpus):
    """Gangs take turns, and one that could wait ten minutes for a GPU gives its turn away."""
    node_gpus(0)
    blocked = make_deployment(pending_manifest("blocked", gpus=1, num_workers=2), "blocked", "pending-first")
    wait_condition(blocked, "GangScheduled", "Unschedulable")
    other = make_deployment(pending_manifest("other", num_workers=2), "other", "pending-second")
    waiting = wait_condition(other, "GangScheduled", "WaitingForTurn")
    assert "pending-first/blocked/0" in waiting["message"], waiting
    other.wait_ready(120)
    given_up = wait_condition(blocked, "GangScheduled", "BackingOff")
    assert "while another deployment waits for its turn" in given_up["message"], given_up


def test_the_founding_sample_says_what_it_lacks(make_deployment):
    """Its claim is missing: said before any of the 64 GPUs is taken."""
    deployment = make_deployment(os.path.join(ROOT, "deploy", "samples", "olmoe-64-gpu.yaml"), "olmoe", "pending-cuda")
    def claim_missed():
        found = condition(deployment.get(), "ModelReady")
        return "persistentvolumeclaim" in found.get("message", "") and found
    reading = wait_until(claim_missed, 90, lambda: json.dumps(condition(deployment.get(), "ModelReady")))
    assert reading["reason"] == "Inspecting" and "models" in reading["message"], reading
    assert not all_workers(deployment)


def test_a_quota_holds_back_the_whole_gang(make_deployment):
    """The model is read before: when a pod goes, Kubernetes counts a quota anew from what it has seen by then, which
    lets more in where others come in that moment."""
    namespace = "pending-quota"
    unscaled = json.loads(pending_manifest("bounded"))
    unscaled["spec"]["replicas"] = 0
    deployment = make_deployment(json.dumps(unscaled), "bounded", namespace)
    wait_condition(deployment, "ModelReady", "Inspected")
    wait_until(lambda: len(items("pods", namespace)) == 1, 60, "there is a gateway and no other pod")

    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few-pods"}, "spec": {"hard": {"pods": "0"}}}
    probe = json.dumps(plain_pod("probe", {}, {"image": "localhost/busybox:1"}))

    def is_admitted():
        return kubectl("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=probe, check=False).returncode == 0
    # Until the API server has heard of it, and its use has been counted, a quota holds nothing back.
    apply(quota, namespace=namespace)
    wait_until(lambda: not is_admitted(), 60, "the quota is in force")
    # The gateway and three of four workers.
    quota["spec"]["hard"]["pods"] = "4"
    apply(quota, namespace=namespace)
    wait_until(is_admitted, 60, "the quota allows some pods")
    kubectl("scale", "moedeployment", "bounded", "-n", namespace, "--replicas=1")
    refused = wait_condition(deployment, "GangScheduled", "CreateFailed")
    assert "exceeded quota: few-pods" in refused["message"], refused
    wait_event(deployment, "CreateFailed", "exceeded quota: few-pods")
    wait_until(lambda: len(all_workers(deployment)) == 3, 20, "three of four pods exist")
    for pod in all_workers(deployment):
        assert pod["spec"].get("schedulingGates") and "nodeName" not in pod["spec"], "a part of a gang runs"
    quota["spec"]["hard"]["pods"] = "10"
    apply(quota, namespace=namespace)
    deployment.wait_ready(120)


def log_lines_about(namespace, since):
    found = []
    for pod in controllers():
        log = kubectl("logs", pod["metadata"]["name"], "-n", OPERATOR_NAMESPACE, f"--since={since}s").stdout
        found += [line for line in log.splitlines() if namespace in line]
    return found


def test_a_namespace_that_is_deleted_ends_with_what_serves_in_it(operator):
    namespace = "pending-end"
    make_namespace(namespace)
    kubectl("apply", "-n", namespace, "-f", "-", stdin=pending_manifest("doomed", num_workers=2))
    deployment = Deployment("doomed", namespace)
    deployment.wait_ready()
    start = time.monotonic()
    delete_namespace(namespace)
    seconds = time.monotonic() - start
    assert seconds < 90, seconds
    lines = log_lines_about(namespace, int(seconds) + 2)
    problems = [line for line in lines if "[warn" in line or "[error" in line]
    assert len(problems) < 20, f"{len(problems)} problems in {seconds:.0f} s: {problems[:10]}"
    assert len(lines) < 100, f"{len(lines)} lines in {seconds:.0f} s: {lines[-5:]}"


def test_a_deployment_that_is_deleted_while_no_operator_runs_leaves_nothing(make_deployment):
    """No finalizer: an operator that is gone keeps nothing from being deleted."""
    deployment = make_deployment(pending_manifest("orphan", num_workers=2), "orphan", "pending-outage")
    deployment.wait_ready()
    operator = kubectl_json("get", "deployments", "-n", OPERATOR_NAMESPACE)["items"][0]["metadata"]["name"]

    def scale(replicas):
        kubectl("scale", "deployment", operator, "-n", OPERATOR_NAMESPACE, f"--replicas={replicas}")
        wait_until(lambda: len(controllers()) == replicas, 60, f"{replicas} controllers")
    scale(0)
    try:
        kubectl("delete", "moedeployment", "orphan", "-n", deployment.namespace, "--timeout=60s")
        wait_until(lambda: not left_of(deployment), 90, lambda: f"nothing left, but: {left_of(deployment)}")
    finally:
        scale(2)
        kubectl("rollout", "status", "deployment", operator, "-n", OPERATOR_NAMESPACE, "--timeout=90s")
    leader()
    assert not left_of(deployment), "the operator came back and made something"
