"""A data protection impact assessment, filled in as far as a run's folder can answer.

Sections after Article 35(7) of Regulation (EU) 2016/679 (GDPR). What only people can answer is
marked; nothing is claimed that the folder does not show.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedward.common import wording
from fedward.common.config.loader import load_run_config
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.server.report.card import text
from fedward.server.report.caveats import privacy
from fedward.server.report.record import RunRecord, read_run

OPEN = "**To be answered:**"
"""Stands before everything that a person has to write."""
BASE_DIR_FILE = "base_dir.txt"
"""Names the folder that the configuration's paths start from."""
DEPLOYED = "deployed"
"""The engine of runs in which real sites took part."""


@dataclass(frozen=True)
class _Facts:
    """What the folder says."""

    run: RunRecord
    config: RunConfig
    schema: TableSchema | None

    @property
    def simulated(self) -> bool:
        """Whether no hospital took part."""
        return self.run.facts.get("engine") != DEPLOYED


def dpia(run_folder: Path) -> str:
    """Return the assessment of a run as Markdown.

    Args:
        run_folder: holds at least `config.yaml` and `summary.json`.

    Raises:
        FedwardError: one of them is missing or cannot be read.
    """
    facts = _read(run_folder)
    sections = [
        _head(facts),
        _description(facts),
        _categories(facts),
        _subjects(facts),
        _flows(facts),
        _necessity(facts),
        _risks(facts),
        _measures(facts),
        _events(facts),
        _decision(),
    ]
    return "\n\n".join(sections) + "\n"


def _read(folder: Path) -> _Facts:
    run = read_run(folder)
    config = load_run_config(folder / "config.yaml").config
    return _Facts(run, config, _schema(config.data.schema_name, folder))


def _schema(name: str, folder: Path) -> TableSchema | None:
    base = folder / BASE_DIR_FILE
    beside_the_run = (folder / name).is_file() or not base.exists()
    base_dir = folder if beside_the_run else Path(base.read_text(encoding="utf-8"))
    try:
        return load_schema(name, base_dir)
    except ConfigError:  # a simulation's folder was moved; the page then says what is unknown
        return None


def _head(facts: _Facts) -> str:
    lines = [
        f"# Data protection impact assessment: {text(facts.run.name)}",
        "A **draft**. What a run's folder can answer is filled in; the lines that begin with "
        f"{OPEN.replace(':', '')} need a person. It becomes an assessment when the controller has "
        "completed it, with the advice of the data protection officer (Article 35(2)), before the "
        "processing begins. Article numbers are those of Regulation (EU) 2016/679.",
    ]
    if facts.simulated:
        lines.append(
            "**This run was a simulation on one machine or cluster: no hospital sent anything. "
            "Use the draft to prepare a deployed run, and make it again from that run.**"
        )
    return "\n\n".join(lines)


def _description(facts: _Facts) -> str:
    known, config = facts.run.facts, facts.config
    rows: list[tuple[str, Any]] = [
        ("Run", facts.run.name),
        ("Asked for by", known.get("operator")),
        ("Request (SHA-256)", known.get("request")),
        ("Task", config.task),
        ("Model", config.model.name),
        ("Way of averaging", config.strategy.name),
        ("Rounds", f"{known.get('rounds_run', 'unknown')} run, {config.rounds} asked for"),
        ("Finished", wording.moment(known["created"]) if known.get("created") else None),
        ("Software", ", ".join(f"{k} {v}" for k, v in known.get("versions", {}).items())),
    ]
    return "\n\n".join(
        [
            "## 1 Description of the processing (Article 35(7)(a))",
            _bullets(f"{name}: {text(str(value))}" for name, value in rows if value),
            _story(config),
            f"{OPEN} purpose of the study; controller, or joint controllers and their arrangement "
            "(Article 26); role of the coordinator, and contract if it is a processor (Article "
            "28); places of processing, and transfers out of the European Economic Area if any.",
        ]
    )


def _story(config: RunConfig) -> str:
    trains = (
        "In each round, every hospital trains the same model on its own patients, inside its own "
        "network, and sends the changed parameters to the coordinator, which averages them and "
        "sends the average back. Patients' rows are not sent."
    )
    if config.synthesis is None:
        return trains
    makes = (
        "Every hospital gives what synthetic patients are made of, described below; the rows of "
        "its own patients are not sent."
    )
    return f"{trains} {makes}" if config.synthesis.trains else makes


def _categories(facts: _Facts) -> str:
    title = "### Categories of data"
    if facts.schema is None:
        name = text(facts.config.data.schema_name)
        return (
            f"{title}\n\n{OPEN} the columns. The schema {name} is not with this run's folder any "
            "more."
        )
    schema = facts.schema
    used = {field.name for field in schema.select(facts.config.data.features)}
    rows = [
        [text(f.name), text(f.unit or f.kind), "used" if f.name in used else "in the file, unused"]
        for f in schema.fields
    ]
    if schema.label_column:
        rows.append([text(schema.label_column), "outcome", "predicted"])
    rows += [[text(name), "sign in the image", "predicted beside it"] for name in schema.signs]
    if schema.patient_id:
        rows.append([text(schema.patient_id), "patient's id", "read; never sent"])
    rows += [[text(name), "–", "in the file, unused"] for name in schema.exclude]
    return "\n\n".join(
        [
            title,
            f"Data concerning health (Article 9(1)), by the schema {text(schema.name)}:",
            _table(["Column", "Unit or kind", "In this run"], rows),
            "Hashed patient ids, which a hospital keeps in order to answer requests, are "
            "pseudonymised data and stay personal data (Article 4(5), recital 26).",
        ]
    )


def _subjects(facts: _Facts) -> str:
    title = "### Data subjects"
    sites = facts.run.federated.sites
    rows = [[text(name), _count(s.num_train), _count(s.num_test)] for name, s in sites.items()]
    if not rows:
        return f"{title}\n\n{OPEN} patients of each hospital; the run's folder has no counts."
    return "\n\n".join(
        [
            title,
            _table(["Hospital", "Training patients", "Test patients"], rows),
            f"{OPEN} period and inclusion; children or others who need particular protection; how "
            "patients were informed (Articles 13, 14), and how they object (Article 21) or "
            "withdraw consent.",
        ]
    )


def _flows(facts: _Facts) -> str:
    moved = facts.run.facts.get("bytes", {})
    amount = (
        f"Parameters and sums in the hospitals' answers: {moved['received']:,} bytes in all. "
        "Figures come on top."
        if isinstance(moved.get("received"), int)
        else f"{OPEN} how much was sent; the run's folder does not say."
    )
    trains = facts.config.synthesis is None or facts.config.synthesis.trains
    updates = [
        "Model parameters after training (an *update*), in every round, to the coordinator. "
        "Updates are treated as personal data: they can reveal something about the patients "
        "behind them.",
        "Sums of each column over the training patients, once, for a common scale."
        if facts.config.data.statistics == "federated"
        else "No sums of columns: each hospital scales by its own.",
    ]
    return "\n\n".join(
        [
            "### What leaves a hospital, to whom, for how long",
            _bullets(
                [
                    *(updates if trains else []),
                    *_given_for_synthesis(facts.config),
                    "Numbers of patients, loss, and test figures with their intervals, unless the "
                    "hospital's site.yaml keeps figures back; figures of fewer patients than its "
                    "min_cohort do not leave.",
                    "Names of records, sizes and hashes of what was sent, error codes, "
                    "heartbeats, and the hospital's network address.",
                ]
            ),
            amount,
            f"{OPEN} who at the coordinator can read updates; when the coordinator deletes "
            "checkpoints and the run's folder; each hospital's retention_days.",
        ]
    )


def _given_for_synthesis(config: RunConfig) -> Iterator[str]:
    """Yield what leaves so that synthetic patients can be made."""
    asked = config.synthesis
    if asked is None:
        return
    if asked.asks_for_rows:
        yield (
            f"{asked.rows_per_site:,} synthetic rows, made at the hospital from its training "
            "patients, once. They are treated as personal data: they tell something about the "
            "patients behind them, the more the more rows leave. Each hospital counts them for "
            "good and stops at its limits.synthetic_rows; classes of fewer than "
            f"{asked.min_class_size} patients are left out."
        )
    elif asked.is_private:
        yield (
            "Sums over the training patients for a common copula, with noise that each hospital "
            f"adds: epsilon {asked.epsilon:g}, delta {asked.delta:g} for each of its patients, "
            "whatever is made of them afterwards."
        )
    else:
        yield (
            "Numbers of training patients in public intervals of each column, by outcome, and how "
            "columns go together. Intervals of fewer patients than the hospital's min_cohort are "
            "joined; extremes show between which limits they lie."
        )


def _necessity(facts: _Facts) -> str:
    chosen = facts.config.data.features
    columns = "all features of the schema" if chosen is None else f"{len(chosen)} chosen features"
    return "\n\n".join(
        [
            "## 2 Necessity and proportionality (Article 35(7)(b))",
            _bullets(
                [
                    f"Minimisation (Article 5(1)(c)): the run used {columns}; rows were not "
                    "brought together in one place.",
                    f"{OPEN} why these columns and this many patients are needed; whether "
                    "synthetic or anonymous data would do.",
                    f"{OPEN} legal basis (Article 6) and exception for health data (Article 9(2)); "
                    "national rules for research, and safeguards under Article 89(1).",
                    f"{OPEN} accuracy of the source data, and who answers for it.",
                    f"{OPEN} how access, rectification, erasure and objection are answered. A "
                    "hospital can name the runs that used a patient; a model that was trained "
                    "cannot be made to forget one patient other than by training it again.",
                ]
            ),
        ]
    )


def _risks(facts: _Facts) -> str:
    answer = f"{OPEN} likelihood, severity"
    rows = [
        [
            "Patients' values are reconstructed from an update",
            "The coordinator sees each hospital's update by itself. Small cohorts and batches "
            "make it easier.",
            privacy(facts.run),
        ],
        [
            "The final model tells who was in the training data",
            "Whoever holds the model can try; overfitted models tell more.",
            f"{_averaged(facts)} Averaging alone is no guarantee. A model trained on personal "
            "data is not taken to be anonymous here.",
        ],
        [
            "A figure points to a few patients",
            "Subgroups and calibration bins with few patients.",
            "Each hospital suppresses cells below its min_cohort, and a further one where the "
            "missing cell could be computed from the rest.",
        ],
        [
            "Foreign code reads patients",
            "A coordinator that was broken into sends a program.",
            "Hospitals run no code that arrives; requests are configurations signed by a named "
            "operator, and each hospital's limits win.",
        ],
        [
            "An outsider takes part or listens",
            "Stolen key, false server, wire-tapping.",
            "TLS, keys registered for each hospital, a signed roster confirmed by phone; revoked "
            "keys are refused.",
        ],
        [
            "Patients are harmed by a wrong prediction",
            "The model is used in care without validation.",
            "It is research software, not a medical device; the model card names gaps and groups.",
        ],
    ]
    return "\n\n".join(
        [
            "## 3 Risks to the rights and freedoms of patients (Article 35(7)(c))",
            _table(
                ["Risk", "How", "What this run has against it", "Remaining"],
                [[*map(_cell, row), answer] for row in rows],
            ),
            f"{OPEN} further risks of this study.",
        ]
    )


def _measures(facts: _Facts) -> str:
    checks = [
        "`fedward audit verify` at each hospital: the log of everything that left is unbroken.",
        "`fedward approve list` at each hospital: who approved this run.",
        "site.yaml of each hospital: limits, min_cohort, show_metrics, retention_days.",
    ]
    proven = (
        []
        if facts.simulated
        else [
            "The hospitals verified the operator's signature on the request before they read data."
        ]
    )
    return "\n\n".join(
        [
            "## 4 Measures (Article 35(7)(d))",
            _bullets(
                [
                    *proven,
                    "At a hospital the process that reads patients has no network; the process "
                    "that has the network cannot read patients (as installed by the shipped "
                    "services).",
                    _averaged(facts),
                ]
            ),
            "To be checked by each hospital, as a run's folder cannot show it:",
            _bullets(checks),
            f"{OPEN} organisational measures: who holds keys, training, incident plan, audits.",
        ]
    )


def _averaged(facts: _Facts) -> str:
    fewest = facts.config.sampling.min_replies
    if fewest == 1:
        return "The run allowed an average of one hospital's answer alone."
    return f"No average of fewer than {fewest} hospitals' answers was formed."


def _events(facts: _Facts) -> str:
    run = facts.run
    lines = [f"The run ended by: {text(str(run.facts.get('stopped_by', 'unknown')))}."]
    if run.skipped_rounds:
        lines.append(f"Rounds without enough answers: {len(run.skipped_rounds)}.")
    counted = Counter((refused.site, refused.status) for refused in run.refused)
    lines += [
        f"{text(site)}: {count} answers {text(status)}."
        for (site, status), count in sorted(counted.items())
    ]
    if not counted:
        lines.append("Every answer was used.")
    return f"### Events of this run\n\n{_bullets(lines)}"


def _decision() -> str:
    rows = [
        [role, OPEN, ""]
        for role in (
            "Data protection officer's advice (Article 35(2))",
            "Views of patients or their representatives (Article 35(9))",
            "Prior consultation needed (Article 36)",
            "Controller's decision",
            "Next review (Article 35(11))",
        )
    ]
    return (
        f"## 5 Advice and decision\n\n{_table(['What', 'Answer', 'Name, date, signature'], rows)}"
    )


def _count(number: int | None) -> str:
    return "not told" if number is None else f"{number:,}"


def _cell(sentence: str) -> str:
    return sentence if sentence.startswith(OPEN) else text(sentence)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
