"""`fedward simulate`, and `python simulations/run.py`: many sites on one machine or cluster."""

import argparse
import json
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from fedward.common.errors import ConfigError, FedwardError
from fedward.common.quiet import quiet_third_parties
from fedward.common.registry import did_you_mean

if TYPE_CHECKING:
    from fedward.common.config.loader import LoadedConfig

QUICKSTART = "quickstart"
INTERRUPTED = 130
A_BUG = 70
EXAMPLES = """\
  fedward simulate                                    the quickstart: 5 hospitals, real data
  fedward simulate heart_disease --set rounds=10      a shipped configuration, one key changed
  fedward simulate my/run.yaml --engine inprocess     your own, without Ray
  fedward simulate --resume latest                    go on where a run was interrupted
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fedward simulate` to `parser`."""
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help=f"a run.yaml, or a shipped one: {', '.join(shipped_configs())} (default: quickstart)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key, such as local.learning_rate=0.05; may be given several times",
    )
    parser.add_argument("--engine", choices=["ray", "inprocess"], help="same as --set engine.name=")
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), metavar="DIR", help="where the run folder is made"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="go on with a run: its folder, its name, or `latest`"
    )
    parser.add_argument(
        "--no-report",
        action="store_false",
        dest="report",
        help="write no report, plots and model card; `fedward report RUN` does it later",
    )
    parser.add_argument(
        "--json", action="store_true", help="print summary.json and nothing else on standard output"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `fedward simulate` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="fedward simulate",
        description=__doc__,
        epilog=f"examples:\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return guarded(lambda: run(parser.parse_args(argv)))


def guarded(command: Callable[[], int]) -> int:
    """Run a command; show the project's own errors without a traceback, and return the code."""
    quiet_third_parties()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return command()
    except FedwardError as error:
        print(f"fedward: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nfedward: interrupted; go on with --resume latest", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except Exception:  # noqa: BLE001 - the last resort: say whose fault it is
        traceback.print_exc()
        print("fedward: this is a bug; the text above says where", file=sys.stderr)
        return A_BUG


def run(args: argparse.Namespace) -> int:
    """Run the simulation that the parsed arguments describe."""
    from fedward.common.config.loader import load_run_config
    from fedward.simulations.console import make_display
    from fedward.simulations.simulate import BASE_DIR_FILE, find_run, simulate

    overrides = list(args.overrides)
    if args.engine:
        overrides.append(f"engine.name={args.engine}")
    resume = find_run(args.resume, args.out) if args.resume else None
    if resume is not None and args.config is None:
        path = resume / "config.yaml"
        base_dir = Path((resume / BASE_DIR_FILE).read_text(encoding="utf-8"))
    else:
        path = find_config(args.config or QUICKSTART)
        base_dir = path.parent
    loaded = load_run_config(path, overrides)
    try:
        finished = simulate(
            loaded.config,
            base_dir=base_dir,
            out=args.out,
            resume=resume,
            display=make_display(as_json=args.json),
            report=args.report,
        )
    except ConfigError as error:
        raise ConfigError(_located(loaded, str(error))) from error
    if args.json:
        print(json.dumps(finished.summary, indent=1))
    return 0


def shipped_configs() -> dict[str, Path]:
    """Return the configurations that come with fedward, by name."""
    folder = Path(str(resources.files("fedward.simulations.configs")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(name: str, also: Mapping[str, Path] | None = None) -> Path:
    """Return the path of a configuration given as a path or as a shipped name.

    Args:
        name: as it was typed.
        also: shipped files of the command's own, before those that every command knows.

    Raises:
        ConfigError: neither exists.
    """
    if Path(name).is_file():
        return Path(name).resolve()
    shipped = {**(also or {}), **shipped_configs()}
    known = name.removesuffix(".yaml").replace("-", "_")
    if known in shipped:
        return shipped[known]
    raise ConfigError(
        f"no file {name!r}, and no shipped configuration of that name"
        f"{did_you_mean(known, shipped)}; shipped: {', '.join(shipped)}"
    )


def _located(loaded: "LoadedConfig", text: str) -> str:
    """Prefix a message about a key with the place where the key was written."""
    from fedward.common.config.loader import key_location

    key = re.match(r"[a-z_]+(\.\w+)*(?=:)", text)
    if key is None or key.group().split(".")[0] not in type(loaded.config).model_fields:
        return text
    return f"{key_location(loaded, key.group())}: {text}"


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
