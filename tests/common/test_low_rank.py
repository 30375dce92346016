"""Adapters: nothing at first, all that is trained, gone when folded in; and the averaging trap."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fedward.client.privacy.ghost import DenseGradients, is_dense
from fedward.client.privacy.patients import Patients
from fedward.common.config.low_rank import LowRankConfig
from fedward.common.errors import ConfigError
from fedward.common.models import build
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.models.low_rank import (
    Adapted,
    adapt,
    adapter_pairs,
    base_hash,
    initial_length,
    merge,
    product,
)
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seeded_global_torch
from fedward.server.low_rank import average, nearest
from tests.client.plain_training import cross_entropy, dense_layout, generated_table
from tests.client.private_training import in_float64, plain_gradients
from tests.common.image_batches import images


def mlp(seed: int = 1) -> nn.Module:
    with seeded_global_torch(seed):
        return build("mlp", dense_layout(6), 2, {"hidden": [32, 16]})


def adapted(model: nn.Module, seed: int = 2, **keys: Any) -> nn.Module:
    with seeded_global_torch(seed):
        return adapt(model, LowRankConfig(**keys))


def shaken(model: nn.Module, seed: int = 3) -> nn.Module:
    """Return the model with other values in all that is trained."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=rng) * 0.3)
    return model


def unet() -> tuple[nn.Module, Any]:
    form = ImageForm((32, 32), 1, 2)
    with seeded_global_torch(1):
        model = build_image_model("basic-unet", form, {"features": [8, 8, 16, 16, 32, 8]})
    return model, images(form, 3)


def test_at_first_the_network_is_the_one_that_it_was() -> None:
    batch = generated_table(9, num_columns=6, seed=1).all_rows()
    before = mlp().eval()
    torch.testing.assert_close(adapted(mlp()).eval()(batch), before(batch), rtol=0, atol=0)
    network, rows = unet()
    expected = network.eval()(rows)
    found = adapted(copy.deepcopy(network)).eval()(rows)
    for name, answer in expected.items():
        torch.testing.assert_close(found[name], answer, rtol=0, atol=0)


@pytest.mark.parametrize("aggregation", ["ab", "ffa", "svd"])
def test_only_adapters_are_trained_and_their_number_is_the_formula(aggregation: str) -> None:
    model = adapted(mlp(), rank=3, aggregation=aggregation)
    trained = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    sizes = [(6, 32), (32, 16), (16, 2)]
    halves = sum(3 * out + (aggregation != "ffa") * 3 * inputs for inputs, out in sizes)
    assert sum(trained.values()) == halves
    assert all("lora_" in name for name in trained)


def test_what_is_named_beside_is_trained_in_full() -> None:
    model = adapted(mlp(), layers=("body.0",), also=("head.*",))
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if "lora" not in n} == {"head.weight", "head.bias"}


def test_folded_in_the_network_answers_the_same_under_its_old_names() -> None:
    for model, rows in ((mlp(), generated_table(9, num_columns=6, seed=1).all_rows()), unet()):
        names = list(model.state_dict())
        changed = shaken(adapted(copy.deepcopy(model), scale=1.7)).double().eval()
        doubled = {k: v.double() if v.is_floating_point() else v for k, v in rows.items()}
        expected, plain = changed(doubled), model.double().eval()(doubled)
        merged = merge(changed)
        assert list(merged.state_dict()) == names
        assert not any(isinstance(part, Adapted) for part in merged.modules())
        found = merged(doubled)
        pairs = [(found, expected, plain)]
        if isinstance(found, dict):
            pairs = [(found[name], expected[name], plain[name]) for name in found]
        for one, other, base in pairs:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
            assert not torch.allclose(one, base)


def test_an_adapter_of_a_convolution_is_the_convolution_with_the_product() -> None:
    with seeded_global_torch(1):
        layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, dilation=1).double()
        part = Adapted(layer, 2, 0.5)
    shaken(part)
    x = torch.randn(4, 3, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weight = layer.weight + 0.5 * product(part.lora_a.weight, part.lora_b.weight)
    expected = nn.functional.conv2d(x, weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(part(x), expected)
    torch.testing.assert_close(part.weight, weight)


def test_the_payload_is_less_than_a_fiftieth_of_a_published_network() -> None:
    form = ImageForm((96, 96, 96), 1, 2)
    with torch.device("meta"):
        model = build_image_model("unetr", form, {})
        whole = sum(p.numel() for p in model.parameters())
        adapt(model, LowRankConfig(rank=4))
    sent = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sent / whole < 0.02


def test_gradients_per_patient_are_those_of_one_pass_for_each() -> None:
    model = shaken(adapted(mlp()))
    assert is_dense(model)
    model, batch = in_float64(model.train(), generated_table(7, num_columns=6, seed=1).all_rows())
    found = DenseGradients(model, cross_entropy).clipped_sum(
        batch, Patients.of(batch["patient_id"]), 0.3
    )
    expected = plain_gradients(model, cross_entropy, batch).clipped_sum(0.3)
    flat = torch.cat([one.reshape(-1) for one in found.sums])
    torch.testing.assert_close(flat, expected, rtol=0, atol=1e-12)


def three_sites(aggregation: str) -> tuple[list[dict[str, torch.Tensor]], torch.Tensor]:
    """Return the adapters of three sites that have trained apart from one start, and shares."""
    start = adapted(mlp(), rank=2, aggregation=aggregation)
    states = [shaken(copy.deepcopy(start), seed=seed).state_dict() for seed in (4, 5, 6)]
    return states, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def mean_error(aggregation: str, *, by_products: bool) -> float:
    """Return how far the product of the averaged halves is from the mean of the products."""
    states, share = three_sites(aggregation)
    plain = {
        name: sum(s * state[name].double() for s, state in zip(share, states, strict=True))
        for name in states[0]
    }
    joined = average(states, share) if by_products else plain
    errors = []
    for name_a, name_b in adapter_pairs(states[0]):
        wanted = sum(
            s * product(state[name_a].double(), state[name_b].double())
            for s, state in zip(share, states, strict=True)
        )
        found = product(joined[name_a].double(), joined[name_b].double())
        errors.append(float((found - wanted).norm() / torch.as_tensor(wanted).norm()))
    return max(errors)


def test_averaging_both_halves_is_not_averaging_and_with_one_frozen_it_is() -> None:
    assert mean_error("ab", by_products=False) > 0.1
    assert mean_error("ffa", by_products=False) < 1e-6
    assert mean_error("svd", by_products=True) < mean_error("ab", by_products=False)


def test_the_nearest_product_is_that_of_the_truncated_decomposition() -> None:
    rng = torch.Generator().manual_seed(1)
    a = torch.randn(3, 2, 7, generator=rng, dtype=torch.float64)
    b = torch.randn(3, 5, 2, generator=rng, dtype=torch.float64)
    share = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    new_a, new_b = nearest(a, b, share)
    mean = (share[:, None, None] * torch.bmm(b, a)).sum(0)
    left, value, right = torch.linalg.svd(mean)
    best = left[:, :2] * value[:2] @ right[:2]
    torch.testing.assert_close(new_b @ new_a, best)
    torch.testing.assert_close(
        new_a.norm(dim=1), torch.full((2,), initial_length(), dtype=torch.float64)
    )


def test_where_nothing_was_learned_yet_adapters_stay_alive() -> None:
    start = adapted(mlp(), aggregation="svd").state_dict()
    joined = average([start, start], torch.tensor([0.5, 0.5], dtype=torch.float64))
    for name_a, name_b in adapter_pairs(start):
        assert not joined[name_b].any()
        assert (joined[name_a].flatten(1).norm(dim=1) > 0.5).any(), "or nothing is ever learned"


def test_adapters_of_another_network_do_not_belong_to_this_one() -> None:
    one, other = adapted(mlp(1)), adapted(mlp(9))
    assert base_hash(one) != base_hash(other)
    assert base_hash(one) == base_hash(shaken(adapted(mlp(1))))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"layers": ("boby.*",)}, "did you mean 'body"),
        ({"also": ("norm.*",)}, "matches no weight"),
        ({"also": ("head.weight",)}, "gets an adapter"),
    ],
)
def test_a_pattern_that_names_nothing_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        adapted(mlp(), **keys)


def test_the_manifest_tells_bases_apart() -> None:
    names, shapes = ("a",), ((2,),)
    plain = ParameterSet(names, shapes)
    assert plain.manifest_hash != ParameterSet(names, shapes, base="1").manifest_hash
    assert ParameterSet(names, shapes, base="1") != ParameterSet(names, shapes, base="2")
    assert np.prod(plain.shapes[0]) == 2
