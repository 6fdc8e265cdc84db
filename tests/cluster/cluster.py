"""The cluster under test, seen from inside its node: kubectl, helm, and the processes of pods.

The tests run in the network and among the processes of the node's container (tools/cluster/node run), so
a pod's address can be called, and a process can be killed, as the machine's owner could.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time

NODE_ADDRESS = "10.10.0.1"
ROOT = os.environ["MOE_ROOT"]
OPERATOR_NAMESPACE = "moe-operator"


def wait_until(condition, seconds, what, interval=0.1):
    """The first true value of `condition`; `what` may be a function that describes the failure."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(interval)
    raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")


def run(*command, stdin=None, check=True, timeout=300):
    """Runs a program; its output is part of the error when it fails."""
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=timeout,
                          check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


def kubectl(*args, **options):
    return run("kubectl", *args, **options)


def kubectl_json(*args):
    return json.loads(kubectl(*args, "-o", "json").stdout)


def get(kind, name, namespace):
    """The object, or None when there is none."""
    done = kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
    return json.loads(done.stdout) if done.stdout.strip() else None


def items(kind, namespace, selector=""):
    return kubectl_json("get", kind, "-n", namespace, "-l", selector)["items"]


def apply(*objects, namespace):
    kubectl("apply", "-n", namespace, "-f", "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def make_namespace(name):
    """A namespace that admits pods of the restricted Pod Security level only."""
    apply({"apiVersion": "v1", "kind": "Namespace",
           "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
          namespace="default")


def delete_namespace(name):
    kubectl("delete", "namespace", name, "--wait=true", "--timeout=120s", timeout=150)


# --- Plain pods ---

POD_SECURITY = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def plain_pod(name, labels, container):
    """A pod of one container that the restricted Pod Security level admits."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels},
            "spec": {"securityContext": POD_SECURITY, "terminationGracePeriodSeconds": 1,
                     "automountServiceAccountToken": False,
                     "containers": [{"name": "main", "imagePullPolicy": "Never", "securityContext": CONTAINER_SECURITY,
                                     **container}]}}


def web(name):
    """A pod that answers "served", its Service, and an Ingress for NAME.example.com."""
    server = plain_pod(name, {"app": name}, {
        "image": "localhost/busybox:1",
        "command": ["sh", "-c", "echo served >/tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]})
    server["spec"]["volumes"] = [{"name": "tmp", "emptyDir": {}}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
               "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}}
    backend = {"service": {"name": name, "port": {"number": 80}}}
    ingress = {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
               "spec": {"ingressClassName": "traefik", "rules": [{"host": f"{name}.example.com", "http": {
                   "paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}
    return server, service, ingress


def wait_web(name, seconds):
    """Waits until web(name) answers through Traefik."""
    url = f"http://{NODE_ADDRESS}/"
    wait_until(lambda: run("curl", "-fsS", "-m", "5", "-H", f"Host: {name}.example.com", url,
                           check=False).stdout == "served\n", seconds, f"Traefik routes to {name}")


def wait_follows(namespace):
    """Waits until the whole cluster acts again after an outage: a new pod is scheduled, started and reported, and
    its Service and Ingress lead to it. Until then readiness is what it was before, and requests go to pods that
    have gone."""
    apply(*web("canary"), namespace=namespace)
    wait_web("canary", 120)
    kubectl("delete", "pod,service,ingress", "canary", "-n", namespace, "--wait=true", "--timeout=60s")


# --- MoEDeployments and their pods ---

def manifest(name, num_workers, host=None, gateways=2, grace_seconds=30, **spec):
    """A deployment of the demo model on CPUs, as small as serves; `spec`: fields beside or instead of these."""
    fields = {"model": {"name": "demo", "uri": "file:///models/demo"}, "parallelism": {"expert": num_workers},
              "backend": "CPU", "engine": {"kvCacheMemory": "64Mi"},
              "gateway": {"replicas": gateways,
                          "podTemplate": {"spec": {"terminationGracePeriodSeconds": grace_seconds}}}}
    if host:
        fields["ingress"] = {"host": host, "className": "traefik"}
    return json.dumps({"apiVersion": "moe-operator.dev/v1alpha1", "kind": "MoEDeployment", "metadata": {"name": name},
                       "spec": fields | spec})


def condition(deployment, kind):
    """The condition of that type, or {}."""
    found = [c for c in deployment.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}


def is_true(deployment, kind):
    return condition(deployment, kind).get("status") == "True"


def moed(name, namespace):
    return get("moedeployment", name, namespace)


def wait_ready(name, namespace, seconds=300):
    """Waits until Ready is true for the present spec; returns the deployment."""
    def ready():
        deployment = moed(name, namespace)
        if is_true(deployment, "Failed"):
            raise AssertionError(f"{name} has failed: {condition(deployment, 'Failed')}")
        current = condition(deployment, "Ready").get("observedGeneration") == deployment["metadata"]["generation"]
        return deployment if current and is_true(deployment, "Ready") else None

    def why():
        return "Ready; status: " + json.dumps(moed(name, namespace).get("status", {}), indent=1)[:6000]
    return wait_until(ready, seconds, why, interval=0.5)


def wait_whole(deployment, epoch, num_ranks):
    """All workers of the first group active in an epoch above `epoch`, and Ready."""
    def whole():
        group = deployment.get()["status"]["groups"][0]
        active = group["epoch"] > epoch and sum(r["phase"] == "Active" for r in group["ranks"]) == num_ranks
        return active and is_true(deployment.get(), "Ready")
    wait_until(whole, 120, lambda: f"whole again: {json.dumps(deployment.get()['status'])[:4000]}", interval=0.3)


def workers(name, namespace, group=None):
    """Worker pods that were not asked to go."""
    selector = f"moe-operator.dev/deployment={name},app.kubernetes.io/component=worker"
    if group is not None:
        selector += f",moe-operator.dev/group={group}"
    return [pod for pod in items("pods", namespace, selector)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") not in ("Failed", "Succeeded")]


def gateways(name, namespace):
    selector = f"moe-operator.dev/deployment={name},app.kubernetes.io/component=gateway"
    return [pod for pod in items("pods", namespace, selector) if "deletionTimestamp" not in pod["metadata"]]


def controllers():
    selector = "app.kubernetes.io/name=moe-operator,app.kubernetes.io/component=controller"
    return [pod for pod in items("pods", OPERATOR_NAMESPACE, selector) if "deletionTimestamp" not in pod["metadata"]]


def rank_pod(name, namespace, rank, group=0):
    """The worker pod that holds `rank`, by the status."""
    ranks = moed(name, namespace)["status"]["groups"][group]["ranks"]
    return get("pod", next(r["pod"] for r in ranks if r["rank"] == rank), namespace)


def leader():
    """The controller pod that holds the lease."""
    def holder():
        for lease in items("lease", OPERATOR_NAMESPACE):
            identity = lease["spec"].get("holderIdentity", "")
            for pod in controllers():
                if identity.startswith(pod["metadata"]["name"]):
                    return pod
        return None
    return wait_until(holder, 60, "a controller that holds the lease")


def takes_connections(address, port):
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def restarts(pods):
    """{pod name: (uid, restarts of its containers)}: what changes when anything was started again."""
    return {pod["metadata"]["name"]: (pod["metadata"]["uid"],
                                      sum(c["restartCount"] for c in pod["status"].get("containerStatuses", [])))
            for pod in pods}


# --- Processes ---

def pids(pod):
    """Pids of the processes in the pod's containers, the one that began first at the front."""
    ids = [c["containerID"].split("//")[1] for c in pod["status"].get("containerStatuses", []) if c.get("containerID")]
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/cgroup", encoding="utf-8") as file:
                groups = file.read()
        except OSError:
            continue
        if any(container in groups for container in ids):
            found.append(int(entry))
    return sorted(found)


def send_signal(pod, number):
    """To the first process of the pod, as from outside its container: even SIGKILL and SIGSTOP work."""
    found = pids(pod)
    assert found, f"no process of {pod['metadata']['name']}"
    os.kill(found[0], number)


@contextlib.contextmanager
def without_api_server():
    """The API server is dead for as long as this lasts, then comes back with what it had stored."""
    hold = "/cluster/hold/kube-apiserver"
    with open(hold, "w", encoding="utf-8"):
        pass
    try:
        with open("/cluster/pid/kube-apiserver", encoding="utf-8") as file:
            os.kill(int(file.read()), signal.SIGKILL)
        yield
    finally:
        os.remove(hold)
        wait_until(lambda: kubectl("get", "--raw", "/readyz", check=False).returncode == 0, 60, "API server back")
