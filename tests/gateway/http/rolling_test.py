"""Real moe-gateway processes over a scripted engine, replaced while clients ask.

Usage: rolling_test.py FAKE_ENGINE MOE_GATEWAY
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

FAKE_ENGINE, GATEWAY = sys.argv[1:3]
ANSWER = "0123456789" * 30  # about a second of tokens
REQUEST = {"model": "tiny", "prompt": "hi", "max_tokens": 400}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def send(port, method, path, body=None, key=None, timeout=60):
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        connection.request(method, path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def complete(port, stream):
    """The text of one completion. Raises for anything but a whole answer."""
    status, body = send(port, "POST", "/v1/completions", {**REQUEST, "stream": stream})
    assert status == 200, (status, body)
    if not stream:
        return json.loads(body)["choices"][0]["text"]
    events = [line[6:] for line in body.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]", body[-200:]
    return "".join(choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"])


class Gateway:
    """A process that listens, and whether a load balancer would send requests to it."""

    def __init__(self, folder, *flags):
        self.process = subprocess.Popen(
            [GATEWAY, "--coordinator", f"unix:{folder}/coordinator.sock", "--model",
             f"{folder}/model", "--served-model-name", "tiny", "--port", "0", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert match, (line, self.process.poll() is not None and self.process.stderr.read())
        self.port = int(match[1])

    def ready(self, path="/ready"):
        try:
            return send(self.port, "GET", path)[0] == 200
        except OSError:
            return False

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class RollingTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="moe-rolling-")
        self.engine = subprocess.Popen([FAKE_ENGINE, self.folder, ANSWER], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, text=True)
        self.assertEqual(self.engine.stdout.readline(), "ready\n")
        self.gateways = []

    def tearDown(self):
        for gateway in self.gateways:
            gateway.end()
        self.engine.stdin.close()
        self.engine.wait()
        self.engine.stdout.close()
        shutil.rmtree(self.folder)

    def start(self, *flags):
        self.gateways.append(Gateway(self.folder, *flags))
        return self.gateways[-1]

    def test_a_rolling_update_fails_no_request(self):
        flags = ("--unready-seconds", "2", "--drain-seconds", "60")
        serving = [self.start(*flags)]  # what the load balancer believes
        lock = threading.Lock()
        stop = threading.Event()
        failures, num_done = [], [0]

        def probe():
            while not stop.is_set():
                ready = [gateway for gateway in list(self.gateways) if gateway.ready()]
                with lock:
                    serving[:] = ready
                stop.wait(0.2)

        def ask(worker):
            for i in range(1000000):
                if stop.is_set():
                    return
                with lock:
                    port = serving[(worker + i) % len(serving)].port if serving else None
                try:
                    text = complete(port, stream=i % 2 == 0)
                    assert text == ANSWER, text
                except Exception as error:  # pylint: disable=broad-except
                    failures.append((port, repr(error)))
                with lock:
                    num_done[0] += 1

        threads = [threading.Thread(target=probe)]
        threads += [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                old = self.gateways[-1]
                self.start(*flags)
                self.wait_for(lambda: len(serving) == 2)
                old.process.send_signal(signal.SIGTERM)
                self.wait_for(lambda: not old.ready())
                # Who has not noticed yet is still answered.
                self.assertEqual(complete(old.port, stream=False), ANSWER)
                old.process.wait(60)
                self.assertEqual(old.process.returncode, 0)
                done = num_done[0]
                self.wait_for(lambda: num_done[0] > done + 8)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(num_done[0], 24)

    def wait_for(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.01)

    def test_kill_9_ends_only_its_own_streams(self):
        killed, other = self.start(), self.start()
        texts = {}

        def stream(gateway):
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
            connection.request("POST", "/v1/completions", json.dumps({**REQUEST, "stream": True}),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            texts[gateway] = answer.readline().decode()
            started.release()
            try:
                texts[gateway] += answer.read().decode()
            except (http.client.IncompleteRead, OSError):
                texts[gateway] += "broken"
            connection.close()

        started = threading.Semaphore(0)
        threads = [threading.Thread(target=stream, args=(gateway,)) for gateway in (killed, other)]
        for thread in threads:
            thread.start()
        for _ in threads:
            started.acquire()
        os.kill(killed.process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        self.assertTrue(texts[killed].endswith("broken"), texts[killed][-100:])
        self.assertIn("data: [DONE]", texts[other])
        self.assertEqual(complete(other.port, stream=True), ANSWER)

    def test_a_rotated_key_and_a_listener_without_one(self):
        path, metrics_port = f"{self.folder}/key", free_port()
        with open(path, "w", encoding="utf-8") as file:
            file.write("old\n")
        gateway = self.start("--api-key-file", path, "--metrics-port", str(metrics_port))
        self.assertEqual(send(gateway.port, "GET", "/v1/models")[0], 401)
        self.assertEqual(send(gateway.port, "GET", "/v1/models", key="old")[0], 200)
        self.assertEqual(send(gateway.port, "GET", "/metrics")[0], 401)
        status, text = send(metrics_port, "GET", "/metrics")
        self.assertEqual(status, 200)
        self.assertIn('moe_group_serving{group="0",model_name="tiny"} 1', text)
        self.assertEqual(send(metrics_port, "GET", "/v1/models")[0], 404)
        with open(path + ".next", "w", encoding="utf-8") as file:
            file.write("new\n")
        os.rename(path + ".next", path)
        self.wait_for(lambda: send(gateway.port, "GET", "/v1/models", key="new")[0] == 200)
        self.assertEqual(send(gateway.port, "GET", "/v1/models", key="old")[0], 401)
        gateway.process.send_signal(signal.SIGTERM)
        out, err = gateway.process.communicate(timeout=60)
        self.assertEqual((gateway.process.returncode, out, err), (0, "", "the API key has changed\n"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
