"""NetworkPolicies: every connection that is seen is allowed, and nothing but what the design names is."""

import signal
import time

import pytest

from answers import Load
from cluster import NODE_ADDRESS, OPERATOR_NAMESPACE, controllers, kubectl_json, manifest, pids, rank_pod, send_signal
from network_policies import Policies, tcp_connections

HOST = "policies.example.com"
MANIFEST = manifest("guarded", 4, HOST, replicas=2)
PORTS = {"coordinator": 7700, "controller metrics": 7701, "engine": 7710, "exchange": 7711, "worker metrics": 7712,
         "gateway": 8000, "gateway metrics": 8001}
# (from, to, port). A stranger is a pod of another namespace without our labels.
ALLOWED = {
    ("worker", "controller", "coordinator"),
    ("gateway", "controller", "coordinator"),
    ("gateway", "worker", "engine"),
    ("gateway", "worker of group 1", "engine"),
    ("worker", "worker", "exchange"),
}
# Whoever scrapes, and whoever asks.
FOR_ALL = {("controller", "controller metrics"), ("worker", "worker metrics"), ("gateway", "gateway metrics"),
           ("worker of group 1", "worker metrics"), ("gateway", "gateway")}


@pytest.fixture(scope="module")
def guarded(make_deployment):
    deployment = make_deployment(MANIFEST, "guarded", "guarded")
    deployment.wait_ready()
    return deployment


@pytest.fixture(scope="module")
def policies(guarded):
    return Policies(kubectl_json("get", "networkpolicies", "-A")["items"], kubectl_json("get", "namespaces")["items"])


def everyone(guarded):
    return guarded.workers() + guarded.gateways() + controllers()


def test_every_pod_is_isolated(guarded, policies):
    for pod in everyone(guarded):
        assert policies.is_isolated(pod), pod["metadata"]["name"]


def test_every_connection_that_is_seen_is_allowed(guarded, policies, right):
    seen, known = set(), {}  # known: pods by address, those that were lost too
    with Load(f"http://{NODE_ADDRESS}", HOST, right) as load:
        load.wait_answers(2)
        until = time.monotonic() + 20
        killed = False
        while time.monotonic() < until:
            pods = {pod["status"].get("podIP"): pod for pod in everyone(guarded)}
            known.update(pods)
            for pod in pods.values():
                for pid in pids(pod)[:1]:
                    listening, connected = tcp_connections(pid)
                    for _, port, peer, peer_port in connected:
                        if port in listening:
                            seen.add((peer, pod["status"]["podIP"], port))
                        elif peer not in known:  # the other side says where it went
                            seen.add((pod["status"]["podIP"], peer, peer_port))
            if not killed:
                killed = True
                send_signal(rank_pod("guarded", guarded.namespace, 2), signal.SIGKILL)
            load.wait_answers(1)
    load.check()

    pods = known
    services = {s["spec"]["clusterIP"]: s for s in kubectl_json("get", "services", "-A")["items"]}
    used = set()
    for source, target, port in seen:
        # Which pod is behind a service is said by the pod itself.
        if target in services and source in pods and services[target]["metadata"]["namespace"] in (
                guarded.namespace, OPERATOR_NAMESPACE):
            continue
        if source in pods:
            assert policies.lets_out(pods[source], pods.get(target, target), port), (pods[source]["metadata"]["name"], target, port)
        # The node itself (probes, the ingress controller) comes in from outside the pods' network.
        if target in pods and source in pods:
            assert policies.lets_in(pods[target], pods[source], port), (source, pods[target]["metadata"]["name"], port)
        if target in pods:
            used.add(port)
    assert {7700, 7710, 7711, 8000} <= used, f"the test saw too little: {sorted(used)}"


def test_nothing_else_is_allowed(guarded, policies):
    group = {g: guarded.workers(g) for g in (0, 1)}
    roles = {"worker": group[0][:2], "worker of group 1": group[1][:1], "gateway": guarded.gateways()[:1],
             "controller": controllers()[:1],
             "stranger": [{"metadata": {"name": "stranger", "namespace": "default", "labels": {}}}]}
    allowed = set()
    for source, sources in roles.items():
        for target, targets in roles.items():
            if target == "stranger":
                continue
            for name, port in PORTS.items():
                if policies.lets_in(targets[0], sources[-1], port) and policies.lets_out(sources[-1], targets[0], port):
                    allowed.add((source, target, name))
    # What a stranger may do, anybody may where its own policy lets it out.
    strangers = {(target, name) for source, target, name in allowed if source == "stranger"}
    assert strangers == FOR_ALL
    assert {a for a in allowed if a[0] in ("worker", "gateway") and a[1:] not in FOR_ALL} == ALLOWED
