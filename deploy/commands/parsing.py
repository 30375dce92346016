"""How every sub-command declares itself: a name, one line of help, and an example."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = object

Command = Callable[[argparse.Namespace], int]


def add_command(
    commands: Commands, name: str, run: Command, *, about: str, examples: str
) -> argparse.ArgumentParser:
    """Return the parser of a new command, for its arguments.

    Args:
        commands: where it is added.
        name: what users type.
        run: gets the parsed arguments and returns the exit code.
        about: one line, for the list and the command's own help.
        examples: shown below the options, a command per line.
    """
    parser = _make(commands, name, about, examples)
    parser.set_defaults(command=run)
    return parser


def add_group(commands: Commands, name: str, *, about: str, examples: str) -> Commands:
    """Return the sub-commands of a new group, such as `fedward data list`."""
    parser = _make(commands, name, about, examples)
    return parser.add_subparsers(title="commands", required=True, metavar="COMMAND")


def _make(commands: Commands, name: str, about: str, examples: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
