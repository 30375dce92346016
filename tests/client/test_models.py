"""A hospital's own copy of a model: the signed part, merged with what the site kept to itself."""

import dataclasses
import json
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord

from fedward.client.bundle import read_bundle, write_bundle
from fedward.client.model_file import read_model, write_model
from fedward.client.models import Models, with_own_statistics
from fedward.client.store import SiteStore
from fedward.common.errors import ConfigError, RefusedError, StorageError, TrustError
from fedward.common.keys import public_text
from fedward.common.release import Release, sign_release
from fedward.common.study import Study
from tests.client.clinic_site import SITE, make_site, release, study

KEY = ec.generate_private_key(ec.SECP384R1())
MODEL_KEY = public_text(KEY)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Models]:
    opened = Models(tmp_path / "site.sqlite", SITE)
    yield opened
    opened.close()


def keep(models: Models, given: Release) -> Release:
    models.receive(given.to_records(sign_release(given, KEY)), model_key=MODEL_KEY)
    return given


def remember(folder: Path, of: Study, name: str, round_number: int, state: dict[str, Any]) -> None:
    """Keep a part as the site's trainer does."""
    store = SiteStore(folder / "site.sqlite")
    store.put(of.run_key, SITE, name, round_number=round_number, arrays=state)
    store.close()


def shared_vector(of: Study, state: Any) -> np.ndarray[Any, Any]:
    return of.shared_of(of.new_model()).flatten(state)


def test_what_arrives_is_kept_and_the_receipt_names_it(models: Models) -> None:
    given = release(study())
    receipt = models.receive(given.to_records(sign_release(given, KEY)), model_key=MODEL_KEY)
    kept = receipt["kept"]
    assert isinstance(kept, ConfigRecord)
    assert kept["release"] == given.fingerprint
    (entry,) = models.entries()
    assert (entry.name, entry.round, entry.run_key) == ("mortality", 2, given.run_key)
    assert entry.num_parameters == len(given.parameters)


def test_a_release_that_another_key_signed_is_not_kept(models: Models) -> None:
    given = release(study())
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(TrustError):
        models.receive(given.to_records(sign_release(given, other)), model_key=MODEL_KEY)
    assert models.entries() == []


def test_a_model_that_is_shared_whole_is_the_federations(models: Models) -> None:
    given = keep(models, release(study()))
    model = models.load("mortality")
    assert model.parts == "global"
    assert shared_vector(study(), model.state).tobytes() == given.parameters.tobytes()


def test_fedbn_gives_back_the_sites_own_normalisation(models: Models, tmp_path: Path) -> None:
    of = study(strategy={"name": "fedbn"}, model={"norm": "batch"})
    given = keep(models, release(of))
    state = of.new_model().state_dict()
    local = set(state) - set(of.shared_of(of.new_model()).names)
    assert any("running_mean" in name for name in local)
    own = {name: state[name].numpy() + 5 for name in local}
    remember(tmp_path, of, "local", 2, own)
    model = models.load(given.run_key)
    assert model.parts == "site"
    assert shared_vector(of, model.state).tobytes() == given.parameters.tobytes()
    for name, value in own.items():
        np.testing.assert_array_equal(model.state[name].numpy(), value)


def test_a_shared_head_gives_back_the_sites_own_body(models: Models, tmp_path: Path) -> None:
    of = study(shared=["head.*"])
    given = keep(models, release(of))
    state = of.new_model().state_dict()
    own = {name: state[name].numpy() * 3 for name in state if name.startswith("body.")}
    remember(tmp_path, of, "local", 2, own)
    model = models.load("mortality")
    np.testing.assert_array_equal(model.state["body.0.weight"].numpy(), own["body.0.weight"])
    assert shared_vector(of, model.state).tobytes() == given.parameters.tobytes()


def test_the_sites_part_is_that_of_the_released_round(models: Models, tmp_path: Path) -> None:
    of = study(shared=["head.*"])
    keep(models, release(of, round_number=2))
    state = of.new_model().state_dict()
    for number in (2, 3):
        own = {n: np.full_like(v.numpy(), number) for n, v in state.items() if "body" in n}
        remember(tmp_path, of, "local", number, own)
    assert float(models.load("mortality").state["body.0.bias"][0]) == 2


def test_a_site_without_a_part_of_its_own_gets_no_untrained_one(models: Models) -> None:
    keep(models, release(study(shared=["head.*"])))
    with pytest.raises(StorageError, match="it took no part in this training"):
        models.load("mortality")


def test_ditto_gives_back_the_personal_model(models: Models, tmp_path: Path) -> None:
    of = study(strategy={"name": "ditto"})
    keep(models, release(of))
    personal = {n: v.numpy() + 1 for n, v in of.new_model().state_dict().items()}
    remember(tmp_path, of, "personal", 2, personal)
    model = models.load("mortality")
    assert model.parts == "personal"
    for name, value in personal.items():
        np.testing.assert_array_equal(model.state[name].numpy(), value)
    with pytest.raises(TrustError, match="the site's own"):
        model.check_signature(MODEL_KEY)


def test_a_later_round_replaces_an_earlier_one_and_not_the_other_way(models: Models) -> None:
    keep(models, release(study(), round_number=2))
    later = keep(models, release(study(), round_number=4))
    with pytest.raises(RefusedError, match="has round 4 already"):
        keep(models, release(study(), round_number=3))
    assert [entry.round for entry in models.entries()] == [4]
    model = models.load("mortality")
    assert shared_vector(study(), model.state).tobytes() == later.parameters.tobytes()


def test_a_name_stands_for_the_newest_of_its_runs(models: Models) -> None:
    first = keep(models, release(study()))
    second = keep(models, dataclasses.replace(release(study()), run_key="again", round=9))
    assert models.load("mortality").round == 9
    assert models.load(first.run_key).round == 2
    assert {entry.run_key for entry in models.entries()} == {first.run_key, second.run_key}


def test_an_unknown_name_is_answered_with_the_known_ones(models: Models) -> None:
    keep(models, release(study()))
    with pytest.raises(ConfigError, match="did you mean 'mortality'"):
        models.load("mortalty")


def test_a_model_that_was_changed_in_the_database_is_not_used(
    models: Models, tmp_path: Path
) -> None:
    keep(models, release(study()))
    with sqlite3.connect(tmp_path / "site.sqlite") as connection:
        connection.execute("UPDATE models SET parameters = zeroblob(length(parameters))")
    connection.close()
    with pytest.raises(StorageError, match="was changed in the site's database"):
        models.load("mortality")


def test_a_network_of_somebodys_own_is_not_imported(models: Models) -> None:
    given = release(study())
    given = dataclasses.replace(
        given, config={**given.config, "model": {"name": "tests.client.no_such_module:Net"}}
    )
    keep(models, given)
    with pytest.raises(ConfigError, match="no plug-in of this site"):
        models.load("mortality")


def test_a_file_says_all_about_its_model(models: Models, tmp_path: Path) -> None:
    given = keep(models, release(study()))
    path = write_model(models.load("mortality"), tmp_path / "out" / "m.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    model = read_model(path)
    model.check_signature(MODEL_KEY)
    assert model.config == study().config
    assert model.schema == study().schema
    assert model.site == SITE
    assert model.statistics is not None
    assert given.statistics is not None
    assert model.statistics.tobytes() == given.statistics.tobytes()
    assert shared_vector(study(), model.state).tobytes() == given.parameters.tobytes()


def test_a_changed_file_fails_its_signature(models: Models, tmp_path: Path) -> None:
    keep(models, release(study()))
    model = models.load("mortality")
    state = {**model.state, "head.bias": model.state["head.bias"] + 1}
    path = write_model(dataclasses.replace(model, state=state), tmp_path / "m.safetensors")
    with pytest.raises(TrustError, match="not those that its header names"):
        read_model(path).check_signature(MODEL_KEY)


def test_sums_of_the_sites_own_are_added_where_the_run_shares_none(
    models: Models, tmp_path: Path
) -> None:
    from fedward.client.data.source import site_source

    made = make_site(tmp_path)
    of = study(data={"statistics": "local"})
    keep(models, release(of))
    source = site_source(made.site)
    model = with_own_statistics(models.load("mortality"), source)
    assert model.statistics is not None
    np.testing.assert_array_equal(
        model.statistics, of.task.local_statistics(source, model.study().split)
    )
    write_model(model, tmp_path / "m.safetensors")
    read_model(tmp_path / "m.safetensors").check_signature(MODEL_KEY)


def test_a_bundle_gives_back_the_same_model(models: Models, tmp_path: Path) -> None:
    keep(models, release(study()))
    model = models.load("mortality")
    folder = write_bundle(model, tmp_path / "bundle")
    again = read_bundle(folder)
    assert again.header == model.header
    for name, tensor in model.state.items():
        assert torch.equal(again.state[name], tensor)
    again.check_signature(MODEL_KEY)


def test_a_bundle_has_the_files_and_keys_that_monai_asks_for(
    models: Models, tmp_path: Path
) -> None:
    keep(models, release(study()))
    folder = write_bundle(models.load("mortality"), tmp_path / "bundle")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"configs/metadata.json", "configs/inference.json", "models/model.pt"}
    metadata = json.loads((folder / "configs" / "metadata.json").read_text("utf-8"))
    # MONAI's meta_schema_20240725.json, "required".
    required = {
        "version", "monai_version", "pytorch_version", "numpy_version",
        "required_packages_version", "task", "description", "authors", "copyright",
        "network_data_format",
    }  # fmt: skip
    assert required <= set(metadata)
    assert metadata["network_data_format"]["inputs"]["features"]["num_channels"] == 14
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert outputs["channel_def"] == {"0": "negative", "1": "positive"}


def test_a_bundle_never_overwrites_a_folder_of_something_else(
    models: Models, tmp_path: Path
) -> None:
    keep(models, release(study()))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("...")
    with pytest.raises(ConfigError, match="is not empty"):
        write_bundle(models.load("mortality"), tmp_path / "bundle")


def test_a_bundle_whose_weights_hold_code_runs_none(models: Models, tmp_path: Path) -> None:
    keep(models, release(study()))
    folder = write_bundle(models.load("mortality"), tmp_path / "bundle")
    torch.save({"x": Evil(str(tmp_path / "ran"))}, folder / "models" / "model.pt")
    with pytest.raises(StorageError):
        read_bundle(folder)
    assert not (tmp_path / "ran").exists()


class Evil:
    """Leaves a file when it is unpickled without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return Path.write_text, (Path(self.path), "ran")  # type: ignore[return-value]
