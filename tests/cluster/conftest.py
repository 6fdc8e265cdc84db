"""What the tests share: one operator for the whole run, one MoEDeployment for each file that needs it."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from answers import right_answers  # noqa: E402
from cluster import (OPERATOR_NAMESPACE, ROOT, gateways, get, items, kubectl, make_namespace,  # noqa: E402
                     moed, run, takes_connections, wait_ready, wait_until, workers)

CHART = os.path.join(ROOT, "deploy", "helm", "moe-operator")
VERSION = os.environ.get("MOE_VERSION", "")
VALUES = ("--values", os.path.join(os.path.dirname(__file__), "data", "values.yaml"))


def pytest_collection_modifyitems(items):
    """What the API server does alone is seen before an operator writes to the same objects."""
    items.sort(key=lambda item: "operator" in item.fixturenames)


@pytest.fixture(scope="session")
def crds():
    """The resource definitions, as `kubectl apply` alone installs them."""
    # A node that stays may have them from an earlier chart.
    kubectl("apply", "--server-side", "--force-conflicts", "-f", os.path.join(ROOT, "deploy", "crds"))
    # Not `kubectl wait`: it gives up on an object without any condition yet.
    wait_until(lambda: kubectl("get", "moedeployments", "-A", check=False).returncode == 0, 30, "the resource is served")


@pytest.fixture(scope="session")
def operator(crds):
    """The chart, installed with two controllers in a namespace of the restricted level."""
    make_namespace(OPERATOR_NAMESPACE)
    run("helm", "install", "moe-operator", CHART, "-n", OPERATOR_NAMESPACE, "--wait", "--timeout", "120s",
        *VALUES)
    yield
    run("helm", "uninstall", "moe-operator", "-n", OPERATOR_NAMESPACE, "--wait", check=False)


@pytest.fixture(scope="session")
def right():
    """{question: answer} of `moe serve`."""
    return right_answers()


def namespace_of(item):
    """Of the deployment that a test is about, if there is one."""
    found = [value.namespace for value in item.funcargs.values() if isinstance(value, Deployment)]
    return found[0] if found else OPERATOR_NAMESPACE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What the cluster knows about a failure, since it is gone afterwards."""
    report = yield
    if report.failed and "operator" in item.fixturenames:
        for what, command in (
                ("controllers", ("logs", "-n", OPERATOR_NAMESPACE, "-l", "app.kubernetes.io/component=controller",
                                 "--prefix", "--tail=60")),
                ("gateways", ("logs", "-n", namespace_of(item), "-l", "app.kubernetes.io/component=gateway",
                              "--prefix", "--tail=60")),
                ("deployments", ("get", "moed,pods", "-A", "-o", "wide")),
                ("events", ("get", "events", "-A", "--sort-by=.lastTimestamp"))):
            done = kubectl(*command, check=False)
            report.sections.append((what, (done.stdout + done.stderr)[-3000:]))
        with open("/cluster/log/traefik", encoding="utf-8") as file:
            # Without the line that each request has.
            lines = [line for line in file if "Service selected by" not in line]
        report.sections.append(("ingress controller", "".join(lines)[-3000:]))
    return report


class Deployment:
    """A MoEDeployment of a test, in a namespace of its own."""

    def __init__(self, name, namespace):
        self.name, self.namespace = name, namespace

    def get(self):
        return moed(self.name, self.namespace)

    def wait_ready(self, seconds=300):
        return wait_ready(self.name, self.namespace, seconds)

    def workers(self, group=None):
        return workers(self.name, self.namespace, group)

    def gateways(self):
        return gateways(self.name, self.namespace)

    def patch(self, patch):
        kubectl("patch", "moedeployment", self.name, "-n", self.namespace, "--type=merge", "-p", patch)

    def url(self):
        """The gateway's Service, by address (the node has no use for cluster names), once kube-proxy has heard of
        its pods: that takes a moment after they are ready."""
        address = get("service", f"{self.name}-gateway", self.namespace)["spec"]["clusterIP"]
        wait_until(lambda: takes_connections(address, 80), 15, f"{address} takes connections")
        return f"http://{address}"

    def epochs(self):
        return [group["epoch"] for group in self.get()["status"]["groups"]]


def left_of(deployment):
    """Everything in its namespace that carries its label."""
    kinds = "pods,services,deployments,replicasets,ingresses,poddisruptionbudgets,networkpolicies,serviceaccounts,configmaps,secrets"
    return [f"{item['kind']}/{item['metadata']['name']}"
            for item in items(kinds, deployment.namespace, f"moe-operator.dev/deployment={deployment.name}")]


@pytest.fixture(scope="module")
def make_deployment(operator):
    """make_deployment(manifest file or text, name, namespace): applies it; the namespace goes with the module,
    after a check that deleting the MoEDeployment left nothing behind."""
    made = []

    def make(manifest, name, namespace):
        make_namespace(namespace)
        deployment = Deployment(name, namespace)
        made.append(deployment)
        if os.path.isfile(manifest):
            with open(manifest, encoding="utf-8") as file:
                manifest = file.read()
        kubectl("apply", "-n", namespace, "-f", "-", stdin=manifest)
        return deployment

    yield make
    # All at once: each waits for the last streams and for the nodes.
    for deployment in made:
        kubectl("delete", "moedeployment", deployment.name, "-n", deployment.namespace, "--ignore-not-found", "--wait=false")
    for deployment in made:
        wait_until(lambda d=deployment: d.get() is None and not left_of(d), 240,
                   lambda d=deployment: f"nothing left, but: {left_of(d)}")
    for deployment in made:
        kubectl("delete", "namespace", deployment.namespace, "--wait=false")
    for deployment in made:
        kubectl("wait", "--for=delete", f"namespace/{deployment.namespace}", "--timeout=120s", timeout=150)
