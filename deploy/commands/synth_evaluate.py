"""x."""

from fedward.deploy.commands.parsing import Commands


def add(verbs: Commands) -> None:
    """x."""
