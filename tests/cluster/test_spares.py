"""Spare pods: one takes the place of a lost pod, and a new one is made for it."""

import json
import signal

import pytest

from answers import Load
from cluster import (NODE_ADDRESS, get, items, kubectl, kubectl_json, manifest, restarts, send_signal, wait_until,
                     wait_whole)

HOST = "spares.example.com"
GPUS_PER_POD = 2
MANIFEST = manifest("spared", 4, HOST, worker={"gpusPerPod": GPUS_PER_POD, "spares": 1})


@pytest.fixture(scope="module")
def spared(make_deployment):
    deployment = make_deployment(MANIFEST, "spared", "spares")
    deployment.wait_ready()
    return deployment


def pod_path(pod):
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def pods_with_ranks(deployment):
    return {rank["pod"] for rank in deployment.get()["status"]["groups"][0]["ranks"]}


def spare_pods(deployment):
    return {pod["metadata"]["name"] for pod in deployment.workers()} - pods_with_ranks(deployment)


def wait_spare(deployment):
    def ready():
        return deployment.get()["status"]["groups"][0].get("readySpares") == 1
    wait_until(ready, 60, lambda: f"a spare pod: {json.dumps(deployment.get()['status'])[:4000]}")
    [spare] = spare_pods(deployment)
    return spare


def test_the_spare_is_a_pod_of_the_gang_without_a_rank(spared):
    spare = get("pod", wait_spare(spared), spared.namespace)
    status = spared.get()["status"]
    assert status["workers"] == "4/4" and status["groups"][0]["readySpares"] == 1
    assert len(spared.workers()) == 3 and len(pods_with_ranks(spared)) == 2
    assert spare["spec"]["nodeName"] and "moe-operator.dev/rank" not in spare["metadata"].get("annotations", {})


def test_no_account_is_kept_of_who_wrote_which_field_of_a_worker(spared):
    # Not even after the scheduler, the kubelet and the operator have written it since its gate went.
    for pod in spared.workers():
        stored = json.loads(kubectl("get", "--raw", pod_path(pod)).stdout)
        assert stored["status"]["phase"] == "Running" and "managedFields" not in stored["metadata"]


@pytest.mark.parametrize("rank", [2, 0], ids=["expert ranks", "the leader"])
def test_it_takes_the_place_of_a_lost_pod_and_no_other_is_touched(spared, right, rank):
    with Load(f"http://{NODE_ADDRESS}", HOST, right) as load:
        load.wait_answers(4)
        spare = wait_spare(spared)
        before = restarts(spared.workers())
        epoch = spared.epochs()[0]
        lost = spared.get()["status"]["groups"][0]["ranks"][rank]["pod"]
        send_signal(get("pod", lost, spared.namespace), signal.SIGKILL)
        wait_whole(spared, epoch, 4)
        ranks = spared.get()["status"]["groups"][0]["ranks"]
        assert [r["pod"] for r in ranks[rank:rank + GPUS_PER_POD]] == GPUS_PER_POD * [spare]
        load.wait_answers(4)
        new = wait_spare(spared)
    load.check()
    after = restarts(spared.workers())
    assert len(after) == 3 and lost not in after and new not in before
    assert {name: was for name, was in before.items() if name != lost}.items() <= after.items(), \
        "another pod was touched"
    events = items("events.events.k8s.io", spared.namespace)
    assert any(e["reason"] == "SpareTookOver" and f"as rank {rank}" in e["note"] for e in events)
    wait_until(lambda: kubectl_json("get", "pod", spare, "-n", spared.namespace)["metadata"]["annotations"].get(
        "moe-operator.dev/rank") == f"{rank}-{rank + GPUS_PER_POD - 1}", 30, "the ranks written on the pod")
