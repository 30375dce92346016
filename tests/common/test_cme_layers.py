"""Which layers are watched by default, by pattern and all; and the rows of a transposed one."""

import pytest
import torch
from torch import nn

from fedward.common.errors import ConfigError
from fedward.common.models import MLP, LogisticRegression
from fedward.common.monitoring.layers import WatchedLayer, watched_layers
from tests.client.plain_training import dense_layout


class Network(nn.Module):
    """Convolutions, one of them transposed, norms, an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 6, 3)
        self.norm = nn.BatchNorm3d(6)
        self.up = nn.ConvTranspose3d(6, 4, 2, groups=2)
        self.words = nn.Embedding(9, 5)
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Linear(4, 2)


def test_the_default_is_the_second_to_last_weight() -> None:
    assert [layer.name for layer in watched_layers(Network(), "penultimate")] == ["up.weight"]


def test_all_are_linear_layers_and_convolutions_in_the_order_of_the_model() -> None:
    assert watched_layers(Network(), "all") == [
        WatchedLayer("first.weight", 6, 27),
        WatchedLayer("up.weight", 2, 48, is_transposed=True),
        WatchedLayer("head.weight", 2, 4),
    ]


def test_of_a_perceptron_it_is_the_layer_before_the_head() -> None:
    layout = dense_layout(2)
    hidden = watched_layers(MLP(layout, 2, hidden=(32, 16, 8)), "penultimate")
    assert [(layer.num_rows, layer.num_columns) for layer in hidden] == [(8, 16)]
    only = watched_layers(LogisticRegression(layout, 2), "penultimate")
    assert [layer.num_columns for layer in only] == [2]


def test_what_is_not_trained_is_watched_only_by_its_name() -> None:
    model = Network()
    model.up.requires_grad_(requires_grad=False)
    assert [layer.name for layer in watched_layers(model, "penultimate")] == ["first.weight"]
    assert [layer.name for layer in watched_layers(model, ["up.*"])] == ["up.weight"]


def test_patterns_reach_any_weight_with_two_dimensions() -> None:
    found = watched_layers(Network(), ["words.*", "*st.weight", "first.*"])
    assert found == [WatchedLayer("first.weight", 6, 27), WatchedLayer("words.weight", 9, 5)]


def test_a_module_may_be_the_layer_itself() -> None:
    assert watched_layers(nn.Linear(3, 2), "penultimate") == [WatchedLayer("weight", 2, 3)]


def test_a_pattern_that_fits_nothing_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'haed.weight' matches no .* mean 'head.weight'\?"):
        watched_layers(Network(), ["up.*", "haed.weight"])
    with pytest.raises(ConfigError, match="matches no weight"):
        watched_layers(Network(), ["norm.*"])


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no linear layer.*: weight$"):
        watched_layers(nn.Embedding(4, 3), "all")


def test_rows_are_the_outputs_of_a_transposed_convolution_too() -> None:
    model = Network()
    up, first = watched_layers(model, ["up.*"])[0], watched_layers(model, ["first.*"])[0]
    rows_PQ = up.matrix(model.up.weight)
    assert rows_PQ.shape == (up.num_rows, up.num_columns)
    expected = model.up.weight[:, 1].detach().double().numpy().ravel()
    assert rows_PQ[1].tolist() == expected.tolist()
    kernel = model.first.weight[3].detach().double().numpy().ravel()
    assert first.matrix(model.first.weight)[3].tolist() == kernel.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_matrix_is_a_copy_in_double_precision(dtype: torch.dtype) -> None:
    weight = torch.ones(2, 3, dtype=dtype, requires_grad=True)
    matrix_PQ = WatchedLayer("weight", 2, 3).matrix(weight)
    with torch.no_grad():
        weight.zero_()
    assert matrix_PQ.dtype == "float64"
    assert (matrix_PQ == 1).all()
