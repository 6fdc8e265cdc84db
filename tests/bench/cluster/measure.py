"""What the cluster's benchmarks read their times and counts from: kubectl's own watch, the metrics of the
API server and of the leading controller, and the kernel's account of a process's memory."""

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import yaml

sys.path.insert(0, os.path.join(os.environ["MOE_ROOT"], "tests", "cluster"))
from cluster import kubectl, leader, pids, wait_until  # noqa: E402

METRIC = re.compile(r"^([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')
WRITES = ("POST", "PUT", "PATCH", "DELETE", "APPLY")


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class PodWatch:
    """When each pod was first seen, and first seen ready: a watch of the API server for rows as kubectl prints them,
    a few hundred bytes for each change. Both sides of a comparison are watched in the same way."""

    def __init__(self, namespace, selector):
        self.created, self.ready = {}, {}  # pod name -> time.monotonic()
        self._path = f"/api/v1/namespaces/{namespace}/pods?labelSelector={urllib.parse.quote(selector)}"
        self._changed = threading.Condition()
        self._stopping = False
        self._version = None
        self._connect()
        self._list()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping = True
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _connect(self):
        """A connection as the cluster's administrator. kubectl would do, but not ask for rows alone."""
        with open(os.environ["KUBECONFIG"], encoding="utf-8") as file:
            config = yaml.safe_load(file)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(base64.b64decode(user["client-certificate-data"]) + b"\n" + base64.b64decode(user["client-key-data"]))
            file.flush()
            context.load_cert_chain(file.name)
        self._http = http.client.HTTPSConnection(urllib.parse.urlsplit(cluster["server"]).netloc, context=context)
        self._http.connect()
        self._socket = self._http.sock

    def _get(self, options):
        self._http.request("GET", self._path + "&includeObject=None" + options,
                           headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"})
        reply = self._http.getresponse()
        assert reply.status == 200, f"{self._path}: {reply.status}"
        return reply

    def _list(self):
        table = json.loads(self._get("").read())
        self._version = table["metadata"]["resourceVersion"]
        self._note(table)

    def _note(self, table):
        now = time.monotonic()
        with self._changed:
            for row in table["rows"]:
                name, ready, state = row["cells"][:3]
                self.created.setdefault(name, now)
                have, want = ready.split("/")
                if have == want and state == "Running":
                    self.ready.setdefault(name, now)
            self._changed.notify_all()

    def _run(self):
        while not self._stopping:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                reply = self._get(f"&watch=1&resourceVersion={self._version}")
                while line := reply.readline():
                    event = json.loads(line)
                    if event["type"] not in ("ADDED", "MODIFIED"):
                        continue
                    self._note(event["object"])
            if not self._stopping:
                # The API server ends the watch of a client that can't keep up.
                say("the watch of pods ended; begun again")
                self._connect()
                self._list()

    def wait(self, what, count, seconds):
        """The time at which the `count`-th pod was `created` or `ready`."""
        times = getattr(self, what)
        with self._changed:
            if not self._changed.wait_for(lambda: len(times) >= count, timeout=seconds):
                raise AssertionError(f"not within {seconds} s: {count} pods {what}, only {len(times)}")
            return sorted(times.values())[count - 1]

    def wait_one(self, what, name, seconds):
        times = getattr(self, what)
        with self._changed:
            if not self._changed.wait_for(lambda: name in times, timeout=seconds):
                raise AssertionError(f"not within {seconds} s: pod {name} {what}")
            return times[name]


def parse_metrics(text):
    """[(name, {label: value}, number)]"""
    found = []
    for line in text.splitlines():
        match = METRIC.match(line)
        if match:
            found.append((match[1], dict(LABEL.findall(match[2] or "")), float(match[3])))
    return found


def api_writes():
    """{resource: requests that the API server got that write it or a part of it: by users, scheduler, everybody}"""
    totals = {}
    for name, labels, number in parse_metrics(kubectl("get", "--raw", "/metrics").stdout):
        if name == "apiserver_request_total" and labels["verb"] in WRITES:
            totals[labels["resource"]] = totals.get(labels["resource"], 0) + number
    return totals


def api_writes_since(before):
    writes = {resource: number - before.get(resource, 0) for resource, number in api_writes().items()}
    return {resource: number for resource, number in sorted(writes.items()) if number > 0}


def cpu_seconds():
    """{program: seconds of CPU that its processes have taken so far}"""
    seconds = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            with open(f"/proc/{entry}/cmdline", encoding="utf-8") as file:
                name = os.path.basename(file.read().split("\0")[0])
            if name:
                seconds[name] = seconds.get(name, 0) + _cpu_seconds_of(entry)
    return seconds


def _cpu_seconds_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_seconds_since(before):
    """{program: seconds}, without those that took next to nothing."""
    return {name: round(seconds - before.get(name, 0), 2) for name, seconds in sorted(cpu_seconds().items())
            if seconds - before.get(name, 0) >= 0.05}


class Controller:
    """The controller that leads."""

    def __init__(self):
        self.pod = leader()

    def metrics(self):
        url = f"http://{self.pod['status']['podIP']}:7701/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return parse_metrics(reply.read().decode())

    def requests(self):
        """{verb: requests to the API server}, without watches and their lists."""
        return {labels["verb"]: number for name, labels, number in self.metrics()
                if name == "moe_controller_api_requests_total"}

    def reconciles(self):
        """(number, seconds) of all reconciles that went well."""
        totals = {name: number for name, labels, number in self.metrics() if labels.get("result") == "ok"}
        prefix = "moe_controller_reconcile_seconds"
        return totals.get(f"{prefix}_count", 0), totals.get(f"{prefix}_sum", 0)

    def _process(self):
        return pids(self.pod)[0]

    def max_rss_mib(self):
        """The most memory that it ever had."""
        with open(f"/proc/{self._process()}/status", encoding="utf-8") as file:
            return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) / 1024

    def cpu_seconds(self):
        return _cpu_seconds_of(self._process())


def bare_pod(pod, name=None):
    """A pod like a worker of the operator's, which is nobody's: same image, arguments, resources, volumes and probes.
    Its coordinator is an address where nobody listens, so its process waits as a worker's does for its group."""
    spec = {key: value for key, value in pod["spec"].items()
            if key not in ("nodeName", "schedulingGates", "serviceAccount", "serviceAccountName", "priority",
                           "preemptionPolicy", "enableServiceLinks", "schedulerName")}
    spec = json.loads(json.dumps(spec))
    for container in spec["containers"]:
        args = container.get("args", [])
        if "--coordinator" in args:
            args[args.index("--coordinator") + 1] = "127.0.0.1:7700"
    metadata = {"labels": {"bench": "bare"}}
    if name:
        metadata["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def create(*objects, namespace):
    kubectl("create", "-n", namespace, "-f", "-",
            stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def num_pods(namespace):
    return len(kubectl("get", "pods", "-n", namespace, "--no-headers").stdout.splitlines())


def wait_no_pods(namespace, seconds=180):
    wait_until(lambda: num_pods(namespace) == 0, seconds, f"no pods in {namespace}", interval=0.5)


def delete_deployment(name, namespace):
    kubectl("delete", "moedeployment", name, "-n", namespace, "--wait=true", "--timeout=120s", timeout=150)
    wait_no_pods(namespace)


@contextlib.contextmanager
def context_on_failure(namespace):
    """What the cluster says when a measurement fails."""
    try:
        yield
    except BaseException:
        for command in (("get", "moed,pods", "-n", namespace),
                        ("logs", "-n", "moe-operator", "-l", "app.kubernetes.io/component=controller",
                         "--prefix", "--tail=30")):
            done = kubectl(*command, check=False)
            print((done.stdout + done.stderr)[-3000:], file=sys.stderr)
        raise
