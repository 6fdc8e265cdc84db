"""1,024 workers in one MoEDeployment (16 groups of 64) on KWOK's nodes, beside a ReplicaSet of such pods.

KWOK's pods have no containers: they get ready as soon as they have a node, and never say Hello to their
coordinator. So groups do not become active, and what is measured ends with PodReady.
"""

import json
import time

from cluster import apply, items, kubectl, kubectl_json, make_namespace, wait_until
from measure import (Controller, PodWatch, api_writes, api_writes_since, bare_pod, context_on_failure, cpu_seconds,
                     cpu_seconds_since, create, delete_deployment, say, wait_no_pods)

NAME = "scale"
GPUS_PER_NODE = 8
ON_KWOK = {"nodeSelector": {"type": "kwok"},
           "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}]}


def make_nodes(count):
    """Nodes of KWOK with 8 GPUs each; a taint keeps real pods away."""
    capacity = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": str(GPUS_PER_NODE)}
    # apply: a node that stays may have them.
    apply(*({"apiVersion": "v1", "kind": "Node",
              "metadata": {"name": f"kwok-{i}", "annotations": {"kwok.x-k8s.io/node": "fake"},
                           "labels": {"type": "kwok", "kubernetes.io/hostname": f"kwok-{i}"}},
              "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
              "status": {"allocatable": capacity, "capacity": capacity}} for i in range(count)), namespace="default")

    def all_ready():
        nodes = kubectl("get", "nodes", "-l", "type=kwok", "--no-headers").stdout.splitlines()
        return len(nodes) == count and all(line.split()[1] == "Ready" for line in nodes)
    wait_until(all_ready, 60, "KWOK's nodes ready", interval=0.5)


def manifest(version, replicas, width):
    """One GPU for each worker, so that the scheduler has to count; the CPU backend, since CUDA is not built here."""
    image = f"localhost/moe-demo:{version}"
    resources = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "512Mi", "nvidia.com/gpu": "1"}}
    return {"apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": NAME},
            "spec": {"replicas": replicas, "model": {"name": "demo", "uri": "file:///models/demo"},
                     "parallelism": {"expert": width}, "backend": "CPU", "engine": {"kvCacheMemory": "64Mi"},
                     "worker": {"podTemplate": {"spec": {
                         **ON_KWOK, "containers": [{"name": "worker", "image": image, "resources": resources}]}}},
                     "gateway": {"replicas": 1, "podTemplate": {"spec": {
                         **ON_KWOK, "containers": [{"name": "gateway", "image": image}]}}}}}


class Scale:
    def __init__(self, version, replicas, width):
        self.replicas, self.width, self.count = replicas, width, replicas * width
        self.manifest = manifest(version, replicas, width)
        self.seconds = 100
        self.worker = None  # a worker pod of the operator's, after its first round
        make_namespace(NAME)
        make_nodes(-(-self.count // GPUS_PER_NODE))

    def operator(self):
        controller = Controller()
        writes, requests, cpu = api_writes(), controller.requests(), controller.cpu_seconds()
        reconciles, cpu_of_all = controller.reconciles(), cpu_seconds()
        selector = f"moe-operator.dev/deployment={NAME},app.kubernetes.io/component=worker"
        with context_on_failure(NAME), PodWatch(NAME, selector) as watch:
            begin = time.monotonic()
            apply(self.manifest, namespace=NAME)
            created = watch.wait("created", self.count, self.seconds) - begin
            ready = watch.wait("ready", self.count, self.seconds) - begin
            first = min(watch.created.values()) - begin
            assert len(watch.created) == self.count, f"{len(watch.created)} pods for {self.count} places"
            cpu_of_all = cpu_seconds_since(cpu_of_all)
        cpu = controller.cpu_seconds() - cpu
        again = controller.requests()
        writes = api_writes_since(writes)
        result = {"first": first, "created": created, "ready": ready,
                  "pod_writes": writes["pods"] / self.count, "writes": writes, "cpu_seconds": cpu_of_all,
                  "controller_requests": {verb: (number - requests.get(verb, 0)) / self.count
                                          for verb, number in again.items()},
                  "controller_cpu_seconds": cpu,
                  "reconciles": controller.reconciles()[0] - reconciles[0],
                  "reconcile_seconds": controller.reconciles()[1] - reconciles[1],
                  "controller_max_rss_mib": controller.max_rss_mib()}
        if self.worker is None:
            self.worker = items("pods", NAME, selector)[0]
            deployment = kubectl_json("get", "moedeployment", NAME, "-n", NAME)
            result["status_bytes"] = len(json.dumps(deployment["status"]))
        delete_deployment(NAME, NAME)
        return result

    def bare(self):
        pod = bare_pod(self.worker)
        # A ReplicaSet's pods must want to be started again.
        pod["spec"]["restartPolicy"] = "Always"
        replica_set = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "bare"},
                       "spec": {"replicas": self.count, "selector": {"matchLabels": {"bench": "bare"}},
                                "template": {"metadata": pod["metadata"], "spec": pod["spec"]}}}
        writes, cpu_of_all = api_writes(), cpu_seconds()
        with context_on_failure(NAME), PodWatch(NAME, "bench=bare") as watch:
            begin = time.monotonic()
            create(replica_set, namespace=NAME)
            created = watch.wait("created", self.count, self.seconds) - begin
            ready = watch.wait("ready", self.count, self.seconds) - begin
            first = min(watch.created.values()) - begin
            cpu_of_all = cpu_seconds_since(cpu_of_all)
        writes = api_writes_since(writes)
        result = {"first": first, "created": created, "ready": ready, "pod_writes": writes["pods"] / self.count,
                  "writes": writes, "cpu_seconds": cpu_of_all}
        kubectl("delete", "replicaset", "bare", "-n", NAME, "--wait=true")
        wait_no_pods(NAME)
        return result

    def close(self):
        """On a node that stays, a hundred nodes that renew their leases would be felt by who comes next."""
        kubectl("delete", "nodes", "-l", "type=kwok")

    def round(self, number):
        sides = ["operator", "bare"] if number % 2 == 0 else ["bare", "operator"]
        result = {}
        for side in sides:
            result[side] = getattr(self, side)()
            say(f"{self.count} pods, round {number + 1}, {side}: " + json.dumps(result[side]))
        return result
