"""Faults of the control plane under a running load: a leader that slept, a pod that does not go, a spec that
changes its mind, strangers at every port. No request fails, and every token is the right one."""

import json
import os
import signal
import socket
import time

import pytest

from answers import Load
from cluster import (NODE_ADDRESS, OPERATOR_NAMESPACE, condition, controllers, get, is_true, kubectl, leader,
                     manifest, rank_pod, restarts, run, send_signal, wait_until, wait_whole)
from conftest import VERSION

HOST = "faults.example.com"
MANIFEST = manifest("four", 4, HOST, gateways=1)
HOLD = "moe-test.example/hold"


@pytest.fixture(scope="module")
def four(make_deployment):
    deployment = make_deployment(MANIFEST, "four", "faults")
    deployment.wait_ready()
    return deployment


@pytest.fixture
def load(four, right):
    with Load(f"http://{NODE_ADDRESS}", HOST, right, num_clients=2) as load:
        load.wait_answers(2)
        yield load
        load.wait_answers(2)
    load.check()


def uids(pods):
    return {pod["metadata"]["uid"] for pod in pods}


def progress(deployment):
    """What may never become less."""
    status = deployment.get()["status"]
    return [status["term"]] + [group["epoch"] for group in status["groups"]] + [
        rank["pod"] for group in status["groups"] for rank in group["ranks"]]


def test_a_leader_that_slept_past_its_lease(four, load):
    """Stopped for longer than its lease, and told of nothing when it wakes: it thinks that it leads."""
    term = four.get()["status"]["term"]
    epoch = four.epochs()[0]
    old = leader()
    before = restarts([old])
    send_signal(old, signal.SIGSTOP)
    try:
        wait_until(lambda: leader()["metadata"]["name"] != old["metadata"]["name"], 60, "another leader")
        wait_until(lambda: four.get()["status"]["term"] > term, 30, "a higher term")
        # What the old one has not seen: it would put the same slot into an epoch of its own.
        lost = rank_pod("four", four.namespace, 1)
        send_signal(lost, signal.SIGKILL)
        wait_whole(four, epoch, 4)
        settled, pods = progress(four), uids(four.workers())
    finally:
        send_signal(old, signal.SIGCONT)

    # It learns the truth within its lease; a status or a delete of the time before is refused.
    name = old["metadata"]["name"]

    def knows():
        ended = restarts([get("pod", name, OPERATOR_NAMESPACE)]) != before
        log = kubectl("logs", name, "-n", OPERATOR_NAMESPACE, *(["--previous"] if ended else []), check=False).stdout
        return "leads no more" in log
    wait_until(knows, 20, "the old leader says that it leads no more")
    until = time.monotonic() + 8
    while time.monotonic() < until:
        assert progress(four) == settled, "the old leader changed the status"
        assert uids(four.workers()) == pods, "the old leader deleted or created a worker"
        time.sleep(0.3)
    assert leader()["metadata"]["name"] != name
    wait_until(lambda: all(c["ready"] for pod in controllers() for c in pod["status"]["containerStatuses"]), 60,
               "two controllers that are ready")


def test_a_pod_stuck_in_terminating_is_not_waited_for(four, load):
    """As on a node that was lost: the pod is deleted and its object stays, for nobody reports its end."""
    epoch = four.epochs()[0]
    stuck = rank_pod("four", four.namespace, 2)
    name, slot = stuck["metadata"]["name"], stuck["metadata"]["labels"]["moe-operator.dev/slot"]

    def finalizers(value):
        kubectl("patch", "pod", name, "-n", four.namespace, "--type=merge", "-p",
                json.dumps({"metadata": {"finalizers": value}}))
    finalizers([HOLD])
    try:
        kubectl("delete", "pod", name, "-n", four.namespace, "--wait=false")
        wait_whole(four, epoch, 4)
        load.wait_answers(2)
        held = get("pod", name, four.namespace)
        assert held and held["metadata"]["uid"] == stuck["metadata"]["uid"] and held["metadata"]["deletionTimestamp"]
        successors = [pod for pod in four.workers() if pod["metadata"]["labels"]["moe-operator.dev/slot"] == slot]
        assert len(successors) == 1
        assert successors[0]["metadata"]["name"].rsplit("-", 1)[0] == name.rsplit("-", 1)[0]
        assert int(successors[0]["metadata"]["name"].rsplit("-", 1)[1]) > int(name.rsplit("-", 1)[1])
    finally:
        finalizers(None)
    wait_until(lambda: get("pod", name, four.namespace) is None, 30, f"{name} is gone")
    assert is_true(four.get(), "Ready")


def test_a_spec_that_changes_its_mind_in_a_rollout(four, load):
    """A -> B -> A: the group of A serves all the time. That of B has an image that is nowhere, so it can't be
    faster than whoever changes its mind."""
    revision = four.get()["status"]["revision"]
    assert condition(four.get(), "UpdateInProgress").get("status") == "False"
    pods = uids(four.workers())
    other = {"containers": [{"name": "worker", "image": f"localhost/moe-demo:{VERSION}-nowhere"}]}
    four.patch(json.dumps({"spec": {"worker": {"podTemplate": {"spec": other}}}}))
    wait_until(lambda: is_true(four.get(), "UpdateInProgress") and len(four.get()["status"]["groups"]) == 2, 60,
               "a rollout began", interval=0.05)
    four.patch('{"spec": {"worker": {"podTemplate": null}}}')

    def back():
        status = four.get()["status"]
        return (status["revision"] == revision and status["replicas"] == status["readyReplicas"] == 1
                and condition(four.get(), "UpdateInProgress").get("status") == "False" and len(four.workers()) == 4)
    wait_until(back, 120, lambda: f"back again: {json.dumps(four.get()['status'])[:4000]}", interval=0.3)
    assert uids(four.workers()) == pods, "the group that served was made again"
    four.wait_ready(60)


def grpc_call(address, method, *options):
    """(status, what curl saw) of an empty call with TLS and without any certificate of ours."""
    done = run("curl", "-sk", "--http2", "--max-time", "10", "-D", "-", "-o", "/dev/null", "-X", "POST",
               "-H", "content-type: application/grpc", "-H", "te: trailers", "--data-binary", "@-", *options,
               "https://{}:{}/{}".format(*address, method), stdin="\0\0\0\0\0", check=False)
    status = [line.split(":")[1].strip() for line in done.stdout.splitlines() if line.startswith("grpc-status:")]
    return (int(status[0]) if status else None), f"{done.returncode}: {done.stdout}{done.stderr}"


def ports(four):
    """{what: (address, port)} of every port that a stranger could find."""
    first = rank_pod("four", four.namespace, 0)["status"]["podIP"]
    other = rank_pod("four", four.namespace, 3)["status"]["podIP"]
    return {"the coordinator": (leader()["status"]["podIP"], 7700), "the engine": (first, 7710),
            "the exchange of rank 0": (first, 7711), "the exchange of rank 3": (other, 7711)}


def test_grpc_without_a_credential_is_refused(four, load):
    """UNAUTHENTICATED (16) or PERMISSION_DENIED (7) from the coordinator; no handshake with an engine."""
    where = ports(four)
    for method in ("Session", "WatchGroups"):
        status, seen = grpc_call(where["the coordinator"], "moe.coordinator.v1.Coordinator/" + method)
        assert status in (7, 16), (method, seen)
    # A token that is none.
    status, seen = grpc_call(where["the coordinator"], "moe.coordinator.v1.Coordinator/Certify",
                             "-H", "authorization: Bearer eyJhbGciOiJub25lIn0.e30.")
    assert status in (3, 7, 16), seen
    status, seen = grpc_call(where["the engine"], "moe.engine.v1.Engine/Generate")
    assert status in (None, 7, 16), seen


def test_garbage_and_half_open_connections_are_discarded(four, load):
    before, epochs = restarts(four.workers() + controllers()), four.epochs()
    opened = []
    try:
        for what, address in ports(four).items():
            for _ in range(20):
                opened.append(socket.create_connection(address, timeout=5))  # and not a byte
            for garbage in (b"\0" * 64, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", os.urandom(4096),
                            b"\xff" * 65536, b"\x16\x03\x01\x40\x00\x01" + b"a" * 100):
                stranger = socket.create_connection(address, timeout=5)
                opened.append(stranger)
                try:
                    stranger.sendall(garbage)
                except OSError:
                    continue  # it was closed before all was sent
            assert opened, what
        load.wait_answers(4)
        # A new epoch while they are open: its connections are told from theirs.
        lost = rank_pod("four", four.namespace, 3)
        send_signal(lost, signal.SIGKILL)
        wait_whole(four, epochs[0], 4)
        load.wait_answers(2)
    finally:
        for stranger in opened:
            stranger.close()
    after = restarts(four.workers() + controllers())
    assert {pod: was for pod, was in before.items() if pod != lost["metadata"]["name"]}.items() <= after.items()


def test_five_failures_of_a_slot_end_the_group_and_say_why(four):
    """Last in this file: the group is gone until the spec changes."""
    seen = set()

    def kill_it():
        for pod in four.workers():
            name = pod["metadata"]["name"]
            running = any("running" in c["state"] for c in pod["status"].get("containerStatuses", []))
            if name not in seen and running and pod["metadata"]["labels"]["moe-operator.dev/slot"] == "1":
                send_signal(pod, signal.SIGKILL)
                seen.add(name)
        return is_true(four.get(), "Failed")
    wait_until(kill_it, 120, lambda: f"Failed: {sorted(seen)} {json.dumps(four.get()['status'])[:3000]}", interval=0.2)
    assert len(seen) <= 5, seen
    failed = condition(four.get(), "Failed")
    assert failed["reason"] == "GroupFailed" and "within 10m" in failed["message"], failed
    last = four.get()["status"]["lastFailure"]
    assert last["pod"] in seen and last["slot"] == 1 and last["exitCode"] == 137, last
    assert last["lastLog"].strip(), last
    wait_until(lambda: not four.workers(), 60, "the pods of the failed group go")
    text = run(os.path.join(os.environ["MOE_BIN"], "kubectl-moe"), "logs", "four", "-n", four.namespace)
    assert last["lastLog"].strip().splitlines()[-1] in text.stdout, text
    assert last["pod"] in text.stderr, text
    # Another spec starts it again.
    four.patch('{"spec": {"engine": {"maxQueue": 500}}}')
    wait_until(lambda: not is_true(four.get(), "Failed"), 30, "not Failed any more")
    four.wait_ready()
    assert four.get()["status"]["lastFailure"]["pod"] == last["pod"], "the reason is kept"
