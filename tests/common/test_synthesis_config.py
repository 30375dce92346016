"""The section `synthesis`: what goes together, and what is refused with its place."""

from pathlib import Path

import pytest

from fedward.common.config.loader import config_hash, load_run_config
from fedward.common.config.synthesis import SynthesisConfig
from fedward.common.errors import ConfigError
from fedward.common.tables.synthetic_rows import counts_of

RUN = """\
version: 1
name: rows
seed: 1
task: ehr-classification
data: {root: ., schema: breast-cancer, sites: {a: {file: a.csv}, b: {file: b.csv}}}
model: {name: logistic-regression}
strategy: {name: fedavg}
rounds: 1
local: {epochs: 1, batch_size: 8, learning_rate: 0.1}
"""


def loaded(tmp_path: Path, section: str, *overrides: str) -> SynthesisConfig:
    path = tmp_path / "run.yaml"
    path.write_text(f"{RUN}synthesis:\n{section}", encoding="utf-8")
    config = load_run_config(path, overrides).config.synthesis
    assert config is not None
    return config


def test_a_run_without_the_section_is_what_it_was_before(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8")
    plain = load_run_config(path).config
    assert plain.synthesis is None
    asking = load_run_config(path, ["synthesis.method=rows", "synthesis.rows_per_site=10"]).config
    assert config_hash(plain) != config_hash(asking)


@pytest.mark.parametrize(
    ("section", "line", "told"),
    [
        ("  method: row\n  rows_per_site: 9\n", 11, "synthesis.method: .*did you mean 'rows'"),
        ("  method: rows\n", 10, "synthesis.rows_per_site: missing"),
        ("  method: rows\n  rows_per_site: 9\n  epsilon: 1.0\n", 13, "no differential privacy"),
        ("  method: dp-copula\n  rows_per_site: 9\n", 10, "epsilon: dp-copula needs one"),
        (
            "  method: dp-copula\n  rows_per_site: 9\n  epsilon: 1.0\n",
            10,
            "delta: dp-copula needs one",
        ),
        ("  method: copula\n  rows_per_site: 9\n  synthesiser: {name: kde}\n", 13, "is one itself"),
        ("  method: rows\n  rows_per_site: 9\n  bins: 8\n", 13, "they belong to copula"),
        (
            "  method: rows\n  rows_per_site: 9\n  class_shares: original\n",
            13,
            "how large",
        ),
        ("  method: rows\n  rows_per_site: 9\n  class_counts: {benign: 4}\n", 13, "add up"),
        ("  method: rows\n  rows_per_site: 9\n  min_class_size: 4\n", 13, "at least 5"),
    ],
)
def test_keys_that_do_not_go_together_are_refused_with_their_place(
    tmp_path: Path, section: str, line: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        loaded(tmp_path, section)
    assert f"run.yaml:{line}: synthesis" in str(refused.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("task=ct-fingerprint", "synthesis: rows of tables are made"),
        ("repeat.seeds=[1,2]", "repeat: each repetition would release rows of its own"),
        ("data.shuffle_labels_except=[a]", "a control for training"),
        ("shared=[layer.weight]", "share every tensor"),
    ],
)
def test_a_synthesis_is_one_run_of_a_table_with_a_whole_model(
    tmp_path: Path, override: str, told: str
) -> None:
    section = "  method: filtered-rows\n  rows_per_site: 9\n"
    loaded(tmp_path, section)
    with pytest.raises(ConfigError, match=told):
        loaded(tmp_path, section, override)


def test_rows_are_shared_out_over_the_classes_in_their_order() -> None:
    config = SynthesisConfig(method="rows", rows_per_site=5)
    assert counts_of(config, ("a", "b", "c")) == (2, 2, 1)
    named = SynthesisConfig(method="rows", rows_per_site=5, class_counts={"c": 5})
    assert counts_of(named, ("a", "b", "c")) == (0, 0, 5)
    with pytest.raises(ConfigError, match="no class 'd'"):
        counts_of(SynthesisConfig(method="rows", rows_per_site=5, class_counts={"d": 5}), ("a",))
