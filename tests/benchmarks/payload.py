"""What travels: bytes and time of a round for the whole model, its head, and low-rank adapters.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.payload [--preset small] [--rounds 2] [--rank 4]

ResNet50 with the head of the CME paper, three hospitals of brain MRI (`cme_brain`), one local epoch
a round. Bytes are those of one site and round, there and back, without the envelope; CPU seconds
are of all sites in one process, training only. The first round is left out: it warms up.
"""

import argparse
import tempfile
import time
from pathlib import Path

from fedward.common.config.loader import load_run_config
from fedward.common.quiet import quiet_third_parties
from fedward.server.rounds import RoundReport
from fedward.simulations.cli import find_config
from fedward.simulations.console import NullDisplay
from fedward.simulations.simulate import simulate

COMMON = (
    "engine.name=inprocess",
    "monitor={}",
    "local.epochs=1",
    "evaluate_every=1000",
    "local.channels_last=false",
)


class _Clock(NullDisplay):
    """Takes the CPU time at the end of each round."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def round_done(self, report: RoundReport) -> None:
        """Note when a round was over."""
        super().round_done(report)
        self.times.append(time.process_time())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small", choices=["small", "published"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--only", default="", help="arms whose name contains this")
    args = parser.parse_args()
    quiet_third_parties()
    lora = f"rank: {args.rank}"
    arms = {
        "whole model": (),
        "head (`shared: [head.*]`)": ("shared=[head.*]",),
        "adapters, `ab`": (f"model.lora={{{lora}, aggregation: ab}}",),
        "adapters, `ffa`": (f"model.lora={{{lora}, aggregation: ffa}}",),
        "adapters, `svd`": (f"model.lora={{{lora}, aggregation: svd}}",),
    }
    network = f"model={{name: cme-resnet, preset: {args.preset}}}"
    print("| what is shared | values | kB there and back | of the whole | CPU s per round |")
    print("|---|---|---|---|---|")
    whole = 0.0
    for name, changes in arms.items():
        if args.only not in name:
            continue
        values, size, seconds = _measured((network, f"rounds={args.rounds}", *changes))
        whole = whole or size
        print(
            f"| {name} | {values:,} | {size / 1e3:,.1f} | {100 * size / whole:.1f} % | "
            f"{seconds:.1f} |",
            flush=True,
        )


def _measured(changes: tuple[str, ...]) -> tuple[int, float, float]:
    """Return how many values travel, their bytes per site and round, and CPU seconds per round."""
    path = find_config("cme_brain")
    config = load_run_config(path, [*COMMON, *changes]).config
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = simulate(config, base_dir=path.parent, out=Path(folder), display=clock)
        moved = run.summary["bytes"]
        sites = len(run.summary["sites"])
    # The last round is evaluated as well: its model goes out once more.
    exchanged = config.rounds * sites
    size = moved["received"] / exchanged + moved["sent"] / (exchanged + sites)
    seconds = (clock.times[-2] - clock.times[0]) / (len(clock.times) - 2)
    return int(size / 8), size, seconds


if __name__ == "__main__":
    main()
