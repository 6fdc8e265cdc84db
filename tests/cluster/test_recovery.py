"""Faults under a running load of greedy streams: no request fails, and every token is the right one."""

import signal
import time

import pytest

from answers import Load, ask, client
from cluster import (NODE_ADDRESS, controllers, is_true, leader, manifest, pids, rank_pod, restarts, send_signal,
                     wait_follows, wait_until, wait_whole, without_api_server)

HOST = "recovery.example.com"
MANIFEST = manifest("eight", 8, HOST)


@pytest.fixture(scope="module")
def eight(make_deployment):
    deployment = make_deployment(MANIFEST, "eight", "recovery")
    deployment.wait_ready()
    return deployment


@pytest.fixture
def load(eight, right):
    """A load whose first answers came, and which is checked when the test is over."""
    with Load(f"http://{NODE_ADDRESS}", HOST, right) as load:
        load.wait_answers(4)
        load.longest_silence = 0.0
        yield load
        load.wait_answers(4)
    load.check()


@pytest.mark.parametrize("rank", [5, 0], ids=["an expert rank", "the leader"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_one_worker_lost(eight, load, rank, number):
    before = restarts(eight.workers())
    epoch = eight.epochs()[0]
    pod = rank_pod("eight", eight.namespace, rank)
    send_signal(pod, number)
    wait_whole(eight, epoch, 8)
    load.wait_answers(4)
    after = restarts(eight.workers())
    lost = pod["metadata"]["name"]
    assert lost not in after
    assert {name: was for name, was in before.items() if name != lost}.items() <= after.items(), \
        "another worker was started again"
    last = eight.get()["status"]["lastFailure"]
    assert last["pod"] == lost and last["slot"] == int(pod["metadata"]["labels"]["moe-operator.dev/slot"])
    # Detected within 2 s when the process ends and by the 10 s deadline when it hangs; the rest is a new
    # pod on a busy machine.
    assert load.longest_silence < (30 if number == signal.SIGKILL else 45)


def test_the_lease_holder_killed(eight, load):
    before = restarts(eight.workers())
    old = leader()
    send_signal(old, signal.SIGKILL)
    load.wait_answers(8)
    wait_until(lambda: len(controllers()) == 2 and all(
        c["ready"] for pod in controllers() for c in pod["status"]["containerStatuses"]), 90, "two controllers")
    leader()
    # Whoever leads can still replace a worker.
    epoch = eight.epochs()[0]
    assert restarts(eight.workers()) == before, "a controller's end started workers again"
    send_signal(rank_pod("eight", eight.namespace, 3), signal.SIGKILL)
    wait_whole(eight, epoch, 8)


def test_a_minute_without_api_server(eight, load):
    before = restarts(eight.workers())
    epoch = eight.epochs()
    with without_api_server():
        until = time.monotonic() + 60
        while time.monotonic() < until:
            load.wait_answers(1)
    wait_until(lambda: is_true(eight.get(), "Ready"), 60, "Ready after the outage")
    assert restarts(eight.workers()) == before
    wait_follows(eight.namespace)
    assert eight.epochs() == epoch, "an outage of the API server began a new epoch"


def wait_started_again(deployment, gateway):
    """`gateway` as it was before it ended: its status says ready until the kubelet has noticed."""
    name = gateway["metadata"]["name"]

    def started():
        pods = deployment.gateways()
        return restarts(pods)[name] > restarts([gateway])[name] and all(
            pod["status"].get("containerStatuses", [{}])[0].get("ready") for pod in pods)
    wait_until(started, 90, f"{name} was started again, and both gateways are ready")


def test_a_gateway_drained(eight, load):
    """SIGTERM: unready first, its streams finish, the others serve on."""
    pod = eight.gateways()[0]
    send_signal(pod, signal.SIGTERM)
    load.wait_answers(8)
    wait_started_again(eight, pod)


def test_a_gateway_killed_ends_only_its_own_streams(eight, right):
    """kill -9 of one of two gateways, each with a stream through its own address."""
    killed, other = eight.gateways()[:2]
    question = next(iter(right))
    broken = []

    with client(f"http://{other['status']['podIP']}:8000") as api, \
            client(f"http://{killed['status']['podIP']}:8000", timeout=60) as victim:
        def kill():
            if not broken:
                broken.append(True)
                send_signal(killed, signal.SIGKILL)
        with pytest.raises(Exception):
            ask(victim, question, seen=kill)
        assert broken
        assert ask(api, question) == right[question]
    wait_started_again(eight, killed)


def test_nothing_was_left_stopped(eight):
    for pod in eight.workers():
        assert pids(pod), pod["metadata"]["name"]
