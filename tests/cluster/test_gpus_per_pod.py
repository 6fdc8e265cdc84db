"""Pods of several workers: one process for each GPU, here on CPUs. A pod is the unit of replacement."""

import os
import signal
import urllib.request

import pytest

from answers import Load, ask, client
from cluster import NODE_ADDRESS, get, manifest, pids, restarts, wait_whole

HOST = "gpus-per-pod.example.com"
GPUS_PER_POD = 4
MANIFEST = manifest("shared", 8, HOST, worker={"gpusPerPod": GPUS_PER_POD})


@pytest.fixture(scope="module")
def shared(make_deployment):
    deployment = make_deployment(MANIFEST, "shared", "gpus-per-pod")
    deployment.wait_ready()
    return deployment


def process_ids(pod):
    """Of each of its workers, by number. The supervisor has none."""
    found = {}
    for pid in pids(pod):
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            words = file.read().split("\0")
        if "--process" in words:
            found[int(words[words.index("--process") + 1])] = pid
    return found


def test_two_pods_of_four_workers_serve(shared, right):
    pods = shared.workers()
    assert len(pods) == 2
    for pod in pods:
        assert sorted(process_ids(pod)) == list(range(GPUS_PER_POD))
        assert len(pids(pod)) == GPUS_PER_POD + 1
    status = shared.get()["status"]
    assert status["workers"] == "8/8"
    ranks = status["groups"][0]["ranks"]
    assert [rank["rank"] for rank in ranks] == list(range(8))
    assert [rank["process"] for rank in ranks] == 2 * list(range(GPUS_PER_POD))
    for first in (0, GPUS_PER_POD):
        assert len({rank["pod"] for rank in ranks[first:first + GPUS_PER_POD]}) == 1, "a pod's ranks are in a row"
    budget = get("poddisruptionbudget", "shared-g0", shared.namespace)
    assert budget["spec"]["minAvailable"] == 1
    with client(shared.url()) as api:
        for question, answer in list(right.items())[:2]:
            assert ask(api, question) == answer


def test_each_process_has_metrics(shared):
    ports = [port for port in shared.workers()[0]["spec"]["containers"][0]["ports"]
             if port["name"].startswith("metrics")]
    assert [port["name"] for port in ports] == ["metrics", "metrics-1", "metrics-2", "metrics-3"]
    for pod in shared.workers():
        for port in ports:
            with urllib.request.urlopen(f"http://{pod['status']['podIP']}:{port['containerPort']}/metrics",
                                        timeout=10) as reply:
                assert b"moe_worker_" in reply.read()


@pytest.mark.parametrize("process", [2, 0], ids=["an expert rank", "the leader"])
def test_a_process_killed_ends_its_pod_and_no_other(shared, right, process):
    with Load(f"http://{NODE_ADDRESS}", HOST, right) as load:
        load.wait_answers(4)
        before = restarts(shared.workers())
        epoch = shared.epochs()[0]
        # Rank 0 is a process of this pod.
        lost = shared.get()["status"]["groups"][0]["ranks"][process]["pod"]
        pod = get("pod", lost, shared.namespace)
        os.kill(process_ids(pod)[process], signal.SIGKILL)
        wait_whole(shared, epoch, 8)
        load.wait_answers(4)
    load.check()
    after = restarts(shared.workers())
    assert len(after) == 2 and lost not in after
    assert {name: was for name, was in before.items() if name != lost}.items() <= after.items(), \
        "the other pod was touched"
    failure = shared.get()["status"]["lastFailure"]
    assert failure["pod"] == lost and failure["rank"] == 0
    assert f"process {process} was killed by signal 9" in failure["lastLog"]
