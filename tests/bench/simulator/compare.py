"""The simulator beside the real engine: `moe serve` with 64 local workers, and `moe simulate` of the
same arrivals, with the step times of this machine.

    MOE_BIN=build/bin MOE_ROOT=. python3 tests/bench/simulator/compare.py [--seconds 60] [--load 0.5]
        [--machine machine.json]

Step times are measured at the served engine before and after requests arrive at random for some time,
at a share of what the engine could do; the simulator is given the mean of both. Where the machine's
speed has changed by more than 15% in between, the round does not count and is done again. The table
has the throughput and the median latencies of both. Exit code 1 if one differs by more than 20%. The
machine must have nothing else to do.

With --machine, a file of `moe calibrate --model models/demo`, the simulator gets the planner's times of
that machine in place of the measured ones.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "system"))
import served  # noqa: E402

WORKERS = 64
ROWS = (1, 2, 4, 8, 16, 32)
PROMPTS = (1, 8, 32, 64, 128, 256, 448)
INPUT = (16, 128)  # tokens of a request's prompt, evenly
OUTPUT = 32
ALLOWED = 0.2
ROUNDS = 4  # at most, until one counts
MAX_DRIFT = 0.15


class Answer:
    """One streamed completion, with the time of each token."""

    def __init__(self, port, num_input, num_output):
        self.times = []
        self.sent = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = {"prompt": [random.randrange(10, 300) for _ in range(num_input)], "stream": True,
                "max_tokens": num_output, "ignore_eos": True, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.read()[:500]}")
        for line in reply:
            if line.startswith(b"data: {"):
                self.times.append(time.monotonic())
        connection.close()

    def first(self):
        return self.times[0] - self.sent

    def each(self):
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)

    def whole(self):
        return self.times[-1] - self.sent


def together(port, count, num_input, num_output):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(Answer(port, num_input, num_output)))
               for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answers) != count:
        sys.exit("error: a request failed")
    return answers


def decode_seconds(port, rows):
    """Of a step in which `rows` sequences decode: the middle of their answers."""
    gaps = []
    for answer in together(port, rows, 4, 48):
        middle = answer.times[12:36]
        gaps += [(middle[-1] - middle[0]) / (len(middle) - 1)] if len(middle) > 1 else []
    return statistics.median(gaps)


def measure_steps(port):
    """The two curves, and what HTTP and the gateway add to a first token."""
    Answer(port, 100, 20)
    decode = [[rows, statistics.median(decode_seconds(port, rows) for _ in range(3))] for rows in ROWS]
    first = [[rows, statistics.median(Answer(port, rows, 1).first() for _ in range(9))] for rows in PROMPTS]
    overhead = max(0.0, first[0][1] - decode[0][1])
    prefill = [[rows, max(1e-4, seconds - overhead)] for rows, seconds in first]
    return {"source": "tests/bench/simulator/compare.py", "decode": decode, "prefill": prefill}, overhead


def drift(before, after):
    """By how much step times differ, as a share: the median."""
    return statistics.median(abs(b[1] / a[1] - 1) for kind in ("decode", "prefill")
                             for a, b in zip(before[kind], after[kind]))


def mean(before, after):
    return {"source": before["source"],
            **{kind: [[a[0], (a[1] + b[1]) / 2] for a, b in zip(before[kind], after[kind])]
               for kind in ("decode", "prefill")}}


def show(steps, overhead):
    print("step times, ms by rows")
    for kind in ("decode", "prefill"):
        print(f"  {kind:8}" + "  ".join(f"{rows}: {1e3 * s:.1f}" for rows, s in steps[kind]))
    print(f"  HTTP and gateway: {1e3 * overhead:.1f} (added to the simulator's first tokens)")


def measure_round(server, args):
    """Step times, what HTTP adds, the arrivals and what came of them; by how much the machine changed."""
    before, overhead_before = measure_steps(server.port)
    # Sequences that decode 16 at a time, each after its prompt's own step.
    at_16 = dict(map(tuple, before["decode"]))[16]
    of_prompt = dict(map(tuple, before["prefill"]))[64]
    rate = args.load / (OUTPUT * at_16 / 16 + of_prompt)
    trace = draw_trace(args.seconds, rate)
    real = serve_trace(server.port, trace)
    after, overhead_after = measure_steps(server.port)
    steps, overhead = mean(before, after), (overhead_before + overhead_after) / 2
    show(steps, overhead)
    changed = drift(before, after)
    print(f"{len(trace)} requests in {args.seconds:.0f} s, {rate:.2f}/s; "
          f"steps took {changed:.0%} longer or shorter after them than before")
    return steps, overhead, trace, real, changed


def draw_trace(seconds, rate):
    trace, now = [], random.expovariate(rate)
    while now < seconds:
        trace.append((now, random.randint(*INPUT), OUTPUT))
        now += random.expovariate(rate)
    return trace


def serve_trace(port, trace):
    answers = []
    start = time.monotonic()

    def ask(at, num_input, num_output):
        time.sleep(max(0.0, start + at - time.monotonic()))
        answers.append(Answer(port, num_input, num_output))

    threads = [threading.Thread(target=ask, args=request) for request in trace]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(answers) != len(trace):
        sys.exit(f"error: {len(trace) - len(answers)} of {len(trace)} requests failed")
    end = max(answer.times[-1] for answer in answers) - start
    return {
        "output tokens/s": sum(len(answer.times) for answer in answers) / end,
        "first token ms": 1e3 * statistics.median(answer.first() for answer in answers),
        "each token ms": 1e3 * statistics.median(answer.each() for answer in answers),
        "end to end ms": 1e3 * statistics.median(answer.whole() for answer in answers),
    }


def simulate(trace, steps, machine, kv_tokens, overhead):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "trace.csv").write_text("".join("%.6f,%d,%d\n" % request for request in trace))
        (folder / "steps.json").write_text(json.dumps(steps))
        times = ["--machine", machine] if machine else ["--steps", folder / "steps.json"]
        command = [os.path.join(served.BIN, "moe"), "simulate", "--model", served.DEMO,
                   "--layout", f"EP{WORKERS}_TP1_PP1_DP1+A1", "--trace", folder / "trace.csv",
                   *times, "--max-sequences", "64", "--max-step-tokens", "512",
                   "--kv-tokens", str(kv_tokens), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"error: moe simulate ended with {done.returncode}:\n{done.stderr}")
        out = json.loads(done.stdout)
    seconds = out["seconds"]
    return {
        "output tokens/s": out["tokens"]["output"] / seconds["last_end"],
        "first token ms": 1e3 * (seconds["first_token"]["p50"] + overhead),
        "each token ms": 1e3 * seconds["per_output_token"]["p50"],
        "end to end ms": 1e3 * (seconds["end_to_end"]["p50"] + overhead),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--load", type=float, default=0.5, help="share of what the engine could do")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--machine", help="a file of `moe calibrate`, in place of measured step times")
    args = parser.parse_args()
    random.seed(args.seed)
    with served.Served("--expert-parallel", str(WORKERS)) as server:
        server.wait_ready()
        kv_tokens = server.status()["kv_capacity_tokens"]
        for _ in range(ROUNDS):
            steps, overhead, trace, real, changed = measure_round(server, args)
            if changed <= MAX_DRIFT:
                break
        else:
            sys.exit(f"error: in {ROUNDS} rounds the machine's speed never stayed within {MAX_DRIFT:.0%}")
    simulated = simulate(trace, steps, args.machine, kv_tokens, overhead)
    worst = 0.0
    print(f"\n{'':18}{'engine':>10}{'simulator':>12}{'off by':>9}")
    for name, value in real.items():
        off = simulated[name] / value - 1
        worst = max(worst, abs(off))
        print(f"{name:18}{value:10.1f}{simulated[name]:12.1f}{off:9.1%}")
    print(f"\n{'within' if worst <= ALLOWED else 'NOT within'} {ALLOWED:.0%}")
    sys.exit(0 if worst <= ALLOWED else 1)


if __name__ == "__main__":
    main()
