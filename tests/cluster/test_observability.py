"""Metrics as a Prometheus of the cluster meets them: it scrapes by the pods' annotations, and everything that
a dashboard or an alert asks for must be there."""

import contextlib
import glob
import json
import os
import re
import signal
import subprocess
import time
import urllib.parse
import urllib.request

import pytest

from answers import Load
from cluster import NODE_ADDRESS, OPERATOR_NAMESPACE, controllers, manifest, rank_pod, send_signal, wait_until
from conftest import CHART

HOST = "observed.example.com"
PORT = 19090
MANIFEST = manifest("observed", 8, HOST)
DASHBOARDS = sorted(glob.glob(os.path.join(CHART, "dashboards", "*.json")))
ALERTS = os.path.join(CHART, "files", "alerts.yaml")
# Series that only a GPU has, or that a run without failures never makes.
NOT_HERE = frozenset()

CONFIG = """
global: {scrape_interval: 2s, scrape_timeout: 2s}
scrape_configs:
- job_name: pods
  kubernetes_sd_configs: [{role: pod, kubeconfig_file: /cluster/admin.conf}]
  relabel_configs:
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape], regex: "true", action: keep}
  - {source_labels: [__meta_kubernetes_pod_phase], regex: Running, action: keep}
  - source_labels: [__meta_kubernetes_pod_ip, __meta_kubernetes_pod_annotation_prometheus_io_port]
    separator: ":"
    target_label: __address__
  - {source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path], regex: (.+), target_label: __metrics_path__}
  - {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
  - {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
  - {regex: __meta_kubernetes_pod_label_(.+), action: labelmap}
"""


@pytest.fixture(scope="module")
def observed(make_deployment):
    deployment = make_deployment(MANIFEST, "observed", "observed")
    deployment.wait_ready()
    return deployment


def query(path, **parameters):
    url = f"http://127.0.0.1:{PORT}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
    with urllib.request.urlopen(url, timeout=10) as reply:
        return json.loads(reply.read())["data"]


@pytest.fixture(scope="module")
def prometheus(observed, right, tmp_path_factory):
    """Prometheus, after requests were served and a worker was replaced under its eyes."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIG, encoding="utf-8")
    with open(folder / "log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{PORT}"], stdout=log, stderr=log)
    try:
        def ready():
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/-/ready", timeout=5) as reply:
                    return reply.status == 200
            return False
        wait_until(ready, 60, lambda: "Prometheus: " + (folder / "log").read_text(encoding="utf-8")[-2000:])
        with Load(f"http://{NODE_ADDRESS}", HOST, right) as load:
            load.wait_answers(4)
            send_signal(rank_pod("observed", observed.namespace, 3), signal.SIGKILL)
            load.wait_answers(12)
            time.sleep(6)  # two scrapes more
        load.check()
        yield
    finally:
        process.terminate()
        process.wait(30)


def test_every_part_is_scraped(observed, prometheus):
    def up():
        targets = query("targets", state="active")["activeTargets"]
        here = {t["labels"]["pod"] for t in targets if t["health"] == "up"
                and t["labels"]["namespace"] in (observed.namespace, OPERATOR_NAMESPACE)}
        return {p["metadata"]["name"] for p in observed.workers() + observed.gateways() + controllers()} <= here
    wait_until(up, 30, lambda: json.dumps([(t["labels"].get("pod"), t["health"], t["lastError"])
                                           for t in query("targets", state="active")["activeTargets"]]))


def selectors(expression):
    """Every `metric{...}` of a PromQL expression, with dashboard variables taken as anything."""
    # Not the labels that pods' own become (moe_operator_dev_group).
    for name, labels in re.findall(r'\b((?:vllm:|moe_(?!operator_dev_)|process_)[a-zA-Z0-9_:]+|up(?=\{))\s*(\{[^}]*\})?',
                                   expression):
        yield name + re.sub(r'=~?\s*"\$\w+"', '=~".*"', labels)


def expressions(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value.removeprefix("label_values(").rsplit(",", 1)[0] if value.startswith("label_values(") else value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for value in node:
            yield from expressions(value)


@pytest.mark.parametrize("path", [pytest.param(p, id=os.path.basename(p)) for p in DASHBOARDS])
def test_every_selector_of_a_dashboard_finds_a_series(prometheus, path):
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    wanted = {selector for expression in expressions(dashboard) for selector in selectors(expression)}
    assert len(wanted) >= 5, wanted
    missing = [s for s in sorted(wanted) if s.split("{")[0] not in NOT_HERE and not query("series", **{"match[]": s})]
    assert not missing, missing


def test_there_are_three_dashboards():
    assert len(DASHBOARDS) == 3, DASHBOARDS


def test_every_selector_of_an_alert_finds_a_series(prometheus):
    """When they fire is tested by promtool (tests/deploy); that they can is tested here."""
    with open(ALERTS, encoding="utf-8") as file:
        wanted = set(selectors(file.read()))
    assert len(wanted) >= 5, wanted
    missing = [s for s in sorted(wanted) if s.split("{")[0] not in NOT_HERE and not query("series", **{"match[]": s})]
    assert not missing, missing
