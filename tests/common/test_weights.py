"""Weights to start from: files of our own, and folders of other programs."""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.randomness import seeded_global_torch
from fedward.common.weights import Fit, load_weights, save_weights


def body(seed: int) -> nn.Sequential:
    with seeded_global_torch(seed):
        return nn.Sequential(
            OrderedDict(first=nn.Conv2d(1, 4, 3), norm=nn.GroupNorm(2, 4), last=nn.Conv2d(4, 2, 1))
        )


class Wrapped(nn.Module):
    """Holds a published network as a part, as ours hold MONAI's, beside a head of its own."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.net = body(1)
        self.head = nn.Linear(2, num_classes)


def bundle(folder: Path, content: Any) -> Path:
    (folder / "models").mkdir(parents=True)
    torch.save(content, folder / "models" / "model.pt")
    return folder


def test_a_file_gives_back_every_tensor(tmp_path: Path) -> None:
    saved, loaded = body(1), body(2)
    save_weights(saved, tmp_path / "m.safetensors")
    fit = load_weights(loaded, tmp_path / "m.safetensors")
    assert fit.is_whole
    assert fit.num_loaded == 6
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_a_file_of_another_model_is_refused_whole(tmp_path: Path) -> None:
    save_weights(body(1), tmp_path / "m.safetensors")
    model = Wrapped()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"model\.init: .* does not fit the model"):
        load_weights(model, tmp_path / "m.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*or the folder of a MONAI bundle"):
        load_weights(body(1), tmp_path / "m.safetensors")


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "parallel", "compiled"])
def test_a_bundle_is_taken_whole_in_the_forms_that_programs_write(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = body(7).state_dict()
    content: dict[str, Any] = {
        "plain": state,
        "state_dict": {"epoch": 3, "state_dict": state},
        "model": {"model": state},
        "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
        "compiled": {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    }[form]
    model = body(2)
    fit = load_weights(model, bundle(tmp_path, content))
    assert fit.is_whole
    assert fit.unused == ()
    assert caplog.records == []
    for name, tensor in state.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_bundle_of_a_part_starts_that_part_and_what_stays_random_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = body(7).state_dict() | {"last.weight": torch.zeros(9, 4, 1, 1), "extra": torch.ones(1)}
    model = Wrapped()
    head = model.head.weight.clone()
    untouched = model.state_dict()["net.last.weight"].clone()
    with caplog.at_level(logging.WARNING, logger="fedward.weights"):
        fit = load_weights(model, bundle(tmp_path, state))
    assert (fit.num_loaded, fit.is_whole) == (5, False)
    assert fit.missing == ("head.weight", "head.bias")
    assert fit.misshapen == ("net.last.weight",)
    assert fit.unused == ("extra",)
    assert torch.equal(model.state_dict()["net.first.weight"], state["first.weight"])
    assert torch.equal(model.state_dict()["net.last.weight"], untouched)
    assert torch.equal(model.head.weight, head)
    (record,) = caplog.records
    said = record.getMessage()
    assert f"5 of 8 tensors come from {tmp_path}" in said
    assert "head.weight, head.bias not in it" in said
    assert "net.last.weight of another shape in it" in said
    assert "extra in it but not in the model" in said


def test_a_network_that_took_another_apart_says_what_its_parts_are_called(tmp_path: Path) -> None:
    class Apart(nn.Module):
        monai_names: ClassVar[dict[str, str]] = {
            "first": "levels.0",
            "norm": "levels.1",
            "last": "out",
        }

        def __init__(self) -> None:
            super().__init__()
            whole = body(1)
            self.levels = nn.ModuleList([whole[0], whole[1]])
            self.out = whole[2]

    state, model = body(7).state_dict(), Apart()
    assert load_weights(model, bundle(tmp_path, state)).is_whole
    assert torch.equal(model.state_dict()["levels.0.weight"], state["first.weight"])
    assert torch.equal(model.state_dict()["out.bias"], state["last.bias"])


def test_a_long_list_of_tensors_is_cut() -> None:
    fit = Fit("here", 1, missing=tuple("abcdefgh"))
    assert "a, b, c, d, e and 3 more not in it" in str(fit)


def test_a_bundle_of_which_only_biases_fit_by_chance_is_refused(tmp_path: Path) -> None:
    given = {"first.weight": torch.zeros(4, 1, 7, 7), "first.bias": torch.zeros(4)}
    model = body(2)
    before = model.state_dict()["first.bias"].clone()
    with pytest.raises(ConfigError, match=r"belongs to another network"):
        load_weights(model, bundle(tmp_path, given))
    assert torch.equal(model.state_dict()["first.bias"], before)


@pytest.mark.parametrize("content", [{}, {"model": {}}, [1, 2], {"epoch": 3}], ids=str)
def test_a_bundle_without_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ConfigError, match="holds no tensors by name"):
        load_weights(body(1), bundle(tmp_path, content))


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is no MONAI bundle: it has no models/model\.pt"):
        load_weights(body(1), tmp_path)


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path, body(1).state_dict())
    file = folder / "models" / "model.pt"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ConfigError, match="cannot be read as tensors only"):
        load_weights(body(1), folder)


class Evil:
    """Leaves a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path, str]]:
        return Path.write_text, (self.path, "ran")


def test_a_bundle_that_holds_code_runs_none(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "bundle", {"x": Evil(tmp_path / "ran")})
    with pytest.raises(ConfigError, match="cannot be read as tensors only"):
        load_weights(body(1), folder)
    assert not (tmp_path / "ran").exists()
