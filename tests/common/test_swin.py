"""The pair of Swin blocks: the numbers of MONAI, hooks, and windows larger than the image."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from monai.networks.nets.swin_unetr import BasicLayer
from opacus import GradSampleModule
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedward.common.models.swin import SwinPair
from fedward.common.randomness import seeded_global_torch

SIZES = [(8, 8), (4, 12), (9, 11), (7, 4), (8, 8, 4), (5, 6, 9)]
every_size = pytest.mark.parametrize("size", SIZES, ids=str)


def pair(dims: int, *, window: int = 4) -> SwinPair:
    with seeded_global_torch(0):
        return SwinPair(dims, 12, heads=3, window=window)


def of_monai(ours: SwinPair, dims: int, *, window: int = 4) -> BasicLayer:
    layer = BasicLayer(12, 2, 3, (window,) * dims, [0.0, 0.0], qkv_bias=True)
    named = {
        name.replace("bias.table", "relative_position_bias_table"): value
        for name, value in ours.state_dict().items()
    }
    missing, unexpected = layer.load_state_dict(named, strict=False)
    assert not unexpected
    assert {name.rpartition(".")[2] for name in missing} == {"relative_position_index"}
    return layer


def maps(num_rows: int, size: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_rows, 12, *size, generator=generator)


@every_size
def test_from_the_same_weights_the_numbers_are_those_of_monai(size: tuple[int, ...]) -> None:
    ours, x_BdS = pair(len(size)), maps(3, size)
    theirs = of_monai(ours, len(size))(x_BdS)
    torch.testing.assert_close(ours(x_BdS), theirs, rtol=1e-5, atol=1e-5)
    # The second block's windows are shifted: without the shift the numbers are others.
    ours.blocks[1].is_shifted = False  # type: ignore[assignment] # of nn.Module, a bool here
    assert not torch.allclose(ours(x_BdS), theirs, atol=1e-3) or max(size) <= 4


def test_in_a_window_larger_than_the_image_tokens_are_as_far_apart_as_they_lie() -> None:
    ours = pair(2, window=5)
    x_BdS = maps(1, (3, 3))
    add_bias: Any = ours.blocks[0].attn.bias  # type: ignore[union-attr]
    bias = add_bias(torch.zeros(1, 1, 3, 3, 3, 9))[0, 0].flatten(1, 2)
    whole = add_bias(torch.zeros(1, 1, 3, 5, 5, 25))[0, 0].flatten(1, 2)
    inside = torch.tensor([0, 1, 2, 5, 6, 7, 10, 11, 12])  # rows 0 to 2 of the window of five
    assert torch.equal(bias, whole[:, inside][:, :, inside])
    # MONAI's second row of three starts where the fourth place of the first row of five is.
    assert not torch.equal(bias, whole[:, :9, :9])
    assert ours(x_BdS).shape == x_BdS.shape


@every_size
def test_hooks_and_vmap_find_the_gradient_of_each_row_alone(size: tuple[int, ...]) -> None:
    model, x_BdS = pair(len(size)).double(), maps(3, size).double()
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def loss(weights: dict[str, Tensor], one: Tensor) -> Tensor:
        out: Tensor = functional_call(model, weights, (one[None],))
        return out.sin().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(weights, x_BdS)
    hooked = GradSampleModule(deepcopy(model), batch_first=True, loss_reduction="sum")
    hooked(x_BdS.requires_grad_()).sin().sum().backward()
    of_hooks = {name: p.grad_sample for name, p in hooked._module.named_parameters()}
    for row in range(3):
        alone = grad(loss)(weights, x_BdS.detach()[row])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][row], value, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(of_hooks[name][row], value, rtol=1e-9, atol=1e-12)


def test_hooks_cannot_take_the_layer_of_monai() -> None:
    # Otherwise this module could be deleted.
    layer = of_monai(pair(2), 2)
    with pytest.raises(NotImplementedError, match="buffers"):
        GradSampleModule(layer)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_an_empty_batch_and_a_batch_of_one_are_legal(num_rows: int) -> None:
    out = pair(2)(maps(num_rows, (9, 8)))
    assert out.shape == (num_rows, 12, 9, 8)
    out.sum().backward()
