"""Every model: shapes, empty and single-row batches, and configuration keys that are refused."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedward.common.errors import ConfigError
from fedward.common.models import CNN, MLP, FTTransformer, build, models
from fedward.common.models.ft_transformer import Block
from fedward.common.models.layers import LayerNorm, Linear
from fedward.common.parameters import normalisation_names
from fedward.common.task import Batch
from tests.client.plain_training import Layout, dense_layout

LAYOUT = Layout(("age", "sex", "chol"), (0, 2, 5), (2, 5, 7))
TABULAR = [
    ("logistic-regression", {}),
    ("mlp", {}),
    ("mlp", {"hidden": [5], "norm": "layer", "activation": "gelu", "dropout": 0.5}),
    ("mlp", {"norm": "group", "activation": "tanh"}),
    ("mlp", {"norm": "batch"}),
    ("ft-transformer", {}),
    ("ft-transformer", {"d_token": 6, "num_heads": 3, "num_layers": 1, "dropout": 0.1}),
]


class OwnNet(nn.Module):
    """Stands for a user's own model."""

    def __init__(self, layout: Layout, num_classes: int, *, depth: int = 1) -> None:
        super().__init__()
        self.depth = depth
        self.linear = nn.Linear(max(layout.stops), num_classes)

    def forward(self, batch: Batch) -> Tensor:
        logits: Tensor = self.linear(batch["features"])
        return logits


def rows(num_rows: int, *, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {"features": torch.randn(num_rows, 7, generator=generator)}


@pytest.mark.parametrize(("name", "own"), TABULAR)
@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_a_batch_of_any_size_gives_a_row_of_logits_each(
    name: str, own: dict[str, object], num_rows: int
) -> None:
    model = build(name, LAYOUT, 3, own).train()
    logits = model(rows(num_rows))
    assert logits.shape == (num_rows, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_the_cnn_takes_images_and_has_the_parameters_of_the_benchmark(num_rows: int) -> None:
    model = build("cnn", LAYOUT, 10, {})
    assert model({"image": torch.zeros(num_rows, 3, 32, 32)}).shape == (num_rows, 10)
    assert sum(p.numel() for p in model.parameters()) == 136_874  # by hand, in the docstring


@pytest.mark.parametrize(("name", "own"), [case for case in TABULAR if "batch" not in str(case)])
def test_no_patient_sees_another_patient_of_the_batch(name: str, own: dict[str, object]) -> None:
    model = build(name, LAYOUT, 2, own).eval()
    batch = rows(4)
    alone = torch.cat([model({"features": row[None]}) for row in batch["features"]])
    torch.testing.assert_close(model(batch), alone)


def test_batch_normalisation_couples_patients_because_it_was_asked_for() -> None:
    model = build("mlp", LAYOUT, 2, {"norm": "batch"}).train()
    batch = rows(4)
    assert not torch.allclose(model(batch)[:2], model({"features": batch["features"][:2]}))


def test_normalisation_is_found_by_fedbn() -> None:
    model = build("mlp", LAYOUT, 2, {"norm": "layer", "hidden": [4]})
    assert normalisation_names(model) == ("body.1.weight", "body.1.bias")


def test_every_column_reaches_its_own_token_only() -> None:
    tokenizer = FTTransformer(LAYOUT, 2).tokenizer
    batch = rows(1)["features"].requires_grad_()
    for token, columns in enumerate([{0, 1}, {2, 3, 4}, {5, 6}], start=1):
        (gradient,) = torch.autograd.grad(tokenizer(batch)[0, token].sum(), batch)
        assert set(gradient[0].nonzero()[:, 0].tolist()) == columns


def test_the_transformer_equals_torchs_attention() -> None:
    model = FTTransformer(LAYOUT, 2, d_token=8, num_heads=2, num_layers=1)
    block = model.blocks[0]
    assert isinstance(block, Block)
    tokens = model.tokenizer(rows(3)["features"])
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([block.query.bias, torch.zeros(16)]))
        theirs.out_proj.load_state_dict(block.out.state_dict())
    expected = theirs(tokens[:, :1], tokens, tokens, need_weights=False)[0]
    torch.testing.assert_close(block._attention(tokens), expected)


def test_leaving_the_other_tokens_out_of_the_last_block_changes_nothing() -> None:
    model = FTTransformer(LAYOUT, 2)
    expected = model(rows(3))
    last = model.blocks[-1]
    assert isinstance(last, Block)
    last.num_queries = None
    torch.testing.assert_close(model(rows(3)), expected)


def test_padding_columns_of_narrow_fields_never_move() -> None:
    model = FTTransformer(LAYOUT, 2)
    weight = model.tokenizer.weight
    (gradient,) = torch.autograd.grad(model(rows(5)).sum(), weight)
    assert not gradient[0, 2].any()
    assert gradient[1, 2].any()


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("mpl", {}, r"model.name: unknown model 'mpl', did you mean 'mlp'"),
        ("mlp", {"hiden": [3]}, r"model.hiden: unknown key, did you mean 'hidden'"),
        ("mlp", {"hidden": [64, "32"]}, r"model.hidden\[1\]: .*integer"),
        ("mlp", {"hidden": [0]}, r"model.hidden\[0\]: .*greater than or equal to 1"),
        ("mlp", {"hidden": []}, r"model.hidden: .*at least 1 item"),
        ("mlp", {"dropout": 1.0}, r"model.dropout: .*less than 1"),
        ("mlp", {"norm": "instance"}, r"model.norm: .*'none', 'layer', 'group' or 'batch'"),
        ("mlp", {"dropout": True}, r"model.dropout: .*number"),
        ("logistic-regression", {"hidden": [3]}, r"model.hidden: unknown key.*no keys"),
        ("ft-transformer", {"d_token": 10}, r"model.d_token: 10 is not a multiple .* 4"),
        ("my_package:MyNet", {}, r"model.name: .*only imported in simulations"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(
    name: str, own: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, LAYOUT, 2, own)


def test_a_simulation_may_import_a_users_own_model() -> None:
    path = f"{__name__}:OwnNet"
    model = build(path, LAYOUT, 2, {"depth": 4}, own_models=True)
    assert getattr(model, "depth", None) == 4
    with pytest.raises(ConfigError, match=r"model.dept: unknown key, did you mean 'depth'"):
        build(path, LAYOUT, 2, {"dept": 4}, own_models=True)


@pytest.mark.parametrize("path", ["no_such_package:Net", f"{__name__}:NoNet", f"{__name__}:LAYOUT"])
def test_an_own_model_that_cannot_be_imported_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=r"model.name: "):
        build(path, LAYOUT, 2, {}, own_models=True)


def test_the_registry_holds_the_four_models() -> None:
    assert list(models) == ["cnn", "ft-transformer", "logistic-regression", "mlp"]
    assert models["mlp"] is MLP
    assert models["cnn"] is CNN


@pytest.mark.parametrize("extra_dims", [(), (4,)])
@pytest.mark.parametrize("kind", ["linear", "no bias", "norm"])
def test_stacked_layers_equal_one_layer_per_site(kind: str, extra_dims: tuple[int, ...]) -> None:
    makers: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: Linear(3, 5),
        "no bias": lambda: Linear(3, 5, bias=False),
        "norm": lambda: LayerNorm(3),
    }
    layers: list[nn.Module] = [makers[kind]() for _ in range(6)]
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    x = torch.randn(6, 2, *extra_dims, 3)
    state = {
        key: torch.stack([layer.state_dict()[key] for layer in layers])
        for key in layers[0].state_dict()
    }
    stacked = torch.func.functional_call(layers[0], state, (x,))
    expected = torch.stack([layer(site) for layer, site in zip(layers, x, strict=True)])
    torch.testing.assert_close(stacked, expected)


def test_a_dense_layout_has_fields_of_one_column() -> None:
    assert dense_layout(2).stops == (1, 2)
