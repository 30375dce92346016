"""`fedward synth`: cohorts of patients that do not exist."""

from fedward.deploy.commands import (
    synth_evaluate,
    synth_federated,
    synth_fit,
    synth_phantom,
    synth_sample,
    synth_study,
)
from fedward.deploy.commands.parsing import Commands, add_group

EXAMPLES = """\
  fedward synth fit patients.csv --label sepsis --out cohort.synth     learn a table
  fedward synth sample cohort.synth -n 1000 --out rows.csv             make rows like it
  fedward synth evaluate rows.csv --model cohort.synth --data patients.csv
  fedward synth federated run.yaml          of many hospitals, from sums or from their rows
  fedward synth study kde_knn               a paper's experiments, with controls
  fedward synth phantom --out phantoms      CT with known truth"""
_COMMANDS = (
    synth_fit,
    synth_sample,
    synth_evaluate,
    synth_federated,
    synth_study,
    synth_phantom,
)


def add(commands: Commands) -> None:
    """Add the commands to the parser."""
    verbs = add_group(
        commands, "synth", about="cohorts of patients that do not exist", examples=EXAMPLES
    )
    for command in _COMMANDS:
        command.add(verbs)
