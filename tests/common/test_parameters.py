import numpy as np
import pytest
import torch
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.parameters import ParameterSet, normalisation_names, shared_set


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def test_all_floating_tensors_are_shared_by_default_and_counters_never() -> None:
    model = network()
    shared = ParameterSet.of(model)
    assert "1.running_mean" in shared.names
    assert "1.num_batches_tracked" not in shared.names
    assert shared.size == sum(v.numel() for v in model.state_dict().values()) - 1


def test_patterns_add_and_take_away_from_left_to_right() -> None:
    names = ParameterSet.of(network(), ("*", "!1.*", "1.weight")).names
    assert set(names) == {"0.weight", "0.bias", "1.weight", "2.weight", "2.bias"}


def test_no_pattern_shares_nothing_and_that_is_legal() -> None:
    model = network()
    nothing = ParameterSet.of(model, ())
    vector = nothing.flatten(model.state_dict())
    assert vector.shape == (0,)
    nothing.load(model, vector)


def test_a_pattern_that_matches_nothing_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'head\.\*' matches no tensor.*0\.weight"):
        ParameterSet.of(network(), ("head.*",))


def test_what_nobody_trains_is_known_of_each_value() -> None:
    model = network()
    assert ParameterSet.of(model).frozen_values is None
    model[0].requires_grad_(requires_grad=False)
    patterns = ("*", "!0.bias", "!1.*")
    shared = ParameterSet.of(model, patterns)
    assert shared.frozen == ("0.weight",)
    assert shared.frozen_values is not None
    assert shared.frozen_values.tolist() == [True] * 6 + [False] * 3
    assert shared.num_trained == 3
    assert shared.manifest_hash == ParameterSet.of(network(), patterns).manifest_hash


def test_a_vector_goes_into_a_model_and_comes_back() -> None:
    model = network()
    shared = ParameterSet.of(model, ("0.*", "2.*"))
    before = model.state_dict()["1.weight"].clone()
    vector = np.arange(shared.size, dtype=np.float32)
    shared.load(model, vector)
    np.testing.assert_array_equal(shared.flatten(model.state_dict()), vector)
    assert torch.equal(model.state_dict()["1.weight"], before), "what is not shared stays"


def test_training_does_not_write_into_the_vector_it_started_from() -> None:
    model = network()
    shared = ParameterSet.of(model)
    vector = shared.flatten(model.state_dict())
    kept = vector.copy()
    shared.load(model, vector)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(vector, kept)


def test_manifests_differ_where_names_or_shapes_do() -> None:
    same = {ParameterSet.of(network()).manifest_hash for _ in range(2)}
    other = ParameterSet.of(nn.Sequential(nn.Linear(3, 2))).manifest_hash
    assert len(same) == 1
    assert other not in same


def test_fedbn_keeps_every_normalisation_layer_at_the_site() -> None:
    model = network()
    assert set(normalisation_names(model)) >= {"1.weight", "1.running_var"}
    shared = shared_set(model, ("*",), strategy="fedbn")
    assert set(shared.names) == {"0.weight", "0.bias", "2.weight", "2.bias"}


def test_fedbn_without_a_normalisation_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="fedbn keeps normalisation layers"):
        shared_set(nn.Sequential(nn.Linear(3, 2)), ("*",), strategy="fedbn")
