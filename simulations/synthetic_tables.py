"""What sites gave becomes tables: in a simulation at once, after a deployed run by command.

Rows of sites are written as they came, per site and pooled; a copula's are drawn here, as many as
anybody likes. Files go to `synthetic/` in the run's folder. The tables can be read by the schema
of the run, as patients can.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedward.client.noised_sums import NoisedQueries
from fedward.common.config.loader import load_run_config
from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.errors import ConfigError, StorageError
from fedward.common.randomness import seed_for
from fedward.common.study import Study
from fedward.common.tables.synthetic_rows import RowForm, counts_of
from fedward.common.tables.synthetic_sums import SIZES, QueryForm, SumsForm, form_of
from fedward.common.tables.table import Table
from fedward.common.task import Split
from fedward.common.tasks.ehr_classification import EhrClassification
from fedward.server.given_files import check_is_synthesis
from fedward.server.synthesis import Given
from fedward.simulations.federated_copula import FederatedCopula
from fedward.simulations.simulate import BASE_DIR_FILE
from fedward.synth.tables.base import Synthesiser
from fedward.synth.tables.columns import Columns
from fedward.synth.tables.dp_copula import DPGaussianCopula, class_latents
from fedward.synth.tables.encoder import codes_of, public_encoder
from fedward.synth.tables.table_frame import frame_of

FOLDER, POOLED, COPULA = "synthetic", "pooled", "copula.synth"


@dataclass(frozen=True)
class SyntheticTables:
    """Rows of patients that do not exist, as the task reads them."""

    pooled: Table
    by_site: Mapping[str, Table]
    """Of each site that gave rows; empty for a copula."""
    private: DPGaussianCopula | None = None
    """The copula that they were drawn from, where it promises something."""


def study_of_run(folder: Path) -> Study:
    """Return the study of a run that made synthetic rows, from its folder.

    Raises:
        ConfigError: the folder is none of such a run.
    """
    config = load_run_config(folder / "config.yaml").config
    check_is_synthesis(config.synthesis, folder)
    base = folder / BASE_DIR_FILE
    # A deployed run keeps its schema beside its configuration.
    base_dir = (
        folder
        if not base.exists() or (folder / "schema.yaml").exists()
        else Path(base.read_text(encoding="utf-8"))
    )
    return Study(config, "federated", Split(config.seed, config.data.test_fraction), base_dir)


def tables_of(
    given: Given, study: Study, *, num_rows: int | None = None, seed: int | None = None
) -> SyntheticTables:
    """Return the tables that follow from what sites gave.

    Args:
        given: to a run.
        study: the run's.
        num_rows: of a copula; None: `rows_per_site` for each site that is in it.
        seed: of a copula's rows; None: the run's own.

    Raises:
        ConfigError: the run asked for rows, of which there are as many as sites gave.
        ShortfallError: a copula's rows keep the constraints too rarely.
    """
    config, task = study.config.synthesis, study.task
    assert config is not None
    assert isinstance(task, EhrClassification), "the configuration allows no other"
    features = study.config.data.features
    if config.asks_for_rows:
        if num_rows is not None or seed is not None:
            raise ConfigError("--rows, --seed: only a copula has rows beyond those that sites gave")
        form = RowForm.of(config, task.schema, features)
        by_site = {site: form.table(arrays) for site, arrays in sorted(given.by_site.items())}
        return SyntheticTables(_joined(list(by_site.values())), by_site)
    model, sizes = copula_of(given, study)
    if num_rows is None:
        num_rows = config.rows_per_site * given.num_sites
    frame = model.sample(
        class_counts=_class_counts(config, task.schema.class_names, sizes, num_rows),
        seed=seed_for(study.seed if seed is None else seed, purpose="synthetic-rows"),
    )
    pooled = _table(frame, Columns.of_schema(task.schema, features))
    return SyntheticTables(pooled, {}, model if isinstance(model, DPGaussianCopula) else None)


def copula_of(given: Given, study: Study) -> tuple[Synthesiser, dict[int, float]]:
    """Return the copula that a federation summed up, and the patients of each class it knows.

    Raises:
        ConfigError: no class has enough patients.
    """
    config, task = study.config.synthesis, study.task
    assert config is not None
    assert isinstance(task, EhrClassification), "the configuration allows no other"
    columns = Columns.of_schema(task.schema, study.config.data.features)
    form = form_of(config, task.schema, study.config.data.features)
    if isinstance(form, QueryForm):
        seed = study.seed if study.config.data.is_simulated else None
        model: Synthesiser = private_copula(given, config, form, columns, noise_seed=seed)
        counted = dict(enumerate(map(float, model.class_sizes_)))
    else:
        assert isinstance(form, SumsForm)
        copulas = form.copulas(given.summed, fewest=config.min_class_size)
        counted = {code: float(given.summed[SIZES][code]) for code in copulas}
        model = FederatedCopula(columns, copulas, counted)
    sizes = {code: size for code, size in counted.items() if size >= config.min_class_size}
    if not sizes:
        raise ConfigError(
            f"synthesis.min_class_size: no class has {config.min_class_size} patients at all sites "
            "together" + (", as far as the noise tells" if config.is_private else "")
        )
    return model, sizes


def private_copula(
    given: Given,
    config: SynthesisConfig,
    form: QueryForm,
    columns: Columns,
    *,
    noise_seed: int | None,
) -> DPGaussianCopula:
    """Return the copula of all sites' noised answers; it can be saved, and says what it promises.

    Its claim is that of each site for its own patients.

    Args:
        given: all answers, added up.
        config: of the run.
        form: of the answers.
        columns: of the run's table.
        noise_seed: of a simulation, whose noise promises nothing; None: of hospitals, each of
            which has a key of its own.
    """
    assert config.epsilon is not None
    assert config.delta is not None
    queries = NoisedQueries(form, columns, config.epsilon, config.delta)
    learned = queries.learned(given.summed)
    model = DPGaussianCopula(
        columns, epsilon=config.epsilon, delta=config.delta, noise_seed=noise_seed
    )
    model.columns_ = replace(columns, positive_above=None)
    model.encoder_ = public_encoder(model.columns_, model.form)
    model.class_sizes_ = tuple(int(size) for size in np.rint(learned.size_C))
    model.classes_ = class_latents(learned, queries.summed_answers(given.summed))
    model.answers_ = queries.answers_of_a_site(given.summed)
    return model


def write_tables(tables: SyntheticTables, study: Study, folder: Path, *, ending: str) -> list[Path]:
    """Write the tables to `folder`/synthetic and return the files, the pooled one first.

    A copula that promises something is written beside them: `fedward synth sample` draws from it.

    Args:
        tables: to write.
        study: whose schema the files follow.
        folder: of the run.
        ending: `.csv` or `.parquet`.

    Raises:
        StorageError: one cannot be written.
    """
    place = folder / FOLDER
    named = {POOLED: tables.pooled, **{f"site-{name}": t for name, t in tables.by_site.items()}}
    files = []
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, table in named.items():
            path = place / f"{name}{ending}"
            frame = frame_for_file(table, study)
            if ending == ".parquet":
                frame.to_parquet(path, index=False)
            else:
                frame.to_csv(path, index=False)
            files.append(path)
        if tables.private is not None:
            files.append(place / COPULA)
            tables.private.save(files[-1])
    except OSError as error:
        raise StorageError(f"{place}: cannot be written ({error.strerror})") from error
    return files


def claim_of(tables: SyntheticTables) -> dict[str, Any]:
    """Return what the summary says of what patients are promised; nothing where it is nothing."""
    if tables.private is None:
        return {}
    claim = tables.private.privacy_claim()
    if not claim.is_reproducible:
        claim = replace(claim, noise="SHAKE-256 under a key that never leaves the hospital")
    return {"claim": claim.to_dict()}


def frame_for_file(table: Table, study: Study) -> pd.DataFrame:
    """Return the rows as the run's schema reads them, with a number in place of a patient's id."""
    assert isinstance(study.task, EhrClassification)
    schema = study.task.schema
    frame = frame_of(table, Columns.of_schema(schema, study.config.data.features))
    if schema.patient_id is not None:
        frame.insert(0, schema.patient_id, [f"synthetic-{n}" for n in range(1, len(frame) + 1)])
    return frame


def _class_counts(
    config: SynthesisConfig, names: Sequence[str], sizes: Mapping[int, float], num_rows: int
) -> dict[int, int]:
    """Return the rows of each class that there is, in the shares that the run asks for."""
    weights = dict.fromkeys(sizes, 1.0) if config.class_shares == "balanced" else dict(sizes)
    if config.class_counts is not None:
        asked = counts_of(config, names)
        weights = {code: float(asked[code]) for code in sizes}
    total = sum(weights.values())
    if total == 0:
        raise ConfigError("synthesis.class_counts: of the classes asked for, no site gave any")
    exact = {code: num_rows * weight / total for code, weight in weights.items()}
    counts = {code: math.floor(rows) for code, rows in exact.items()}
    # The largest remainders get the rows that are left.
    left = sorted(exact, key=lambda code: (counts[code] - exact[code], code))
    for code in left[: num_rows - sum(counts.values())]:
        counts[code] += 1
    return counts


def _table(frame: pd.DataFrame, columns: Columns) -> Table:
    found = {}
    for column in columns:
        if column.is_continuous:
            found[column.name] = frame[column.name].to_numpy(dtype=np.float64)
        else:
            code = codes_of(column, frame)
            found[column.name] = np.where(code < 0, np.nan, code.astype(np.float64))
    label = frame[columns.label].to_numpy(dtype=np.int64)
    return Table(found, label, np.arange(len(frame), dtype=np.int64))


def _joined(parts: list[Table]) -> Table:
    names = list(parts[0].columns)
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in names}
    label = np.concatenate([part.label for part in parts])
    return Table(columns, label, np.arange(len(label), dtype=np.int64))
