"""Scaling and rolling out under load: whole groups come and go, and no request fails."""

import json

import pytest

from answers import Load
from cluster import NODE_ADDRESS, is_true, items, kubectl, manifest, wait_until, workers
from conftest import VERSION

HOST = "scale.example.com"
MANIFEST = manifest("groups", 8, HOST, replicas=2, updateStrategy={"maxUnavailable": 0, "maxSurge": 1})


@pytest.fixture(scope="module")
def groups(make_deployment):
    deployment = make_deployment(MANIFEST, "groups", "scale")
    deployment.wait_ready()
    return deployment


@pytest.fixture
def load(groups, right):
    with Load(f"http://{NODE_ADDRESS}", HOST, right) as load:
        load.wait_answers(4)
        yield load
        load.wait_answers(4)
    load.check()


def num_active(groups):
    return sum(bool(group.get("active")) for group in groups.get()["status"]["groups"])


def wait_groups(groups, want):
    def settled():
        status = groups.get()["status"]
        return (status["replicas"] == status["readyReplicas"] == want and len(workers("groups", groups.namespace)) == 8 * want)
    wait_until(settled, 240, lambda: f"{want} groups: {json.dumps(groups.get()['status'])[:4000]}", interval=0.5)


def test_both_groups_serve(groups, load):
    load.wait_answers(12)
    assert len(groups.workers(0)) == len(groups.workers(1)) == 8
    assert groups.get()["status"]["strategy"] == "EP8_TP1_PP1_DP2"


def test_scale_up_and_down_by_the_scale_subresource(groups, load):
    before = {pod["metadata"]["uid"] for pod in groups.workers()}
    kubectl("scale", "moed", "groups", "-n", groups.namespace, "--replicas=3")
    wait_groups(groups, 3)
    assert before <= {pod["metadata"]["uid"] for pod in groups.workers()}
    kubectl("scale", "moed", "groups", "-n", groups.namespace, "--replicas=2")
    wait_groups(groups, 2)
    scale = json.loads(kubectl("get", "--raw", "/apis/moe-operator.dev/v1alpha1/namespaces/"
                               f"{groups.namespace}/moedeployments/groups/scale").stdout)
    assert scale["status"]["replicas"] == 2
    # One pod for each group, so that resource metrics are not multiplied.
    selected = [pod["metadata"]["name"] for pod in items("pods", groups.namespace, scale["status"]["selector"])
                if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"]
    assert len(selected) == 2, selected


def test_rollout_of_another_image_never_serves_with_less(groups, load):
    old = {pod["metadata"]["uid"] for pod in groups.workers()}
    revision = groups.get()["status"]["revision"]
    fewest = [2]
    most = [2]
    in_progress = [False]

    groups.patch(json.dumps({"spec": {"worker": {"podTemplate": {"spec": {"containers": [
        {"name": "worker", "image": f"localhost/moe-demo:{VERSION}-again"}]}}}}}))

    def rolled():
        status = groups.get()["status"]
        in_progress[0] = in_progress[0] or is_true(groups.get(), "UpdateInProgress")
        fewest[0] = min(fewest[0], num_active(groups))
        most[0] = max(most[0], len({(p["metadata"]["labels"]["moe-operator.dev/group"]) for p in groups.workers()}))
        return (status["revision"] != revision and status["updatedReplicas"] == status["readyReplicas"] == 2
                and status["replicas"] == 2 and not is_true(groups.get(), "UpdateInProgress"))
    wait_until(rolled, 400, lambda: f"rolled out: {json.dumps(groups.get()['status'])[:4000]}", interval=0.3)
    assert in_progress[0], "the condition UpdateInProgress was never true"
    assert fewest[0] >= 2, "a group was missing during the rollout"
    assert most[0] <= 3, "more than one group above the wanted ones"
    assert not old & {pod["metadata"]["uid"] for pod in groups.workers()}
    wait_groups(groups, 2)


def test_paused_changes_nothing(groups):
    before = {pod["metadata"]["uid"] for pod in groups.workers()}
    kubectl("annotate", "moed", "groups", "-n", groups.namespace, "moe-operator.dev/paused=true")
    groups.patch('{"spec": {"engine": {"maxSequences": 32}}}')
    wait_until(lambda: groups.get()["status"].get("observedGeneration") == groups.get()["metadata"]["generation"],
               30, "the paused spec was seen")
    assert {pod["metadata"]["uid"] for pod in groups.workers()} == before
    groups.patch('{"spec": {"engine": {"maxSequences": null}}}')
    kubectl("annotate", "moed", "groups", "-n", groups.namespace, "moe-operator.dev/paused-")
    wait_groups(groups, 2)
