"""The samples that take their model from outside the image. The container that fetches is the user's own, as their
text says: here it fetches the demo model from this test, since the node has no way out, and sizes are smaller."""

import functools
import http.server
import json
import os
import shutil
import threading

import pytest
import yaml

import answers
from cluster import NODE_ADDRESS, ROOT, apply, get, kubectl, wait_until

DEMO = os.path.join(ROOT, "models", "demo")
MODEL = "olmoe-1b-7b"
VOLUME = "/var/lib/moe-test-models"


class QuietFiles(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    """Serves the demo model's files to pods; its address."""
    server = http.server.ThreadingHTTPServer((NODE_ADDRESS, 0), functools.partial(QuietFiles, directory=DEMO))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://{NODE_ADDRESS}:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def volume():
    """30Gi on paper, in a folder of the node that any user may write."""
    folder = "/proc/1/root" + VOLUME
    os.makedirs(folder, exist_ok=True)
    os.chmod(folder, 0o777)
    apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "moe-test-models"},
           "spec": {"capacity": {"storage": "30Gi"}, "accessModes": ["ReadWriteMany"], "hostPath": {"path": VOLUME},
                    "persistentVolumeReclaimPolicy": "Retain"}}, namespace="default")
    yield
    kubectl("delete", "persistentvolume", "moe-test-models", "--wait=false")
    shutil.rmtree(folder)


def sample(name):
    with open(os.path.join(ROOT, "deploy", "samples", name), encoding="utf-8") as file:
        return list(yaml.safe_load_all(file))


def fetch_from(hub, container, folder):
    """What the sample's text leaves to the user: another image, another source."""
    files = " ".join(name for name in os.listdir(DEMO) if os.path.isfile(os.path.join(DEMO, name)))
    container["image"] = "localhost/busybox:1"
    container["args"] = [f"mkdir -p {folder}; for file in {files}; do wget -q -O {folder}/$file {hub}/$file; done"]


def make_small(deployment):
    """Two workers, and no more memory or CPU than a test has."""
    spec = deployment["spec"]
    spec["parallelism"]["expert"] = 2
    spec["engine"]["kvCacheMemory"] = "64Mi"
    for container in spec["worker"]["podTemplate"]["spec"]["containers"]:
        if container["name"] == "worker":
            container["resources"] = {"requests": {"cpu": "10m", "memory": "32Mi"}}
    gateway = spec.setdefault("gateway", {})
    gateway["replicas"] = 1
    gateway.setdefault("podTemplate", {}).setdefault("spec", {})["terminationGracePeriodSeconds"] = 10


def check_answers(deployment, right):
    with answers.client(deployment.url()) as api:
        assert [model.id for model in api.models.list()] == [MODEL]
        for question in list(right)[:2]:
            assert answers.ask(api, question, model=MODEL) == right[question]


def test_a_model_in_a_claim_that_a_job_fills(make_deployment, hub, volume, right):
    objects = sample("pvc.yaml")
    claim, job, deployment = objects
    fetch_from(hub, job["spec"]["template"]["spec"]["containers"][0], f"/models/{MODEL}")
    make_small(deployment)
    made = make_deployment(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}), "olmoe-pvc", "samples-claim")
    made.wait_ready(180)
    wait_until(lambda: get("job", "fill-models", made.namespace)["status"].get("succeeded") == 1, 60, "the Job ended well")
    for pod in made.workers() + made.gateways():
        mounts = [(mount["name"], mount.get("readOnly")) for mount in pod["spec"]["containers"][0]["volumeMounts"]]
        claims = [volume["name"] for volume in pod["spec"]["volumes"]
                  if volume.get("persistentVolumeClaim", {}).get("claimName") == claim["metadata"]["name"]]
        assert len(claims) == 1 and (claims[0], True) in mounts, pod["spec"]
    check_answers(made, right)


def test_a_model_that_each_pod_fetches(make_deployment, hub, right):
    (deployment,) = sample("fetch-with-init-container.yaml")
    spec = deployment["spec"]
    for part in (spec["worker"], spec["gateway"]):
        fetch_from(hub, part["podTemplate"]["spec"]["initContainers"][0], f"/fetched/{MODEL}")
    make_small(deployment)
    made = make_deployment(json.dumps(deployment), "olmoe-fetched", "samples-fetch")
    made.wait_ready(180)
    check_answers(made, right)
