"""Times of the operator beside bare pods: tables in Markdown on stdout, every number as JSON in a file.

    python3 tests/bench/cluster [--rounds 3] [--scale-rounds 3] [--replicas 16] [--width 64] [--json FILE]

Run by tools/bench-cluster, in the node's network and among its processes. No time is asserted: a machine that is busy
with other things makes every number worse, and the ratios less so.
"""

import argparse
import datetime
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.environ["MOE_ROOT"], "tests", "cluster"))
from measure import say  # noqa: E402
from real_node import NUM_IDLE_RECONCILES, RealNode  # noqa: E402
from scale import Scale  # noqa: E402

CREATED_AIM, READY_AIM = 2.0, 1.3


def median(rounds, side, key):
    return statistics.median(r[side][key] for r in rounds)


def row(name, ours, bare, aim=None, digits=1):
    def number(value):
        return "" if value is None else f"{value:.{digits}f}"
    ratio = f"{ours / bare:.2f}" if bare else ""
    return f"| {name} | {number(ours)} | {number(bare)} | {ratio} | {aim or ''} |"


def real_node_table(rounds):
    def ours(key):
        return median(rounds, "operator", key)

    def bare(key):
        return median(rounds, "bare", key)
    return [
        f"64 workers on the real node, medians of {len(rounds)} rounds in turns, seconds:", "",
        "| | operator | bare pods | ratio | aim |", "|---|---|---|---|---|",
        row("apply to 64 pods created", ours("created"), bare("created")),
        row("apply to 64 pods ready", ours("pods_ready"), bare("pods_ready")),
        row("apply to Ready: it answers", ours("ready"), bare("pods_ready")),
        row("worker killed to next token", ours("kill_to_token"), bare("kill_to_pod_ready")),
        row("worker killed to Active in the status", ours("kill_to_active"), bare("kill_to_pod_ready")),
        row(f"reconcile with nothing to do (mean of {NUM_IDLE_RECONCILES})", ours("idle_reconcile"), None, digits=4)]


def scale_table(rounds, replicas, width):
    def ours(key):
        return median(rounds, "operator", key)

    def bare(key):
        return median(rounds, "bare", key)
    requests = rounds[-1]["operator"]["controller_requests"]
    programs = [name for name, seconds in rounds[-1]["operator"]["cpu_seconds"].items() if seconds >= 0.5]
    return [
        f"{replicas * width} workers ({replicas} groups of {width}) on KWOK's nodes beside a ReplicaSet of as many pods, "
        f"medians of {len(rounds)} rounds in turns, seconds:", "",
        "| | operator | ReplicaSet | ratio | aim |", "|---|---|---|---|---|",
        row("apply to all created", ours("created"), bare("created"), CREATED_AIM),
        row("apply to all PodReady", ours("ready"), bare("ready"), READY_AIM),
        row("writes of pods at the API server, for each pod", ours("pod_writes"), bare("pod_writes"), digits=2),
        *(row(f"CPU of {name}", *(statistics.median(r[side]["cpu_seconds"].get(name, 0) for r in rounds)
                                  for side in ("operator", "bare"))) for name in programs),
        "",
        f"Controller: {max(r['operator']['controller_max_rss_mib'] for r in rounds):.0f} MiB at most, "
        f"{ours('controller_cpu_seconds'):.1f} s of CPU, {ours('reconciles'):.0f} reconciles; requests for each pod: "
        + ", ".join(f"{verb} {number:.2f}" for verb, number in sorted(requests.items()) if number >= 0.005) + "."]


def main():
    parser = argparse.ArgumentParser(prog="bench-cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of 64 workers on the real node; 0: none [3]")
    parser.add_argument("--scale-rounds", type=int, default=3, help="on KWOK's nodes; 0: none [3]")
    parser.add_argument("--replicas", type=int, default=16, help="groups on KWOK's nodes [16]")
    parser.add_argument("--width", type=int, default=64, help="workers of a group on KWOK's nodes [64]")
    parser.add_argument("--json", default="bench-cluster.json")
    args = parser.parse_args()
    if args.rounds < 0 or args.scale_rounds < 0 or args.replicas < 1 or args.width < 1:
        parser.error("rounds, replicas and width can't be negative, and the last two not 0")

    results = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
               "cpus": os.cpu_count(), "load_before": os.getloadavg(), "real_node": [], "scale": []}
    tables = []
    try:
        if args.rounds:
            bench = RealNode()
            for i in range(args.rounds):
                results["real_node"].append(bench.round(i))
            tables.append(real_node_table(results["real_node"]))
        if args.scale_rounds:
            bench = Scale(os.environ["MOE_VERSION"], args.replicas, args.width)
            for i in range(args.scale_rounds):
                results["scale"].append(bench.round(i))
            bench.close()
            tables.append(scale_table(results["scale"], args.replicas, args.width))
    finally:
        results["load_after"] = os.getloadavg()
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
        say(f"every number is in {args.json}")
    for table in tables:
        print("\n" + "\n".join(table))
    print(f"\n{os.cpu_count()} cores; load {results['load_before'][0]:.1f} before, {results['load_after'][0]:.1f} after.")


if __name__ == "__main__":
    main()
