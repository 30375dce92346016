from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedward.common.config.loader import (
    config_hash,
    errors_point_to,
    expand_repeats,
    key_location,
    load_run_config,
    resolved_yaml,
    run_config_from_dict,
)
from fedward.common.config.run import RunConfig
from fedward.common.errors import ConfigError

Write = Callable[..., Path]

RUN = """\
version: 1
name: quick
seed: 1
task: ehr-classification
data:
  root: builtin
  schema: breast-cancer
  partition: {table: breast-cancer, by: label-skew, num_sites: 5, alpha: 0.5}
model:
  name: mlp
  hidden: [64, 64]
strategy: {name: fedavg}
rounds: 010
local:
  epochs: 1
  batch_size: 16
  learning_rate: 1e-3
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes `RUN`, with lines replaced, as run.yaml."""
    monkeypatch.chdir(tmp_path)

    def write_run(*changes: tuple[str, str], text: str = RUN) -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        Path("run.yaml").write_text(text, encoding="utf-8")
        return Path("run.yaml")

    return write_run


def complaint(path: Path | str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_config(path, overrides)
    return str(caught.value)


def test_a_run_is_read_with_yaml_1_2_numbers(write: Write) -> None:
    config = load_run_config(write()).config
    assert config.rounds == 10
    assert config.local.learning_rate == 0.001
    assert config.model.own == {"hidden": [64, 64]}


def test_a_whole_number_will_do_where_any_number_is_expected(write: Write) -> None:
    config = load_run_config(write(("1e-3", "10"))).config
    assert (type(config.local.learning_rate), config.local.learning_rate) == (float, 10.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("rounds: 010", "rounds: 0"), "13: rounds: given 0, expected a whole number, at least 1"),
        (("rounds: 010", "rounds: 2.0"), "13: rounds: given 2.0, expected a whole number"),
        (("rounds: 010", "rounds: true"), "13: rounds: given true, expected a whole number"),
        (("rounds: 010", "rounds: 1_0"), "13: rounds: given text that looks like a number"),
        (("rounds: 010", "rounds:"), "13: rounds: given nothing, expected a whole number"),
        (("rounds: 010", "rouns: 1"), "13: rouns: unknown key, did you mean 'rounds'?"),
        (("rounds: 010\n", ""), "1: rounds: missing, expected a whole number, at least 1: How"),
        (("1e-3", "yes"), "17: local.learning_rate: given text, expected a number, more than 0"),
        (("1e-3", ".inf"), "17: local.learning_rate: given infinity or not-a-number"),
        (("1e-3", ".nan"), "17: local.learning_rate: given infinity or not-a-number"),
        (("  hidden:", "  rate: .inf\n  hidden:"), "11: model.rate: given infinity"),
        (("learning_rate", "learnin_rate"), "17: local.learnin_rate: unknown key, did you mean"),
        (("seed: 1", "seed: 1\nbatch_size: 3"), "4: batch_size: unknown key here; it belongs und"),
        (("seed: 1", "seed: 1\nzzz: 3"), "4: zzz: unknown key; known here: version, name, seed"),
        (("name: quick", "name: NO"), "2: name: given text, expected text such as heart-disease"),
        (("  epochs: 1", "  epochs: 1\n  steps: 3"), "14: local: give exactly one of `epochs`"),
        (("label-skew", "label-scew"), "8: data.partition.by: given 'label-scew', expected one of"),
        (("by: label-skew", "by: feature-shift"), "8: data.partition.by: feature-shift needs colu"),
        (("{name: fedavg}", "fedavg"), "12: strategy: given text, expected a section with the key"),
        (("seed: 1", "seed: 1\nseed: 2"), "4: seed: given twice, first in line 3; keep one"),
        (("seed: 1", "seed: 1\nshared: []"), "4: shared: given an empty list, expected a list, n"),
    ],
)
def test_an_error_says_line_key_what_was_given_and_what_was_expected(
    write: Write, change: tuple[str, str], says: str
) -> None:
    assert complaint(write(change)).startswith(f"run.yaml:{says}")


def test_all_errors_are_told_at_once_in_the_order_of_the_file(write: Write) -> None:
    path = write(("seed: 1", "seed: -1"), ("epochs: 1", "epochs: x"), ("name: mlp", "nam: mlp"))
    lines = complaint(path).splitlines()
    keys = [line.split(": ")[1] for line in lines]
    assert keys == ["seed", "model.name", "local.epochs"]


def test_no_error_speaks_pydantic(write: Write) -> None:
    text = complaint(write(text="version: '1'\ndata: 3\nlocal: [1]\nmodel:\n  name: {}\n"))
    assert not {"Input", "valid", "extra", "instance", "Field"} & set(text.split())


def test_a_text_is_never_repeated_in_an_error(write: Write) -> None:
    assert "secret" not in complaint(write(("seed: 1", "seed: my-secret-token")))


def test_a_site_name_that_could_leave_its_folder_is_refused(write: Write) -> None:
    sites = ("  partition: {table", "  sites: {../x: {file: a.csv}}\n  partition: {table")
    assert "data.sites.../x: this name cannot be used" in complaint(write(sites))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rounds=x", "--set rounds=x: rounds: given text, expected a whole number"),
        ("rounds=1.5", "--set rounds=1.5: rounds: given 1.5, expected a whole number"),
        ("local.epoch=3", "--set local.epoch=3: local.epoch: unknown key, did you mean 'epochs'?"),
        ("locl.epochs=3", "--set locl.epochs=3: locl: unknown key, did you mean 'local'?"),
        ("rounds.x=3", "--set rounds.x=3: rounds is no section"),
        ("model.hidden.0=3", "--set model.hidden.0=3: model.hidden is a list; give all of it"),
        ("rounds", "--set rounds: expected key.path=value"),
        ("=3", "--set =3: expected key.path=value"),
        ("rounds=[1", "--set rounds=[1: not valid YAML"),
        ("rounds=!x 1", "--set rounds=!x 1: the tag !x is not allowed"),
        ("rounds=null", "--set rounds=null: rounds: missing"),
        ("local.bogus=null", "--set local.bogus=null: there is no 'bogus' to take out"),
        ("data.sites.va=null", "--set data.sites.va=null: there is no 'va' to take out"),
    ],
)
def test_an_override_that_cannot_be_used_is_named(write: Write, override: str, says: str) -> None:
    assert complaint(write(), override).startswith(says)


def test_overrides_follow_the_rules_of_the_file_and_the_last_one_wins(write: Write) -> None:
    overrides = ["rounds=2", "rounds=010", "model.hidden=[8]", "sampling.fraction=5e-1", "name=on"]
    config = load_run_config(write(), overrides).config
    assert (config.rounds, config.sampling.fraction, config.name) == (10, 0.5, "on")
    assert config.model.own == {"hidden": [8]}


def test_null_takes_a_site_out_and_an_optional_key_back_to_its_default(write: Write) -> None:
    sites = "  sites: {va: {file: va.csv}, bern: {file: bern.csv}}"
    path = write(
        (
            "  partition: {table: breast-cancer, by: label-skew, num_sites: 5, alpha: 0.5}",
            f"{sites}\n  test_fraction: 0.5",
        )
    )
    overrides = ["data.sites.va=null", "data.test_fraction=null", "repeat=null"]
    config = load_run_config(path, overrides).config
    assert list(config.data.sites or {}) == ["bern"]
    assert config.data.test_fraction == 0.3


def test_a_file_that_cannot_be_read_says_why(write: Write, tmp_path: Path) -> None:
    path = write()
    assert complaint("rum.yaml") == "rum.yaml: there is no such file, did you mean 'run.yaml'?"
    assert complaint(tmp_path).endswith("this is a folder, expected a YAML file in it")
    assert complaint(write(text="# nothing\n")).startswith("run.yaml: the file is empty, expected")
    assert complaint(write(text="\n- a\n")).startswith("run.yaml:2: given a list, expected a secti")
    assert complaint(write(text="hello")).startswith("run.yaml:1: given a single value, expected")
    path.write_bytes(b"version: 1\nname: \xff\n")
    assert complaint(path) == "run.yaml:2: not UTF-8 text; save the file as UTF-8"
    path.write_bytes(b"# " + b"x" * 2_000_000)
    assert "larger than" in complaint(path)


def test_a_key_has_its_line_even_if_only_its_section_was_written(write: Write) -> None:
    loaded = load_run_config(write(), ["model.depth=3"])
    assert key_location(loaded, "model.hidden[1]") == "run.yaml:11"
    assert key_location(loaded, "model.dropout") == "run.yaml:9"
    assert key_location(loaded, "engine.name") == "run.yaml:1"
    assert key_location(loaded, "model.depth") == "--set model.depth=3"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("model.hidden: given text", "run.yaml:11: model.hidden: given text"),
        ("unknown model 'mpl'", "run.yaml:9: model: unknown model 'mpl'"),
    ],
)
def test_an_error_of_a_constructor_is_pointed_to_its_line(
    write: Write, message: str, says: str
) -> None:
    loaded = load_run_config(write())
    with pytest.raises(ConfigError) as caught, errors_point_to(loaded, "model"):
        raise ConfigError(message)
    assert str(caught.value) == says


def test_the_resolved_text_loads_as_the_same_configuration(write: Write) -> None:
    overrides = ["repeat={seeds: [1, 2], folds: 3}", "model.mode=1e-3x", "model.no='NO'"]
    overrides += ["model.nothing={a: [010, '010']}", "shared=['*', '0o10']", "monitor.stop=null"]
    config = load_run_config(write(), overrides).config
    again = load_run_config(write(text=resolved_yaml(config))).config
    assert again == config
    assert config_hash(again) == config_hash(config)


def changed(write: Write, *overrides: str) -> RunConfig:
    return load_run_config(write(), overrides).config


def test_only_what_shapes_the_model_changes_the_hash(write: Write) -> None:
    base = config_hash(changed(write))
    same = ["rounds=99", "engine.name=inprocess", "baselines=[local]", "repeat.seeds=[1,2]"]
    assert {config_hash(changed(write, one)) for one in same} == {base}
    other = ["seed=2", "local.epochs=2", "model.hidden=[8]", "strategy.name=krum", "shared=['a*']"]
    assert len({base, *(config_hash(changed(write, one)) for one in other)}) == 1 + len(other)


def test_repeats_are_seeds_times_folds(write: Write) -> None:
    labels = [one.label for one in expand_repeats(changed(write, "repeat={seeds: [4, 5]}"))]
    assert labels == ["seed4", "seed5"]
    folded = expand_repeats(changed(write, "repeat={seeds: [4, 5], folds: 2}"))
    assert [one.label for one in folded] == [
        "seed4-fold0",
        "seed4-fold1",
        "seed5-fold0",
        "seed5-fold1",
    ]
    assert {one.num_folds for one in folded} == {2}
    assert [one.label for one in expand_repeats(changed(write))] == ["seed1"]


def test_a_repetition_is_configured_as_a_run_of_its_own(write: Write) -> None:
    config = changed(write, "repeat={seeds: [4, 5]}")
    one = expand_repeats(config)[1].configure(config)
    assert (one.seed, one.repeat) == (5, None)


def test_a_seed_is_not_given_twice(write: Write) -> None:
    assert "repeat.seeds: a seed is given twice" in complaint(write(), "repeat.seeds=[1, 1]")


def test_python_callers_give_a_dict_and_get_the_same_checks(write: Write) -> None:
    values: dict[str, Any] = {
        "version": 1,
        "name": "quick",
        "seed": 1,
        "task": "ehr-classification",
        "data": {
            "root": "builtin",
            "schema": "breast-cancer",
            "partition": {
                "table": "breast-cancer",
                "by": "label-skew",
                "num_sites": 5,
                "alpha": 0.5,
            },
        },
        "model": {"name": "mlp", "hidden": [64, 64]},
        "strategy": {"name": "fedavg"},
        "rounds": 10,
        "local": {"epochs": 1, "batch_size": 16, "learning_rate": 0.001},
    }
    assert run_config_from_dict(values) == load_run_config(write()).config
    with pytest.raises(ConfigError, match=r"^configuration: rouns: unknown key, did you mean"):
        run_config_from_dict({**values, "rouns": 3})
