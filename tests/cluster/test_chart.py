"""The chart before and while it is installed: lint, schemas, the restricted Pod Security level, helm test."""

import json
import os
import subprocess
import sys

import pytest

from cluster import OPERATOR_NAMESPACE, ROOT, controllers, kubectl, kubectl_json, run
from conftest import CHART, VALUES

SAMPLES = os.path.join(ROOT, "deploy", "samples")


# Without a cluster, helm that was built from its module takes Kubernetes to be 1.20.
TEMPLATE = ("helm", "template", "moe-operator", CHART, "--kube-version", "1.34", "-n", OPERATOR_NAMESPACE)


def template(*values):
    return run(*TEMPLATE, "--include-crds", *values).stdout


# Everything that a value can switch on.
EVERYTHING = ("--set", "metrics.podMonitor.enabled=true,metrics.serviceMonitor.enabled=true,"
                       "dashboards.enabled=true,alerts.enabled=true,watchNamespaces={a,b}")


def test_lint():
    run("helm", "lint", "--strict", CHART)


@pytest.fixture(scope="session")
def schemas(tmp_path_factory):
    """JSON schemas of Kubernetes' own kinds, made from what the API server publishes."""
    folder = tmp_path_factory.mktemp("schemas")
    subprocess.run([sys.executable, os.path.join(ROOT, "tools", "cluster", "json_schemas.py"),
                    os.path.join(os.environ["MOE_CLUSTER_FILES"], "swagger.json"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize("values", [(), EVERYTHING], ids=["defaults", "everything"])
def test_every_rendered_object_fits_its_schema(schemas, values):
    done = run("kubeconform", "-strict", "-summary", "-output", "json", "-schema-location",
               f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
               # Their schemas are another project's; what we write in them is checked by hand.
               "-skip", "PodMonitor,ServiceMonitor,PrometheusRule", "-", stdin=template(*values), check=False)
    report = json.loads(done.stdout)
    assert not report["resources"], report["resources"]
    assert report["summary"]["valid"] > 8, report["summary"]


def test_the_schemas_refuse_what_is_wrong(schemas):
    """Without this, a wrong -schema-location would pass everything."""
    wrong = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {prots: []}\n"
    done = run("kubeconform", "-strict", "-schema-location", f"{schemas}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json",
               "-", stdin=wrong, check=False)
    assert done.returncode != 0 and "prots" in done.stdout, done.stdout


@pytest.mark.parametrize("wrong", ["replicaCount=many", "image.pullPolicy=Sometimes", "noSuchValue=1"])
def test_values_schema_refuses(wrong):
    assert run(*TEMPLATE, "--set", wrong, check=False).returncode != 0


def test_crds_of_the_chart_are_those_of_deploy_crds():
    for name in os.listdir(os.path.join(ROOT, "deploy", "crds")):
        with open(os.path.join(ROOT, "deploy", "crds", name), encoding="utf-8") as ours, \
                open(os.path.join(CHART, "crds", name), encoding="utf-8") as theirs:
            assert ours.read() == theirs.read(), name


def test_version_of_chart_and_images_is_the_projects():
    with open(os.path.join(CHART, "Chart.yaml"), encoding="utf-8") as file:
        chart = file.read()
    version = os.environ["MOE_VERSION"]
    assert f"\nversion: {version}\n" in chart and f"\nappVersion: {version}\n" in chart, chart


def test_two_controllers_run_where_only_restricted_pods_may(operator):
    pods = controllers()
    assert len(pods) == 2
    for pod in pods:
        assert all(c["ready"] for c in pod["status"]["containerStatuses"]), pod["status"]
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"]["drop"] == ["ALL"]


def test_helm_test(operator):
    run("helm", "test", "moe-operator", "-n", OPERATOR_NAMESPACE, "--timeout", "120s")


def test_roles_allow_nothing_on_everything(operator):
    """No wildcard, no escalation: what the controller may do can be read off its rules."""
    for kind in ("clusterroles", "roles"):
        for role in kubectl_json("get", kind, "-A", "-l", "app.kubernetes.io/name=moe-operator")["items"]:
            for rule in role["rules"]:
                assert "*" not in rule["verbs"] + rule.get("resources", []) + rule["apiGroups"], (role["metadata"]["name"], rule)
                assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"]), rule


def test_view_edit_and_admin_know_the_resource(operator):
    for role, verb, want in (("view", "get", True), ("view", "create", False), ("edit", "create", True),
                             ("admin", "delete", True)):
        rules = kubectl_json("get", "clusterrole", role)["rules"]
        has = any("moe-operator.dev" in rule.get("apiGroups", []) and verb in rule["verbs"] for rule in rules)
        assert has == want, (role, verb)


def test_crds_stay_when_the_chart_is_upgraded(operator):
    run("helm", "upgrade", "moe-operator", CHART, "-n", OPERATOR_NAMESPACE, "--wait", "--timeout", "120s", *VALUES)
    kubectl("get", "crd", "moedeployments.moe-operator.dev")
