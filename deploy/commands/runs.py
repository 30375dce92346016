"""`fedward simulate` and `fedward report`: runs on this machine, and their pages."""

import argparse
from pathlib import Path

from fedward.deploy.commands.parsing import Commands, add_command
from fedward.simulations import cli as simulate_cli


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    simulate = add_command(
        commands,
        "simulate",
        simulate_cli.run,
        about="many sites on one machine or a Ray cluster",
        examples=simulate_cli.EXAMPLES,
    )
    simulate.description = simulate_cli.__doc__
    simulate_cli.add_arguments(simulate)
    report = add_command(
        commands,
        "report",
        _report,
        about="rebuild report.html, plots and model card of a run",
        examples="  fedward report latest",
    )
    report.add_argument("run", metavar="RUN", help="a run's folder, its name, or `latest`")
    report.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR")


def _report(args: argparse.Namespace) -> int:
    from fedward.server.report import build_report, write_model_card, write_plots
    from fedward.simulations.simulate import find_run

    folder = find_run(args.run, args.out)
    page = build_report(folder)
    write_plots(folder)
    write_model_card(folder)
    print(page)
    return 0
