"""How fast synthetic rows are made: KDE-KNN against its floor and scikit-learn, and all methods.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.synth_speed [--repetitions 5] [--rows 1000000]

CPU seconds of one thread, medians over repetitions in which all take turns. The rows are made up:
1,083 of 27 columns, 251 of them in the small class, as in the paper's training set.

*Candidates*: KDE-KNN is measured from the draw to the table that is returned, per candidate, kept
or not; the other lines only search the neighbours of the same candidates. The floor is one float32
product of all candidates and all training rows, which any exact search writes at least once:
`cached` in blocks that stay in a core's cache, `written` in blocks of 16,384 as a plain program
would write them. The goal is twice the floor.

*Many rows*: made in chunks, half of each class; memory of the process after the first chunk and
the most after any.

*Fit and sample*: as many rows as were learned, every method with its defaults.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import psutil
from sklearn.neighbors import KNeighborsClassifier

from fedward.common.errors import ConfigError, ShortfallError
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.kde_knn import KDEKNN
from fedward.synth.tables.methods import method_names, new_synthesiser

NUM_WELL, NUM_ILL, NUM_COLUMNS, K = 832, 251, 27, 5
NUM_CANDIDATES, CACHED, WRITTEN = 40_960, 256, 16_384
GOAL = 2.0
NAMES = [f"x{place}" for place in range(NUM_COLUMNS)]
COLUMNS = Columns(
    tuple(Column(name, "continuous", -1000.0, 1000.0, decimals=2) for name in NAMES),
    "ill",
    (0, 1),
    ("well", "ill"),
)


def table(seed: int = 1) -> pd.DataFrame:
    """Return rows of two overlapping classes; columns hang together as laboratory values do."""
    rng = np.random.default_rng(seed)
    ill = (np.arange(NUM_WELL + NUM_ILL) >= NUM_WELL).astype(int)
    common = rng.normal(size=(len(ill), 6)) @ rng.normal(size=(6, NUM_COLUMNS))
    values = common + rng.normal(size=common.shape) + 0.4 * ill[:, None]
    return pd.DataFrame((100 + 20 * values).round(2), columns=NAMES).assign(ill=ill)


def main() -> int:
    """Print the three tables; return 1 if the goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--methods", nargs="*", default=method_names())
    arguments = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("Set OMP_NUM_THREADS=1: the figures below are of several threads.", file=sys.stderr)
    rows = table()
    met = report_candidates(rows, arguments.repetitions)
    report_many(rows, arguments.rows)
    report_methods(rows, arguments.methods, arguments.repetitions)
    return 0 if met else 1


def report_candidates(rows: pd.DataFrame, repetitions: int) -> bool:
    """Print the first table; return whether the goal was met."""
    paper = KDEKNN(COLUMNS, preset="paper").fit(rows)
    tried = {
        **products(paper),
        "KDE-KNN `paper`, end to end": lambda: end_to_end(paper),
        "KDE-KNN `guarded`, end to end": one_call(KDEKNN(COLUMNS).fit(rows)),
        **searches(paper),
    }
    seconds: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(repetitions + 1):
        for name, run in tried.items():
            seconds[name].append(run())
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    cached, written = (median[name] for name in products(paper))
    print(f"\n| {NUM_WELL + NUM_ILL:,} rows x {NUM_COLUMNS}, k = {K} | CPU s per 100,000 | "
          "candidates/s | x cached floor | x written floor |")  # fmt: skip
    print("|---|---|---|---|---|")
    for name, one in median.items():
        print(f"| {name} | {one:.3f} | {1e5 / one:,.0f} | {one / cached:.1f} | "
              f"{one / written:.1f} |")  # fmt: skip
    ratio = median["KDE-KNN `paper`, end to end"] / cached
    print(f"\nGoal: {GOAL:g} x the cached floor: {'met' if ratio <= GOAL else 'MISSED'}")
    return ratio <= GOAL


def products(model: KDEKNN) -> dict[str, Callable[[], float]]:
    """Return the two floors."""
    candidates, reference = points_of(model)
    turned = np.ascontiguousarray(reference.T)
    block = np.empty((CACHED, len(reference)), dtype=np.float32)

    def cached() -> None:
        for start in range(0, len(candidates), CACHED):
            np.matmul(candidates[start : start + CACHED], turned, out=block)

    def written() -> None:
        for start in range(0, len(candidates), WRITTEN):
            candidates[start : start + WRITTEN] @ turned

    return {
        "floor: float32 product, cached": lambda: per_100_000(cached),
        "floor: float32 product, written": lambda: per_100_000(written),
    }


def searches(model: KDEKNN) -> dict[str, Callable[[], float]]:
    """Return the searches of neighbours alone, ours and scikit-learn's."""
    candidates, reference = points_of(model)
    code = np.repeat([0, 1], [NUM_WELL, NUM_ILL])
    default = KNeighborsClassifier(K).fit(reference.astype(np.float64), code)
    brute = KNeighborsClassifier(K, algorithm="brute").fit(reference.astype(np.float64), code)
    tree = KNeighborsClassifier(K, algorithm="kd_tree").fit(reference.astype(np.float64), code)
    wide = candidates.astype(np.float64)
    few = wide[: len(wide) // 8]  # a tree is slow
    return {
        "neighbours alone: ours (brute, float32)": lambda: per_100_000(
            lambda: model._neighbours.votes(candidates)
        ),
        "neighbours alone: scikit-learn brute, float64": lambda: per_100_000(
            lambda: brute.predict(wide)
        ),
        f"neighbours alone: scikit-learn default (takes {default._fit_method})": lambda: (
            per_100_000(lambda: default.predict(wide))
        ),
        "neighbours alone: scikit-learn kd_tree": lambda: per_100_000(
            lambda: tree.predict(few), len(few)
        ),
    }


def points_of(model: KDEKNN) -> tuple[np.ndarray, np.ndarray]:
    """Return candidates and training rows where their distances are Euclidean."""
    rng = np.random.default_rng(2)
    parts = [model._draw(code, NUM_CANDIDATES // 2, rng).rows for code in (0, 1)]
    candidates = np.concatenate([model._embedding.points(part) for part in parts])
    reference = np.concatenate([model._embedding.points(one.rows) for one in model._kernels])
    return candidates, reference


def one_call(model: KDEKNN) -> Callable[[], float]:
    """Return what measures `model` end to end."""
    return lambda: end_to_end(model)


def end_to_end(model: KDEKNN) -> float:
    """Return the CPU seconds per 100,000 candidates of a request as a user makes it."""
    began = time.process_time()
    sampling = model.sampling(8_000, class_counts="balanced", seed=3)
    pd.concat(list(sampling.chunks()), ignore_index=True)
    seconds = time.process_time() - began
    return seconds * 1e5 / sum(one.candidates for one in sampling.acceptance.values())


def per_100_000(run: Callable[[], object], num_candidates: int = NUM_CANDIDATES) -> float:
    """Return the CPU seconds of `run` per 100,000 candidates."""
    began = time.process_time()
    run()
    return (time.process_time() - began) * 1e5 / num_candidates


def report_many(rows: pd.DataFrame, num_rows: int) -> None:
    """Print the second table."""
    print("\n| preset | rows | candidates | CPU s | MiB after the first chunk | most MiB |")
    print("|---|---|---|---|---|---|")
    for preset in ("paper", "guarded"):
        model = KDEKNN(COLUMNS, preset=preset).fit(rows)
        began = time.process_time()
        sampling = model.sampling(num_rows, class_counts="balanced", seed=4)
        made, held_mib = 0, []
        for chunk in sampling.chunks():
            made += len(chunk)
            held_mib.append(psutil.Process().memory_info().rss / 2**20)
        candidates = sum(one.candidates for one in sampling.acceptance.values())
        print(f"| {preset} | {made:,} | {candidates:,} | {time.process_time() - began:.1f} | "
              f"{held_mib[0]:.0f} | {max(held_mib):.0f} |")  # fmt: skip


def report_methods(rows: pd.DataFrame, methods: list[str], repetitions: int) -> None:
    """Print the third table."""
    print(f"\n| method | fit, CPU s | sample {len(rows):,} rows, CPU s |\n|---|---|---|")
    for name in methods:
        try:
            timed = [fit_and_sample(name, rows) for _ in range(repetitions)]
        except (ConfigError, ShortfallError) as error:
            print(f"| {name} | {error} | |")
            continue
        fit, sample = (statistics.median(one) for one in zip(*timed, strict=True))
        print(f"| {name} | {fit:.3f} | {sample:.3f} |")
    if importlib.util.find_spec("sdv") is None:
        print("\nSDV's synthesisers are not installed (pip install 'fedward[synth]'; BUSL-1.1, not "
              "an open-source licence), so they are not compared.")  # fmt: skip


def fit_and_sample(name: str, rows: pd.DataFrame) -> tuple[float, float]:
    """Return the CPU seconds of both."""
    began = time.process_time()
    model = new_synthesiser(name, columns=COLUMNS).fit(rows)
    fitted = time.process_time()
    model.sample(seed=5)
    return fitted - began, time.process_time() - fitted


if __name__ == "__main__":
    raise SystemExit(main())
