"""What a model file says of the runs that trained it."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from fedward.common.origin import Origin, TrainedIn
from fedward.common.weights import load_weights, save_weights


def test_a_file_says_which_runs_trained_it_and_its_tensors_are_as_before(tmp_path: Path) -> None:
    model, path = nn.Linear(3, 2), tmp_path / "model.safetensors"
    origin = Origin().then("one", "dp-sgd").then("two", "none")
    save_weights(model, path, origin)
    assert Origin.of_file(path) == origin
    assert origin.private_runs == ("one",)
    assert origin.plain_runs == ("two",)
    assert load_file(path).keys() == model.state_dict().keys()
    load_weights(nn.Linear(3, 2), path)


def test_a_file_that_says_nothing_was_trained_by_nobody_known(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(nn.Linear(3, 2), path)
    assert Origin.of_file(path) == Origin()
    assert Origin.of_file(tmp_path / "nowhere") == Origin()
    path.write_bytes(b"not tensors")
    assert Origin.of_file(path) == Origin()


def test_what_a_run_has_handed_out_names_the_runs_before_it() -> None:
    model = {"name": "mlp", "trained_in": [["zero", "none"], ["one", "dp-sgd"]]}
    found = Origin.of_release("two", {"model": model, "privacy": {"mode": "none"}})
    assert found == Origin().then("zero", "none").then("one", "dp-sgd").then("two", "none")
    assert Origin.of_release("two", {"model": {"name": "mlp"}}) == Origin().then("two", "none")


@pytest.mark.parametrize(
    ("modes", "first"),
    [
        (("dp-sgd", "local", "none"), None),
        (("none", "central", "dp-sgd"), TrainedIn("run-1", "central")),
        (("something newer",), TrainedIn("run-0", "something newer")),
    ],
)
def test_only_prices_in_the_books_of_sites_can_be_counted(
    modes: tuple[str, ...], first: TrainedIn | None
) -> None:
    origin = Origin(tuple(TrainedIn(f"run-{n}", mode) for n, mode in enumerate(modes)))
    assert origin.uncountable == first
