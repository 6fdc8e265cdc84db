"""The cluster that the other tests run on does what they rely on: 64 GPUs and no more, names, services, ingress."""

import json

import pytest

import cluster
from cluster import apply, delete_namespace, items, kubectl, make_namespace, plain_pod, wait_until
from conftest import VERSION

NAMESPACE = "node"


@pytest.fixture(scope="module")
def namespace():
    make_namespace(NAMESPACE)
    yield NAMESPACE
    delete_namespace(NAMESPACE)


def test_sixty_four_gpus_hold_sixty_four_pods(namespace):
    # A worker without a group: it waits for its coordinator.
    worker = {"image": f"localhost/moe-demo:{VERSION}",
              "command": ["moe-worker", "--coordinator", "127.0.0.1:1", "--worker-id", "alone", "--model", "/models/demo",
                          "--engine-address", "127.0.0.1:7710"],
              "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"nvidia.com/gpu": 1}}}
    apply(*(plain_pod(f"gpu-{i}", {"app": "gpu"}, worker) for i in range(64)), namespace=namespace)

    def running():
        return sum(p["status"]["phase"] == "Running" for p in items("pods", namespace, "app=gpu")) == 64
    wait_until(running, 180, lambda: kubectl("get", "pods", "-n", namespace).stdout, interval=1)
    apply(plain_pod("one-too-many", {"app": "gpu"}, worker), namespace=namespace)

    def refused():
        status = cluster.get("pod", "one-too-many", namespace)["status"]
        return any(c["type"] == "PodScheduled" and c["status"] == "False" and "nvidia.com/gpu" in c.get("message", "")
                   for c in status.get("conditions", []))
    wait_until(refused, 30, "the 65th pod finds no GPU")
    kubectl("delete", "pods", "-n", namespace, "-l", "app=gpu", "--wait=true", "--timeout=120s", timeout=150)


def test_names_services_and_ingress(namespace):
    asks = plain_pod("asks", {"app": "asks"}, {
        "image": "localhost/busybox:1",
        "command": ["sh", "-c", f"until wget -T 2 -q -O - http://web.{namespace}.svc.cluster.local; do sleep 0.2; done"]})
    asks["spec"]["restartPolicy"] = "Never"
    apply(*cluster.web("web"), asks, namespace=namespace)
    wait_until(lambda: cluster.get("pod", "asks", namespace)["status"]["phase"] == "Succeeded", 60,
               lambda: json.dumps(cluster.get("pod", "asks", namespace)["status"]))
    assert kubectl("logs", "asks", "-n", namespace).stdout.endswith("served\n")
    cluster.wait_web("web", 30)


def test_api_server_goes_and_comes_back_with_what_it_had(namespace):
    with cluster.without_api_server():
        assert kubectl("get", "namespace", namespace, "--request-timeout=2s", check=False).returncode != 0
    assert cluster.get("namespace", namespace, "default")
