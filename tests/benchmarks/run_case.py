"""One run of one case in a process of its own, so that it inherits nobody's imports.

    python -m tests.benchmarks.run_case CASE ENGINE ROUNDS

prints one JSON line: the seconds of each round, the losses, start-up and peak memory.
"""

import json
import sys
from dataclasses import asdict

from fedward.common.quiet import quiet_third_parties
from tests.benchmarks.cases import CASES, federated, plain


def main(case_name: str, engine: str, rounds: str) -> None:
    """Run one case and print what was measured."""
    quiet_third_parties()
    case = CASES[case_name]
    if engine != "ray":
        import torch

        torch.set_num_threads(1)
    found = plain(case, int(rounds)) if engine == "plain" else federated(case, engine, int(rounds))
    print(json.dumps({"case": asdict(case), "engine": engine, **found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
