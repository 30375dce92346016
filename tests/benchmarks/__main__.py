"""`make bench`: each case against the plain loop, paired and interleaved, in one run.

    python -m tests.benchmarks [--repetitions 3] [--rounds 9] [--case NAME ...]

Round 1 is left out: the first optimiser of the plain loop imports 1.4 s worth of code. The losses
of every engine must equal the plain loop's, or the benchmark fails.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

import numpy as np

Result = dict[str, Any]

#: case, engines beside the plain loop, the goal for each, rounds
PROGRAMME: list[tuple[str, dict[str, float], int]] = [
    ("cnn", {"inprocess": 1.10, "ray": 0.65}, 9),
    ("mlp", {"inprocess": 0.10, "ray": 0.40}, 20),
    ("mlp-unequal-adam", {"inprocess": 0.09}, 20),
    ("ft", {"inprocess": 0.40}, 9),
]
NO_OP_GOAL_S = 0.1
MEMORY_GOAL_MIB = {"inprocess": 500, "ray": 1300}
READY_GOAL_S = 10.0
TOLERANCE = 1e-4


def main() -> int:
    """Print the table; return 1 if an engine computed something else than the plain loop."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--case", action="append", help="only these")
    args = parser.parse_args()
    failed = False
    print(
        f"{'case':18} {'engine':10} {'round s':>9} {'plain s':>9} {'ratio':>7} {'goal':>6}  range"
    )
    for case, goals, rounds in PROGRAMME:
        if args.case and case not in args.case:
            continue
        runs = [
            {engine: measure(case, engine, rounds) for engine in ("plain", *goals)}
            for _ in range(args.repetitions)
        ]
        for engine, goal in goals.items():
            failed |= not report(case, engine, goal, runs)
        if case == "cnn":
            report_footprint(runs)
    if not args.case or "no-op" in args.case:
        seconds = [steady(measure("no-op", "inprocess", 9)) for _ in range(args.repetitions)]
        middle = statistics.median(seconds)
        print(
            f"{'no-op, 500 sites':18} {'inprocess':10} {middle:9.4f}  goal {NO_OP_GOAL_S} s a round"
        )
    return int(failed)


def measure(case: str, engine: str, rounds: int) -> Result:
    """Return what one run in a process of its own measured."""
    command = [sys.executable, "-m", "tests.benchmarks.run_case", case, engine, str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def steady(result: Result) -> float:
    """Return the median round, the first left out."""
    seconds: list[float] = result["seconds"]
    return statistics.median(seconds[1:])


def report(case: str, engine: str, goal: float, runs: list[dict[str, Result]]) -> bool:
    """Print one line; return whether the losses equal the plain loop's."""
    ratios = [steady(run[engine]) / steady(run["plain"]) for run in runs]
    gap = max(
        float(np.abs(np.array(run[engine]["losses"]) - np.array(run["plain"]["losses"])).max())
        for run in runs
    )
    ours = statistics.median(steady(run[engine]) for run in runs)
    plain = statistics.median(steady(run["plain"]) for run in runs)
    middle = statistics.median(ratios)
    same = gap <= TOLERANCE
    print(
        f"{case:18} {engine:10} {ours:9.4f} {plain:9.4f} {middle:7.3f} {goal:6.2f}  "
        f"{min(ratios):.3f}-{max(ratios):.3f}  losses differ by {gap:.1e}"
        f"{'' if same else '  NOT THE SAME COMPUTATION'}"
    )
    return same


def report_footprint(runs: list[dict[str, Result]]) -> None:
    """Print memory and start-up of the engines."""
    for engine, goal in MEMORY_GOAL_MIB.items():
        peak = statistics.median(run[engine]["peak_bytes"] for run in runs) / 2**20
        ready = statistics.median(run[engine]["ready_s"] for run in runs)
        print(
            f"{'':18} {engine:10} peak memory {peak:.0f} MiB (goal {goal}); "
            f"process start to ready {ready:.1f} s (goal {READY_GOAL_S:.0f})"
        )


if __name__ == "__main__":
    raise SystemExit(main())
