"""64 workers on the real node (kubelet, containerd), beside `kubectl create` of 64 such pods.

Both sides take turns. The bare pods have image, resources, volumes, arguments and probes of the operator's
workers, and are nobody's: their processes wait for a coordinator that is not there. So the difference is what the
operator adds: inspection, gangs, ranks, weights, the first epoch, gateways.
"""

import json
import os
import signal
import threading
import time

import answers
from cluster import (ROOT, apply, get, items, kubectl, make_namespace, moed, rank_pod, send_signal, wait_ready,
                     wait_until)
from measure import Controller, PodWatch, bare_pod, context_on_failure, create, delete_deployment, say, wait_no_pods

NAME, BARE = "bench", "bare"
NUM_WORKERS = 64
NUM_IDLE_RECONCILES = 40
QUESTION = "What is expert parallelism?"
SECONDS = 240


class Streams:
    """One greedy stream after the other until left; when each token came, and whether all answers were the same."""

    def __init__(self, url):
        self.times, self.answers = [], []
        self._failure = None
        self._stopping = threading.Event()
        self._url = url
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self._failure or len(self.answers) >= 1, 120, "a first answer")
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join(120)

    def _run(self):
        try:
            with answers.client(self._url) as api:
                while not self._stopping.is_set():
                    self.answers.append(answers.ask(api, QUESTION, model="demo", max_tokens=200,
                                                    seen=lambda: self.times.append(time.monotonic())))
        except Exception as error:  # shown by check()
            self._failure = error

    def first_after_silence(self, since):
        """The end of the longest silence that began after `since`: the first token of the next epoch."""
        times = [t for t in self.times if t >= since]
        gaps = [(later - earlier, later) for earlier, later in zip([since] + times, times)]
        return max(gaps)[1]

    def check(self):
        if self._failure:
            raise AssertionError(f"a stream failed: {self._failure}")
        assert all(answer == self.answers[0] for answer in self.answers), "an answer changed its tokens"


class RealNode:
    def __init__(self):
        make_namespace(NAME)
        make_namespace(BARE)
        with open(os.path.join(ROOT, "deploy", "samples", "demo-cpu.yaml"), encoding="utf-8") as file:
            self.sample = file.read()
        self.worker = None  # a worker pod of the operator's, after its first round

    def operator(self):
        result = {}
        selector = "moe-operator.dev/deployment=demo,app.kubernetes.io/component=worker"
        with context_on_failure(NAME), PodWatch(NAME, selector) as watch:
            begin = time.monotonic()
            kubectl("apply", "-n", NAME, "-f", "-", stdin=self.sample)
            result["created"] = watch.wait("created", NUM_WORKERS, SECONDS) - begin
            result["pods_ready"] = watch.wait("ready", NUM_WORKERS, SECONDS) - begin
            wait_ready("demo", NAME, SECONDS)
            result["ready"] = time.monotonic() - begin
            deployment = moed("demo", NAME)
            if self.worker is None:
                self._learn(items("pods", NAME, selector)[0])
            result["idle_reconcile"] = self._idle_reconciles()
            result.update(self._kill(deployment))
        kubectl("patch", "moedeployment", "demo", "-n", NAME, "--type=merge", "-p", json.dumps(
            {"spec": {"gateway": {"podTemplate": {"spec": {"terminationGracePeriodSeconds": 10}}}}}))
        delete_deployment("demo", NAME)
        return result

    def _learn(self, pod):
        self.worker = pod
        bundle = get("configmap", "moe-operator-ca", NAME)
        # apply: on a node that stays, an earlier run has made it.
        apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "moe-operator-ca"},
               "data": bundle["data"]}, namespace=BARE)

    def _idle_reconciles(self):
        """Mean seconds of a reconcile that finds nothing to do, from the controller's own histogram. An annotation that
        nobody reads triggers each."""
        controller = Controller()

        def settled():
            before = controller.reconciles()
            time.sleep(2)
            return controller.reconciles() == before
        wait_until(settled, 60, "a controller with nothing to do")
        number, seconds = controller.reconciles()
        for i in range(NUM_IDLE_RECONCILES):
            kubectl("annotate", "moedeployment", "demo", "-n", NAME, "--overwrite", f"bench={i}")
        wait_until(lambda: controller.reconciles()[0] >= number + NUM_IDLE_RECONCILES, 30, "reconciles")
        number_after, seconds_after = controller.reconciles()
        return (seconds_after - seconds) / (number_after - number)

    def _kill(self, deployment):
        """kill -9 of a worker under a running stream: until the group is active in a new epoch, and until the stream
        goes on."""
        epoch = deployment["status"]["groups"][0]["epoch"]
        service = get("service", "demo-gateway", NAME)
        with Streams(f"http://{service['spec']['clusterIP']}") as streams:
            pod = rank_pod("demo", NAME, 5)
            begin = time.monotonic()
            send_signal(pod, signal.SIGKILL)

            def active():
                # The next epoch is claimed before the status says that the last one is over.
                group = moed("demo", NAME)["status"]["groups"][0]
                replaced = group["ranks"][5]["pod"] != pod["metadata"]["name"]
                return group["phase"] == "Active" and group["epoch"] > epoch and replaced
            wait_until(active, SECONDS, "active in a new epoch", interval=0.05)
            epoch_active = time.monotonic() - begin
            num_answers = len(streams.answers)
            wait_until(lambda: len(streams.answers) >= num_answers + 2, 120, "answers after the kill")
        streams.check()
        return {"kill_to_active": epoch_active, "kill_to_token": streams.first_after_silence(begin) - begin}

    def bare(self):
        pods = [bare_pod(self.worker, f"bare-{i}") for i in range(NUM_WORKERS)]
        result = {}
        with context_on_failure(BARE), PodWatch(BARE, "bench=bare") as watch:
            begin = time.monotonic()
            create(*pods, namespace=BARE)
            result["created"] = watch.wait("created", NUM_WORKERS, SECONDS) - begin
            result["pods_ready"] = watch.wait("ready", NUM_WORKERS, SECONDS) - begin
            # What a person with a shell could do at best: the next pod as soon as the first is seen to have failed.
            victim = get("pod", "bare-5", BARE)
            begin = time.monotonic()
            send_signal(victim, signal.SIGKILL)
            wait_until(lambda: get("pod", "bare-5", BARE)["status"]["phase"] == "Failed", SECONDS, "a failed pod",
                       interval=0.05)
            create(bare_pod(self.worker, "bare-again"), namespace=BARE)
            result["kill_to_pod_ready"] = watch.wait_one("ready", "bare-again", SECONDS) - begin
        kubectl("delete", "pods", "-n", BARE, "-l", "bench=bare", "--grace-period=1", "--wait=false")
        wait_no_pods(BARE)
        return result

    def round(self, number):
        sides = ["operator", "bare"] if number % 2 == 0 else ["bare", "operator"]
        result = {}
        for side in sides:
            result[side] = getattr(self, side)()
            say(f"{NUM_WORKERS} pods, round {number + 1}, {side}: " + json.dumps(result[side]))
        return result
