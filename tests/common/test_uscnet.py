"""USCNet: its size and structure, what its class depends on, missing modalities, and its keys."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets.unetr import UNETR
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fedward.common.errors import ConfigError
from fedward.common.models.attention import SingleTokenFusion, TokenFusion
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.models.uscnet import USCNet
from fedward.common.models.uscnet_parts import MaskGuide
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch
from tests.client.plain_training import Layout

LAYOUT = Layout(("age", "sex", "ph"), (0, 2, 5), (2, 5, 7))
PAPER = Layout(
    ("age", "wbc", "creatinine", "urine_wbc", "ph", "sex", "location"),
    (0, 1, 2, 3, 4, 5, 7),
    (1, 2, 3, 4, 5, 7, 15),
)
FORM = ImageForm((8, 8, 8), 1, 2, LAYOUT)
SMALL: dict[str, Any] = {
    "preset": "smoke",
    "hidden": 16,
    "layers": 3,
    "mlp_dim": 32,
    "patch": 4,
    "head_dropout": [0.0],
}
PUBLISHED = {**SMALL, "fusion": "published"}
ABLATIONS: list[dict[str, Any]] = [
    {},
    {"cea": False},
    {"sma": False},
    {"cea": False, "sma": False},
    {"sma_layers": [1, 3]},
    {"guide": False},
]


def network(form: ImageForm = FORM, **own: Any) -> USCNet:
    with seeded_global_torch(0):
        model = build_image_model("uscnet", form, {**SMALL, **own})
    assert isinstance(model, USCNet)
    return model


def rows(num_rows: int, form: ImageForm = FORM, *, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(num_rows, 1, *form.size, generator=generator).half(),
        "features": torch.randn(num_rows, 7, generator=generator),
        "mask.image": torch.ones(num_rows, dtype=torch.bool),
        "mask.table": torch.ones(num_rows, dtype=torch.bool),
    }


def missing(batch: Batch, modality: str, row: int) -> Batch:
    flag = batch[f"mask.{modality}"].clone()
    flag[row] = False
    return {**batch, f"mask.{modality}": flag}


def loss_of(outputs: dict[str, Tensor]) -> Tensor:
    """Return (B,) losses on which every output has its own weight."""
    parts = [
        (out.flatten(1) * torch.linspace(-1, 2, out.shape[1:].numel())).sin().mean(1)
        for out in outputs.values()
    ]
    return torch.stack(parts).sum(0)


def class_gradients(model: USCNet, batch: Batch) -> tuple[float, float]:
    """Return the norms of d (logit difference) / d CT and / d clinical fields."""
    image = batch["image"].float().requires_grad_()
    features_BF = batch["features"].clone().requires_grad_()
    logits_BC = model({**batch, "image": image, "features": features_BF})["label"]
    difference = (logits_BC[:, 1] - logits_BC[:, 0]).sum()
    of_image, of_fields = torch.autograd.grad(difference, (image, features_BF))
    return float(of_image.norm()), float(of_fields.norm())


def trained(model: USCNet, num_steps: int, *, side: int = 8) -> USCNet:
    """Return the model after some steps on labels that CT and fields both show."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(num_steps):
        batch, label = stones(16, seed=step, side=side)
        outputs = model(batch)
        loss = functional.cross_entropy(outputs["label"], label)
        loss = loss + functional.binary_cross_entropy_with_logits(
            outputs["mask"][:, 0], batch["mask"].float()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def stones(num_rows: int, *, seed: int, side: int = 8) -> tuple[Batch, Tensor]:
    """Return balls in noise; half of what decides the label is their grey, half is one field."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij")) / side
    centre_N3, radius_N = rng.uniform(0.4, 0.6, (num_rows, 3)), rng.uniform(0.15, 0.3, num_rows)
    distance = np.linalg.norm(grid[None] - centre_N3[..., None, None, None], axis=1)
    inside = distance < radius_N[:, None, None, None]
    grey_N, field_N = rng.normal(size=(2, num_rows))
    image = np.where(inside, (0.6 + 0.1 * grey_N)[:, None, None, None], 0.2)
    image += rng.normal(0, 0.01, image.shape)
    batch = rows(num_rows, seed=seed)
    batch["features"][:, 0] = torch.from_numpy(field_N).float()
    batch["image"] = torch.from_numpy(image)[:, None].half()
    batch["mask"] = torch.from_numpy(inside)
    return batch, torch.from_numpy(grey_N + field_N > 0).long()


@pytest.mark.parametrize(("preset", "mlp_dim"), [("tokens", 1536), ("published", 3072)])
def test_a_preset_has_the_parameters_of_unetr_and_of_the_fusion(preset: str, mlp_dim: int) -> None:
    model = build_image_model("uscnet", ImageForm((48,) * 3, 1, 2, PAPER), {"preset": preset})
    unetr = UNETR(1, 1, 48, feature_size=16, hidden_size=384, mlp_dim=mlp_dim)
    head = nn.Sequential(  # as in the authors' code, of which the last layer has one output more
        nn.Linear(384, 256),
        nn.BatchNorm1d(256),
        nn.Linear(256, 128),
        nn.BatchNorm1d(128),
        nn.Linear(128, 32),
        nn.Linear(32, 2),
    )
    by_hand = -12 * 2 * 384  # MONAI's norms that are never called
    by_hand += 384  # "no image"
    by_hand += 2 * (4 * 384**2 + 384)  # CEA and SMA: query, key, value, out and its bias
    if preset == "published":
        by_hand += (15 + 1) * 384  # all fields to one token
    else:
        by_hand += 7 * 8 * 384  # seven fields, as wide as the widest
        by_hand += (7 + 1) * 384  # their biases, and "no clinical row"
        by_hand += 3 * 2 * 384  # norms of states, patches and context
        by_hand += (3 + 1) * 384  # what is under the mask
    assert num_parameters(model) == num_parameters(unetr) + num_parameters(head) + by_hand
    expected_millions = {"tokens": 27.6, "published": 41.7}[preset]  # shared/specs, section 1.1
    assert round(num_parameters(model) / 1e6, 1) == expected_millions


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_smoke_preset_has_half_a_million_parameters() -> None:
    form = ImageForm((32,) * 3, 1, 2, PAPER)
    model = build_image_model("uscnet", form, {"preset": "smoke"})
    assert round(num_parameters(model) / 1e6, 1) == 0.5


def test_masks_are_those_of_monais_unetr() -> None:
    form = replace(FORM, size=(32, 32, 32), num_classes=0)
    own = {"fusion": "published", "layers": 12, "patch": 16, "heads": 4}
    model = network(form, **own).eval()
    unetr = UNETR(1, 1, 32, feature_size=4, hidden_size=16, mlp_dim=32, num_heads=4).eval()
    theirs = {k: v for k, v in unetr.state_dict().items() if "norm_cross_attn" not in k}
    theirs_now = [k for k in model.state_dict() if k != "encoder.or_missing.missing"]
    assert len(theirs) == len(theirs_now)
    model.load_state_dict(
        {**model.state_dict(), **{ours(name): tensor for name, tensor in theirs.items()}}
    )
    batch = rows(2, form)
    with torch.no_grad():
        torch.testing.assert_close(model(batch)["mask"], unetr(batch["image"].float()))


def ours(name: str) -> str:
    """Return what a weight of MONAI's UNETR is called here."""
    renamed = {
        "vit.patch_embedding.": "encoder.patches.embed.",
        "vit.blocks.": "encoder.blocks.",
        "vit.norm.": "norm.",
        ".attn.": ".attention.",
        ".norm1.": ".norm_attention.",
        ".norm2.": ".norm_mlp.",
        "encoder1.": "decoder.of_image.",
        **{f"encoder{level}.": f"decoder.skips.{level - 2}." for level in (2, 3, 4)},
        **{f"decoder{level}.": f"decoder.ups.{level - 2}." for level in (2, 3, 4, 5)},
        "out.conv": "decoder.out.conv",
    }
    for theirs, mine in renamed.items():
        if theirs.startswith(".") or name.startswith(theirs):
            name = name.replace(theirs, mine)
    return name


@pytest.mark.parametrize("num_steps", [0, 10])
def test_the_class_depends_on_ct_and_fields_but_as_published_not_on_ct(num_steps: int) -> None:
    batch, _ = stones(8, seed=99)
    of_image, of_fields = class_gradients(trained(network(), num_steps).eval(), batch)
    assert of_image > 1e-3
    assert of_fields > 1e-3
    of_image, of_fields = class_gradients(
        trained(network(fusion="published"), num_steps).eval(), batch
    )
    assert of_image < 1e-6 * of_fields


@pytest.mark.parametrize(("fusion", "is_blind"), [("tokens", False), ("published", True)])
def test_the_class_of_another_ct_is_the_same_only_as_published(fusion: str, is_blind: bool) -> None:
    model = network(fusion=fusion).eval()
    batch, other = rows(4), rows(4, seed=1)
    before = model(batch)
    after = model({**batch, "image": other["image"]})
    assert not torch.allclose(before["mask"], after["mask"], atol=1e-3)
    assert torch.allclose(before["label"], after["label"], atol=1e-6) == is_blind


def test_without_cea_or_sma_even_the_published_class_sees_the_ct() -> None:
    for cea, sma in ((False, True), (True, False)):
        model = network(fusion="published", cea=cea, sma=sma).eval()
        of_image, of_fields = class_gradients(model, rows(2))
        assert of_image > 1e-3 * of_fields


def test_with_the_guide_the_class_sees_what_is_under_the_mask_and_the_mask_not_the_class() -> None:
    model = network(fusion="published", guide=True).eval()
    of_image, of_fields = class_gradients(model, rows(2))
    assert of_image > 1e-3 * of_fields
    model.zero_grad()
    model(rows(2))["label"].square().sum().backward()
    assert model.decoder is not None
    assert not any(w.grad is not None and w.grad.any() for w in model.decoder.parameters())


def test_the_guide_measures_grey_and_size_under_each_mask() -> None:
    guide = MaskGuide(2, 6)
    with torch.no_grad():
        guide.linear.weight.copy_(torch.eye(6))
        guide.linear.bias.zero_()
    image = torch.linspace(0, 1, 64).view(1, 1, 4, 4, 4)
    mask = torch.full((1, 2, 4, 4, 4), -50.0)
    mask[0, 1, 0] = 50.0  # the first slice is structure 2; structure 1 is nowhere
    grey = image[0, 0, 0].flatten().double().numpy()
    weight = 16 / 17  # one voxel of nothing keeps an empty mask finite
    mean = grey.sum() / 17
    spread = np.sqrt(((grey - mean) ** 2).mean() * weight + 1e-6)
    expected = np.array([0, 1e-3, 0, mean, spread, np.log(17) / np.log(65)])
    actual_Bv = guide(image, mask, torch.tensor([True])).detach().numpy()
    np.testing.assert_allclose(actual_Bv[0], 10 * (expected - 0.5), rtol=1e-5)
    assert not guide(image, mask, torch.tensor([False])).any()


@pytest.mark.parametrize("fusion", ["tokens", "published"])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_weight_of_every_ablation_has_a_gradient(
    fusion: str, ablation: dict[str, Any]
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"layout": None},
        {"num_structures": 0},
        {"num_classes": 0},
        {"size": (8, 8)},
    ]
    for changed in changes:
        form = replace(FORM, **changed)
        model = network(form, fusion=fusion, **ablation)
        batch = missing(missing(rows(4, form), "image", 0), "table", 1)
        loss_of(model(batch)).sum().backward()
        unused = [name for name, weight in model.named_parameters() if weight.grad is None]
        still = [
            name
            for name, weight in model.named_parameters()
            if weight.grad is not None and not weight.grad.any()
        ]
        assert not unused
        # Blind: a softmax over one key, or over equal ones, has no gradient.
        assert not still or fusion == "published"


@pytest.mark.parametrize("own", [SMALL, PUBLISHED, {**SMALL, "cea": False, "sma": False}])
@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_a_batch_of_any_size_gives_masks_and_classes(own: dict[str, Any], num_rows: int) -> None:
    outputs = network(**own).train()(rows(num_rows))
    assert outputs["mask"].shape == (num_rows, 1, 8, 8, 8)
    assert outputs["label"].shape == (num_rows, 2)
    loss_of(outputs).sum().backward()


def test_slices_have_masks_and_classes_too() -> None:
    form = ImageForm((16, 32), 2, 3, LAYOUT)
    outputs = network(form)(rows(2, form))
    assert outputs["mask"].shape == (2, 2, 16, 32)
    assert outputs["label"].shape == (2, 3)


def test_only_what_the_form_asks_for_is_answered() -> None:
    assert set(network(replace(FORM, num_structures=0))(rows(1))) == {"label"}
    assert set(network(replace(FORM, num_classes=0))(rows(1))) == {"mask"}
    early = network(replace(FORM, num_structures=0), sma_layers=[2])
    assert len(early.encoder.blocks) == 2  # nothing reads the third


@pytest.mark.parametrize("own", [SMALL, PUBLISHED])
def test_no_sample_sees_another_one(own: dict[str, Any]) -> None:
    model = network(**own).train()
    batch = missing(missing(rows(4), "image", 0), "table", 1)
    together = model(batch)
    for row in range(4):
        alone = model({key: values[row : row + 1] for key, values in batch.items()})
        for name, values in alone.items():
            torch.testing.assert_close(values[0], together[name][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["image", "table"])
@pytest.mark.parametrize("own", [{}, {"cea": False}, {"sma": False}, {"fusion": "published"}])
def test_what_a_row_lacks_is_never_looked_at(modality: str, own: dict[str, Any]) -> None:
    model = network(**own)
    key = {"image": "image", "table": "features"}[modality]
    batch = missing(rows(3), modality, 1)
    expected = model(batch)
    nonsense = batch[key].float().clone()
    nonsense[1] = torch.nan
    nonsense.requires_grad_()
    outputs = model({**batch, key: nonsense})
    for name, values in expected.items():
        assert torch.equal(outputs[name], values)
    loss_of(outputs).sum().backward()
    assert nonsense.grad is not None
    assert not nonsense.grad[1].any()
    assert nonsense.grad[0].any()
    gradients = [weight.grad for weight in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_a_batch_without_images_or_without_fields_leaves_their_weights_alone() -> None:
    for modality, prefix in (("image", "encoder.patches."), ("table", "fusion.tokenizer.weight")):
        model = network()
        batch = {**rows(2), f"mask.{modality}": torch.zeros(2, dtype=torch.bool)}
        functional.cross_entropy(model(batch)["label"], torch.tensor([0, 1])).backward()
        theirs = [w for name, w in model.named_parameters() if name.startswith(prefix)]
        assert theirs
        assert not any(weight.grad is not None and weight.grad.any() for weight in theirs)


def test_rows_without_ct_are_told_apart_by_their_fields_and_the_reverse() -> None:
    model = network().eval()
    for modality in ("image", "table"):
        batch = {**rows(2), f"mask.{modality}": torch.zeros(2, dtype=torch.bool)}
        logits_BC = model(batch)["label"]
        assert not torch.allclose(logits_BC[0], logits_BC[1], atol=1e-4)


@pytest.mark.parametrize("own", [SMALL, PUBLISHED])
def test_gradients_per_sample_by_vmap_equal_those_one_at_a_time(own: dict[str, Any]) -> None:
    model = network(**own).train()
    batch = missing(missing(rows(4), "image", 0), "table", 1)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], row: Batch) -> Tensor:
        one = {key: values[None] for key, values in row.items()}
        return loss_of(functional_call(model, (weights, buffers), (one,))).sum()

    # In the default mode it would raise if anything drew random numbers.
    together = vmap(grad(loss), in_dims=(None, 0))(weights, batch)
    for row in range(4):
        model.zero_grad()
        loss_of(model({k: v[row : row + 1] for k, v in batch.items()})).sum().backward()
        for name, weight in model.named_parameters():
            torch.testing.assert_close(together[name][row], weight.grad, rtol=1e-3, atol=1e-5)


def test_dropout_draws_where_it_is_asked_for_only() -> None:
    assert not any(isinstance(m, nn.Dropout) for m in network().modules())
    model = network(dropout=0.2, head_dropout=[0.5]).train()
    batch = rows(2)
    assert not torch.equal(model(batch)["label"], model(batch)["label"])


def test_autocast_keeps_answers_finite() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network()(rows(1))
    assert all(values.isfinite().all() for values in outputs.values())


def test_layers_are_counted_from_one() -> None:
    paper = build_image_model("uscnet", ImageForm((16,) * 3, 1, 2, LAYOUT), {"hidden": 12})
    assert isinstance(paper, USCNet)
    assert isinstance(paper.fusion, TokenFusion)
    assert (paper.settings.skips, paper.settings.queries) == ((3, 6, 9), (12,))
    own = {"preset": "published", "hidden": 12}
    code = build_image_model("uscnet", ImageForm((16,) * 3, 1, 2, LAYOUT), own)
    assert isinstance(code, USCNet)
    assert isinstance(code.fusion, SingleTokenFusion)
    assert (code.settings.skips, list(code.settings.queries)) == ((4, 7, 10), [10])


@pytest.mark.parametrize(
    ("form", "own", "message"),
    [
        (FORM, {"preset": "small"}, r"model.preset: .*'tokens', 'published' or 'smoke'"),
        (FORM, {"hiden": 8}, r"model.hiden: unknown key, did you mean 'hidden'"),
        (FORM, {"hidden": 18}, r"model.hidden: 18 is not a multiple of model.heads = 4"),
        (FORM, {"patch": 6}, r"model.patch: 6, expected a power of two"),
        (FORM, {"sma_layers": [4]}, r"model.sma_layers: \[4\].*from 1 to model.layers = 3"),
        (FORM, {"sma_layers": [1, 1]}, r"model.sma_layers: \[1, 1\]; expected different"),
        (FORM, {"sma_layers": [0]}, r"model.sma_layers\[0\]: .*greater than or equal to 1"),
        (FORM, {"sma_layers": []}, r"model.sma_layers: .*at least 1 item"),
        (FORM, {"head": [8, 8]}, r"model.head_dropout: 1 rates for 2 widths"),
        (FORM, {"cea": "no"}, r"model.cea: .*boolean"),
        (replace(FORM, size=(16, 16, 18)), {}, r"data.image.size: \[16, 16, 18\].*multiples"),
        (ImageForm((16,) * 3, 0, 0), {}, r"model.name: uscnet has nothing to learn"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(
    form: ImageForm, own: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_image_model("uscnet", form, {**SMALL, **own})


@pytest.mark.slow
def test_it_learns_masks_and_a_class_from_ct_and_fields_together() -> None:
    form = replace(FORM, size=(16, 16, 16))
    model = trained(network(form, hidden=32, mlp_dim=64), 100, side=16).eval()
    batch, label = stones(300, seed=1000, side=16)
    with torch.no_grad():
        outputs = model(batch)
        arms = {"both": outputs["label"]}
        for modality in ("image", "table"):
            without = {**batch, f"mask.{modality}": torch.zeros(300, dtype=torch.bool)}
            arms[modality] = model(without)["label"]
    found, truth = outputs["mask"][:, 0] > 0, batch["mask"]
    dice = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    auroc = {k: roc_auc_score(label, (v[:, 1] - v[:, 0]).numpy()) for k, v in arms.items()}
    assert dice > 0.8
    # Grey and field have equal parts in the label: knowing one of them gives 5/6 (0.833 by
    # simulation of 400,000), knowing both gives 1.
    assert auroc["both"] > 0.88
    assert auroc["image"] < 0.88
    assert auroc["table"] < 0.88
