"""The engine beside llama.cpp and transformers on one checkpoint, and 64 local ranks beside one
process: a table of tokens per second with ratios, and of milliseconds that the exchange adds.

    compare.py --engine-bench PROGRAM --model DIR --gguf FILE --llama-bin DIR [--rounds 3]

Each round runs every program once, one after the other, so that a noisy minute hurts them alike; the
table has the medians over the rounds. All use the same weights, threads and lengths. Exit code 1 if
an aim is missed (--no-aims: never).
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

PROMPT = 512
CONTEXT = 128
STEPS = 16
# One process and 64 ranks take turns; more steps, since their difference is small.
RANK_STEPS = 60
BATCHES = (1, 8, 32, 64)
CASES = (f"prefill_{PROMPT}", *(f"decode_{batch}" for batch in BATCHES))
# Our tokens per second over the better peer's.
AIMS = {"prefill_512": 1.2, "decode_1": 0.95, "decode_32": 1.6, "decode_64": 2.0}
# Milliseconds that 64 ranks may add to the decode step of a 16-layer model on 2 cores.
ADDED_MS = {1: 5.0, 8: 5.0, 64: 12.0}


def run(command: list, **kwargs) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        sys.exit(f"error: {command[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def ours(args, ranks: int) -> dict:
    """ranks above 1: {"one_process": ..., "ranks": ...}, measured in turns."""
    out = run(
        [args.engine_bench, "--model", args.model, "--threads", str(args.threads)]
        + ["--ranks", str(ranks), "--context", str(CONTEXT)]
        + ["--steps", str(STEPS if ranks == 1 else RANK_STEPS)]
        + ["--prompt", str(PROMPT), "--batches", ",".join(map(str, BATCHES))]
    )
    return json.loads(out)


def llama(args) -> dict:
    programs = pathlib.Path(args.llama_bin)
    env = {**os.environ, "LD_LIBRARY_PATH": args.llama_bin}
    lines = run(
        [programs / "llama-bench", "-m", args.gguf, "-p", str(PROMPT), "-n", "0", "-r", "3"]
        + ["-t", str(args.threads), "-o", "jsonl"],
        env=env,
    )
    result = {f"prefill_{PROMPT}": json.loads(lines.splitlines()[0])["avg_ts"]}
    lines = run(
        [programs / "llama-batched-bench", "-m", args.gguf, "-t", str(args.threads)]
        + ["-c", str(max(BATCHES) * (CONTEXT + STEPS)), "-b", "2048", "-ub", "512"]
        + ["-npp", str(CONTEXT), "-ntg", str(STEPS), "-npl", ",".join(map(str, BATCHES))]
        + ["--output-format", "jsonl"],
        env=env,
    )
    for line in lines.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            result[f"decode_{row['pl']}"] = row["speed_tg"]
    return result


def transformers(args) -> dict:
    script = pathlib.Path(__file__).with_name("transformers_bench.py")
    out = run(
        [sys.executable, script, "--model", args.model, "--threads", str(args.threads)]
        + ["--context", str(CONTEXT), "--steps", str(STEPS), "--prompt", str(PROMPT)]
        + ["--batches", ",".join(map(str, BATCHES))]
    )
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine-bench", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gguf")
    parser.add_argument("--llama-bin")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--ranks", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--aims", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()

    programs = {"moe": lambda: ours(args, 1)["one_process"]}
    if args.peers:
        programs["llama.cpp"] = lambda: llama(args)
        programs["transformers"] = lambda: transformers(args)
    rates = {name: {case: [] for case in CASES} for name in programs}
    for number in range(args.rounds):
        for name, program in programs.items():
            begin = time.monotonic()
            result = program()
            print(
                f"round {number + 1}/{args.rounds}: {name}, {time.monotonic() - begin:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            for case in CASES:
                rates[name][case].append(result[case])

    missed = []
    median = {
        name: {case: statistics.median(values) for case, values in cases.items()}
        for name, cases in rates.items()
    }
    if args.peers:
        print(f"\nTokens per second, {args.layers} layers, {args.threads} threads, bf16")
        print(f"(medians of {args.rounds} interleaved rounds, lowest..highest in brackets)\n")
        print(f"{'':14}{'moe':>24}{'llama.cpp':>12}{'transformers':>14}{'ratio':>8}{'aim':>7}")
        for case in CASES:
            better = max(median["llama.cpp"][case], median["transformers"][case])
            ratio = median["moe"][case] / better
            aim = AIMS.get(case)
            spread = f"({min(rates['moe'][case]):.1f}..{max(rates['moe'][case]):.1f})"
            print(
                f"{case:14}{median['moe'][case]:8.1f}{spread:>16}{median['llama.cpp'][case]:12.1f}"
                f"{median['transformers'][case]:14.1f}{ratio:8.2f}{aim or '':>7}"
            )
            if aim and ratio < aim:
                missed.append(f"{case}: {ratio:.2f} of the better peer, aim {aim}")
    if args.ranks:
        print("round of 64 ranks beside one process", file=sys.stderr, flush=True)
        result = ours(args, 64)
        print(f"\nMilliseconds of a decode step, {args.layers} layers, {args.threads} threads")
        print(f"(medians of {RANK_STEPS} steps in turns; the exchange is part of the experts)\n")
        print(f"{'batch':>6}{'':>13}{'attention':>11}{'experts':>9}{'head':>7}{'all':>8}{'added':>8}{'aim':>6}")
        for batch in BATCHES:
            alone = result["one_process"][f"decode_{batch}_ms"]
            many = result["ranks"][f"decode_{batch}_ms"]
            added = many["total"] - alone["total"]
            aim = ADDED_MS.get(batch)
            for name, ms in (("one process", alone), ("64 ranks", many)):
                row = f"{batch if ms is alone else '':>6}{name:>13}{ms['attention']:11.1f}"
                row += f"{ms['experts']:9.1f}{ms['head']:7.1f}{ms['total']:8.1f}"
                print(row + (f"{added:8.1f}{aim or '':>6}" if ms is many else ""))
            if aim and added > aim:
                missed.append(f"64 ranks, batch {batch}: {added:.1f} ms added, aim {aim}")
    for line in missed:
        print(f"missed: {line}")
    if missed and args.aims:
        sys.exit(1)


if __name__ == "__main__":
    main()
