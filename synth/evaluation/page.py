"""Builds the report on a synthetic cohort: one file that opens offline and runs no script at all.

The template escapes every value; the page's content security policy allows inline styles only.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fedward.common import wording
from fedward.common.errors import StorageError
from fedward.common.page.house import house_css
from fedward.synth.evaluation import thresholds
from fedward.synth.evaluation.attack_reasons import attack_name, group_name
from fedward.synth.evaluation.charts import (
    ARMS,
    TESTS,
    attribute_chart,
    gap_words,
    membership_chart,
    utility_charts,
)
from fedward.synth.evaluation.evaluate import Evaluation
from fedward.synth.evaluation.margins import MIN_CELL
from fedward.synth.evaluation.pictures import (
    FULL_COLOUR,
    heat_map,
    margin_pictures,
    mixing_chart,
    worst_pairs,
)
from fedward.synth.evaluation.reason import Reason, counted, listed, percent, two, with_interval

MAX_REASONS = 5
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
MARKS = {"blocks": "Against", "caution": "Note", "supports": "For", "states": "Claim"}


@dataclass(frozen=True)
class Answer:
    """What stands in the banner."""

    kind: str
    """`no`, `yes` or `useless`: colour and sign."""
    headline: str
    why: str
    """One sentence; empty where the reasons say it all."""
    first: tuple[Reason, ...]
    """The reasons that are seen at once."""
    further: tuple[Reason, ...]


def write_page(evaluation: Evaluation, path: Path) -> Path:
    """Write the report to `path` and return it.

    Raises:
        StorageError: it cannot be written.
    """
    text = render(evaluation)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    return path


def render(evaluation: Evaluation) -> str:
    """Return the whole page."""
    environment = Environment(
        loader=PackageLoader("fedward.synth.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        wording=wording,
        limits=thresholds,
        percent=percent,
        counted=counted,
        two=two,
        with_interval=with_interval,
        gap_words=gap_words,
        attack_name=attack_name,
        group_name=group_name,
        signs=MARKS,
        tests=TESTS,
        arms=ARMS,
        min_cell=MIN_CELL,
        full_colour=FULL_COLOUR,
    )
    own = resources.files("fedward.synth.evaluation").joinpath("page.css")
    privacy, fidelity = evaluation.privacy, evaluation.fidelity
    page = environment.get_template("page.jinja").render(
        e=evaluation,
        css=Markup(house_css() + own.read_text(encoding="utf-8")),  # noqa: S704 - our own files
        policy=POLICY,
        answer=answer(evaluation),
        sizes=size_sentence(evaluation),
        membership=None if privacy is None else membership_chart(privacy),
        attributes=None if privacy is None else attribute_chart(privacy),
        utility=utility_charts(evaluation.utility),
        mixing=None if evaluation.mixing is None else mixing_chart(evaluation.mixing),
        margins=margin_pictures(fidelity.margins),
        associations=heat_map(fidelity.associations),
        pairs=worst_pairs(fidelity.associations),
    )
    return page.lstrip()


def answer(evaluation: Evaluation) -> Answer:
    """Return the headline and the few reasons that decide it."""
    found = evaluation.verdict
    order = (*found.blocking, *(r for r in found.reasons if r.code == "useless"))
    others = [reason for reason in found.reasons if reason not in order]
    # What speaks for it comes before small print; of several sentences on use one is enough.
    others.sort(key=lambda reason: ("supports", "caution", "states").index(reason.weight))
    ranked = [*order, *others]
    kind, headline, why = _headline(evaluation)
    return Answer(kind, headline, why, tuple(ranked[:MAX_REASONS]), tuple(ranked[MAX_REASONS:]))


def _headline(evaluation: Evaluation) -> tuple[str, str, str]:
    found = evaluation.verdict
    if not found.shareable:
        shorts = list(dict.fromkeys(reason.short for reason in found.blocking))
        why = listed(shorts)
        return "no", "No. Do not share this cohort.", f"{why[0].upper()}{why[1:]}."
    if found.useful is False:
        why = "Attacks stay within the limits, but models learn nothing from it."
        return "useless", "It may be shared, but it is of no use.", why
    unsure = " Whether it is of use was not tested." if found.useful is None else ""
    return (
        "yes",
        "Yes. On this evidence it may be shared.",
        f"All attacks that were tried stay within the limits, and every row is possible.{unsure}",
    )


def size_sentence(evaluation: Evaluation) -> str:
    """Return how many rows there are of how many patients, and who was kept aside."""
    sizes = evaluation.sizes
    made = (
        f"{counted(sizes.rows, 'synthetic row')} with {counted(sizes.columns, 'column')}, made "
        f"from {counted(sizes.train, 'patient')}"
    )
    aside = [
        words
        for number, words in (
            (sizes.holdout, f"{counted(sizes.holdout, 'other patient')} of this hospital"),
            (sizes.external, f"{counted(sizes.external, 'patient')} of another hospital"),
        )
        if number
    ]
    return f"{made}. {f'Tested with {listed(aside)}.' if aside else 'No patients to test with.'}"
