"""Every network of images but USCNet: shapes, missing modalities, rows alone, and their origins."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from fedward.common.errors import ConfigError
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model, image_models
from fedward.common.parameters import normalisation_names
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch
from tests.common.image_batches import FORM_2D, FORM_3D, LAYOUT, images, without

Own = dict[str, Any]
VIT: Own = {"hidden": 24, "layers": 3, "heads": 3, "mlp_dim": 32, "patch": 8, "feature_size": 4}
UNET: Own = {"features": [4, 4, 8, 8, 8, 4]}
CASES: list[tuple[str, Own]] = [
    ("unetr", {**VIT, "class_head": True}),
    ("basic-unet", {**UNET, "class_head": True}),
    ("basic-unet", {**UNET, "norm": "group", "upsample": "nontrainable"}),
    ("seg-resnet", {"filters": 4, "class_head": True}),
    ("nnunet", {"filters": 4, "max_filters": 8, "class_head": True}),
    ("nnunet", {"filters": 4, "residual": True, "deep_supervision": 0}),
    ("resformer", {"preset": "small", "width": 4}),
    ("resformer", {"preset": "small", "width": 4, "order": "parallel", "window": 3, "dfe": False}),
    ("dsmt-net", {"preset": "small", "widths": [4, 8]}),
    ("dsmt-net", {"widths": [4, 8], "scales": "middle", "tasks": ["label", "signs"]}),
    ("resnet3d", {"depth": 10, "width": 4}),
    ("resnet3d", {"depth": 50, "width": 2, "norm": "instance"}),
    ("small-cnn", {"channels": [8, 4], "hidden": [8, 8]}),
    ("cme-resnet", {"preset": "small", "width": 2}),
    ("cme-densenet", {"preset": "small", "width": 4, "blocks": [2, 2]}),
    ("cme-alexnet", {"preset": "small", "width": 4}),
    ("concat-fusion", {"depth": 10, "width": 4, "hidden": 8, "feature_size": 4}),
    ("concat-fusion", {"depth": 10, "width": 4, "hidden": 8, "mask": False}),
    ("tmss", VIT),
]
FUSING = ("concat-fusion", "tmss")
CLASSIFYING = ("resnet3d", "small-cnn", "cme-resnet", "cme-densenet", "cme-alexnet")
MULTITASK = {"resformer": ["mask", "label"], "dsmt-net": ["mask", "label", "signs"]}
FORMS = [FORM_2D, FORM_3D]
NAMES = [f"{name}-{number}" for number, (name, _) in enumerate(CASES)]
every_network = pytest.mark.parametrize(("name", "own"), CASES, ids=NAMES)
both_ranks = pytest.mark.parametrize("form", FORMS, ids=["2d", "3d"])


def built(name: str, own: Own, form: ImageForm, *, seed: int = 0) -> nn.Module:
    with seeded_global_torch(seed):
        return build_image_model(name, form, own)


def total(outputs: dict[str, Tensor]) -> Tensor:
    """Return a sum to which every output counts, each differently."""
    terms = [value.sin().mean() * place for place, value in enumerate(outputs.values(), start=1)]
    return torch.stack(terms).sum()


@every_network
@both_ranks
@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_a_batch_of_any_size_gives_masks_and_logits_of_the_form(
    name: str, own: Own, form: ImageForm, num_rows: int
) -> None:
    outputs = built(name, own, form).train()(images(form, num_rows))
    assert outputs
    if "mask" in outputs:
        assert outputs["mask"].shape == (num_rows, form.num_structures, *form.size)
    if "label" in outputs:
        assert outputs["label"].shape == (num_rows, form.num_classes)
    assert all(value.isfinite().all() for value in outputs.values())
    assert all(value.dtype == torch.float32 for value in outputs.values())
    total(outputs).backward()


@every_network
def test_what_a_network_answers_with_is_what_it_was_built_for(name: str, own: Own) -> None:
    outputs = built(name, own, FORM_3D).eval()(images(FORM_3D, 2))
    if name in MULTITASK:
        assert set(outputs) == set(own.get("tasks", MULTITASK[name]))
        return
    segments = name not in CLASSIFYING and own.get("mask", True)
    classifies = not segments or name in FUSING or own.get("class_head", False)
    assert set(outputs) == set(["mask"] * segments + ["label"] * classifies)


@every_network
def test_no_row_sees_another_row_of_the_batch(name: str, own: Own) -> None:
    model = built(name, own, FORM_3D).train()
    batch = images(FORM_3D, 3)
    together = model(batch)
    for row in range(3):
        alone = model({key: value[row : row + 1] for key, value in batch.items()})
        for key, value in alone.items():
            torch.testing.assert_close(value[0], together[key][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "own"), [*CASES, ("uscnet", {"preset": "smoke"})])
def test_neither_mask_nor_label_reaches_a_network(name: str, own: Own) -> None:
    model = built(name, own, FORM_3D).eval()
    batch = images(FORM_3D, 2)
    blind = {key: batch[key] for key in ("image", "features", "mask.image", "mask.table")}
    answers = model(batch)
    for key, value in model(blind).items():
        assert torch.equal(value, answers[key])


@every_network
@pytest.mark.parametrize(("flag", "content"), [("mask.image", "image"), ("mask.table", "features")])
def test_a_missing_modality_is_not_looked_at(name: str, own: Own, flag: str, content: str) -> None:
    model = built(name, own, FORM_3D).train()
    batch = {
        key: value.float() if key == "image" else value for key, value in images(FORM_3D, 2).items()
    }
    batch[flag] = torch.tensor([False, True])
    batch[content].requires_grad_()
    outputs = model(batch)
    if "label" in outputs:
        (gradient,) = torch.autograd.grad(
            outputs["label"].sin().sum(), batch[content], allow_unused=True, retain_graph=True
        )
        uses_it = content == "image" or name in FUSING
        assert (gradient is not None) == uses_it
        if gradient is not None:
            assert not gradient[0].any()
            assert gradient[1].any()
    changed = {**batch, content: torch.full_like(batch[content], 0.7)}
    for key, value in model(changed).items():
        torch.testing.assert_close(value[0], outputs[key][0])


@every_network
def test_no_weight_is_without_a_gradient(name: str, own: Own) -> None:
    model = built(name, own, FORM_3D).train()
    batch = images(FORM_3D, 3)
    batch["mask.image"] = torch.tensor([True, True, False])
    batch["mask.table"] = torch.tensor([False, True, True])
    total(model(batch)).backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # An even brightness of what goes into a normalisation does not come out of it.
    assert not [key for key in idle if not key.endswith("bias")]


@every_network
def test_gradients_per_row_by_vmap_are_those_of_each_row_alone(name: str, own: Own) -> None:
    # In float64: a bias before a normalisation has a gradient of rounding noise only.
    model = built(name, own, FORM_2D).train().double()
    weights = {key: value.detach() for key, value in model.named_parameters()}
    batch = {
        key: value.double() if value.is_floating_point() else value
        for key, value in images(FORM_2D, 2).items()
    }

    def loss(weights: dict[str, Tensor], row: Batch) -> Tensor:
        rows = {key: value.unsqueeze(0) for key, value in row.items()}
        return total(functional_call(model, weights, (rows,)))

    together = vmap(grad(loss), in_dims=(None, 0))(weights, batch)
    for row in range(2):
        alone = grad(loss)(weights, {key: value[row] for key, value in batch.items()})
        for key, value in alone.items():
            torch.testing.assert_close(together[key][row], value, rtol=1e-6, atol=1e-9)


@every_network
def test_there_is_no_batch_normalisation_and_every_name_is_there_once(name: str, own: Own) -> None:
    model = built(name, own, FORM_3D)
    kinds = {type(module).__name__ for module in model.modules()}
    assert not [kind for kind in kinds if "BatchNorm" in kind or "InstanceNorm" in kind]
    assert normalisation_names(model)  # FedBN finds the others
    values = [value.data_ptr() for value in model.state_dict().values()]
    assert len(set(values)) == len(values)


def test_batch_normalisation_couples_rows_because_it_was_asked_for() -> None:
    model = built("resnet3d", {"depth": 10, "width": 4, "norm": "batch"}, FORM_2D).train()
    batch = images(FORM_2D, 4)
    pair = {key: value[:2] for key, value in batch.items()}
    assert not torch.allclose(model(batch)["label"][:2], model(pair)["label"])


@both_ranks
def test_deep_supervision_gives_coarser_masks_while_training_only(form: ImageForm) -> None:
    model = built("nnunet", {"filters": 4, "deep_supervision": 1}, form)
    outputs = model.train()(images(form, 1))
    assert set(outputs) == {"mask", "mask.1"}
    assert outputs["mask.1"].shape[2:] == tuple(side // 2 for side in form.size)
    assert set(model.eval()(images(form, 1))) == {"mask"}


@pytest.mark.parametrize(("depth", "stem_stride"), [(10, 1), (50, 1), (10, 2)])
def test_concat_fusion_finds_masks_beside_the_same_class(depth: int, stem_stride: int) -> None:
    own = {"depth": depth, "width": 2, "hidden": 4, "stem_stride": stem_stride}
    form = ImageForm((32, 32), 2, 3, LAYOUT)
    batch = images(form, 2)
    both = built("concat-fusion", own, form)(batch)
    assert both["mask"].shape == (2, 2, 32, 32)
    # The decoder comes after the rest, which therefore starts from the same weights without it.
    for alone in (
        built("concat-fusion", {**own, "mask": False}, form),
        built("concat-fusion", own, without(form, structures=True)),
    ):
        outputs = alone(batch)
        assert set(outputs) == {"label"}
        torch.testing.assert_close(outputs["label"], both["label"])


def test_a_planned_network_halves_and_looks_where_the_plan_says() -> None:
    plan = {
        "kernels": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "filters": 4,
    }
    model = built("nnunet", plan, FORM_3D).train()
    kernels = [tuple(m.weight.shape[2:]) for m in model.modules() if isinstance(m, nn.Conv3d)]
    assert kernels[:3] == [(1, 3, 3), (1, 3, 3), (3, 3, 3)]
    assert model(images(FORM_3D, 1))["mask.1"].shape[2:] == (16, 8, 16)


def test_the_parts_are_connected_as_monai_connects_them() -> None:
    from monai.networks.nets.basic_unet import BasicUNet
    from monai.networks.nets.dynunet import DynUNet
    from monai.networks.nets.segresnet import SegResNet

    batch = images(FORM_3D, 2)
    kernels, strides = [[3] * 3] * 3, [[1] * 3, [2] * 3, [2] * 3]
    pairs: list[tuple[str, Own, Any]] = [
        ("basic-unet", UNET, lambda: BasicUNet(3, 1, 1, features=UNET["features"])),
        (
            "seg-resnet",
            {"filters": 4, "norm": "instance"},
            lambda: SegResNet(
                3, 4, 1, 1, norm=("instance", {"affine": True}), upsample_mode="deconv"
            ),
        ),
        (
            "nnunet",
            {"filters": 4, "deep_supervision": 0},
            lambda: DynUNet(3, 1, 1, kernels, strides, strides[1:], filters=[4, 8, 16]),
        ),
    ]
    for name, own, theirs in pairs:
        ours = built(name, own, without(FORM_3D, classes=True)).eval()
        with seeded_global_torch(0):
            net = theirs().eval()
        torch.testing.assert_close(
            ours(batch)["mask"], net(batch["image"].float()), rtol=1e-4, atol=1e-5
        )


@pytest.mark.slow
def test_sizes_are_those_of_the_published_networks() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    from monai.networks.nets.unetr import UNETR

    form = ImageForm((96, 96, 96), 4, 0)
    theirs = UNETR(1, 4, (96, 96, 96))
    unused = sum(p.numel() for key, p in theirs.named_parameters() if "norm_cross_attn" in key)
    assert count(built("unetr", {}, form)) == count(theirs) - unused
    # specs: the 2D U-Net of features 64 to 1024 has 31.1 million.
    unet = built(
        "basic-unet", {"features": [64, 128, 256, 512, 1024, 64]}, ImageForm((64, 64), 1, 0)
    )
    assert count(unet) == pytest.approx(31.1e6, rel=0.002)
    # torchvision's resnet50 has 25,557,032: less its head and two of three input channels, and
    # ours with a head for two classes and a vector for a missing image.
    resnet = built("resnet3d", {"depth": 50}, ImageForm((64, 64), 0, 2))
    backbone = 25_557_032 - (2048 * 1000 + 1000) - 2 * 64 * 49
    assert count(resnet) == backbone + (2048 * 2 + 2) + 2048


@pytest.mark.parametrize(
    ("name", "own", "form", "says"),
    [
        ("unet", {}, FORM_3D, "did you mean"),
        ("resnet3d", {"depth": 20}, FORM_3D, "model.depth"),
        ("resnet3d", {}, without(FORM_3D, classes=True), "has no label"),
        ("tmss", {"hiden": 3}, FORM_3D, "did you mean 'hidden'"),
        ("tmss", VIT, ImageForm((16, 16, 16), 1, 2), "no fields"),
        ("concat-fusion", {}, ImageForm((16, 16), 0, 2), "no fields"),
        ("concat-fusion", {}, ImageForm((24, 32), 1, 2, LAYOUT), r"model.mask.*of \[16, 16\]"),
        ("unetr", {**VIT, "patch": 6}, FORM_3D, "power of two"),
        ("unetr", {**VIT, "heads": 5}, FORM_3D, "model.hidden: 24"),
        ("unetr", {**VIT, "layers": 2}, FORM_3D, "model.layers: 2"),
        ("unetr", VIT, ImageForm((16, 16, 20), 1, 0), r"\[16, 16, 20\].*multiples of \[8, 8, 8\]"),
        ("unetr", VIT, without(FORM_3D, structures=True), "no structures"),
        ("basic-unet", UNET, ImageForm((24, 32), 1, 0), r"multiples of \[16, 16\]"),
        ("basic-unet", {**UNET, "class_head": True}, without(FORM_2D, classes=True), "class_head"),
        ("basic-unet", {"features": [4, 4]}, FORM_2D, "model.features"),
        ("seg-resnet", {}, ImageForm((20, 32), 1, 0), r"multiples of \[8, 8\]"),
        ("basic-unet", UNET, ImageForm((16, 16), 1, 0), "one voxel"),
        (
            "resnet3d",
            {"stem_stride": 2, "norm": "instance"},
            ImageForm((16, 32), 0, 2),
            "one voxel",
        ),
        ("nnunet", {}, ImageForm((8, 8), 1, 0), "too small"),
        ("nnunet", {}, ImageForm((18, 16), 1, 0), r"multiples of \[4, 4\]"),
        ("nnunet", {"kernels": [[3, 3]] * 3}, FORM_2D, "or neither"),
        ("nnunet", {"kernels": [[3, 3]] * 3, "strides": [[1, 1]] * 2}, FORM_2D, "model.strides"),
        ("nnunet", {"kernels": [[3, 3]] * 3, "strides": [[1]] * 3}, FORM_2D, "2 figures per"),
        ("nnunet", {"kernels": [[2, 3]] * 3, "strides": [[1, 1]] * 3}, FORM_2D, "odd"),
        ("tests.common:Net", {}, FORM_2D, "only imported in simulations"),
    ],
)
def test_what_cannot_be_built_is_named_with_its_key(
    name: str, own: Own, form: ImageForm, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        build_image_model(name, form, own)


class OwnNet(nn.Module):
    """Stands for a user's own network."""

    def __init__(self, form: ImageForm, *, width: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(form.num_classes, width)


def test_an_own_network_is_imported_where_that_is_allowed() -> None:
    path = f"{OwnNet.__module__}:OwnNet"
    model = build_image_model(path, FORM_2D, {"width": 5}, own_models=True)
    assert isinstance(model, nn.Module)
    with pytest.raises(ConfigError, match="cannot import"):
        build_image_model("no.such.module:Net", FORM_2D, {}, own_models=True)


def test_without_the_extra_the_registry_is_there_and_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['monai'] = None\n"
        "from fedward.common.errors import ConfigError\n"
        "from fedward.common.models.image_form import ImageForm\n"
        "from fedward.common.models.image_models import build_image_model, image_models\n"
        "assert 'uscnet' in image_models\n"
        "try: build_image_model('unetr', ImageForm((16, 16), 1, 0), {})\n"
        "except ConfigError as error: print(error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert "pip install 'fedward[ct]'" in said.stdout, said.stderr


def test_every_registered_network_has_a_case_here_or_a_file_of_its_own() -> None:
    assert set(image_models) == {name for name, _ in CASES} | {"uscnet"}
    assert LAYOUT.names  # the forms have fields


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("resnet3d", {"depth": 10, "width": 8}),
        ("basic-unet", {"features": [8, 8, 16, 16, 16, 8], "class_head": True}),
        ("nnunet", {"filters": 8, "class_head": True, "deep_supervision": 0}),
        ("concat-fusion", {"depth": 10, "width": 8, "hidden": 16}),
        ("seg-resnet", {"filters": 8, "class_head": True}),
        ("unetr", {**VIT, "class_head": True}),
        ("tmss", VIT),
        ("resformer", {"preset": "small", "width": 8}),
        ("resformer", {"preset": "small", "width": 8, "order": "parallel", "dfe": False}),
        ("dsmt-net", {"preset": "small", "widths": [8, 16], "middle": 1}),
        ("cme-resnet", {"preset": "small"}),
        ("cme-densenet", {"preset": "small"}),
        ("cme-alexnet", {"preset": "small"}),
    ],
)
def test_how_bright_a_lesion_is_can_be_learnt(name: str, own: Own) -> None:
    form = ImageForm((32, 32), 1, 2, LAYOUT)
    batch = lesions(form, 96, seed=0)
    model = built(name, own, form).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(120):
        part = {key: value[step % 3 * 32 :][:32] for key, value in batch.items()}
        outputs = model(part)
        loss = functional.cross_entropy(outputs["label"], part["label"])
        if "mask" in outputs:
            loss = loss + functional.binary_cross_entropy_with_logits(
                outputs["mask"][:, 0], part["mask"].float()
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    fresh = lesions(form, 200, seed=1)
    with torch.no_grad():
        outputs = model.eval()(fresh)
    accuracy = (outputs["label"].argmax(1) == fresh["label"]).float().mean()
    # Chance is .5, and its upper bound for 200 rows at one in a million .67.
    assert accuracy > 0.75
    if "mask" in outputs:
        found, truth = outputs["mask"][:, 0] > 0, fresh["mask"] > 0
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.7


def lesions(form: ImageForm, num_rows: int, *, seed: int) -> Batch:
    """Return slices with a disc each, whose brightness is the class, in noise."""
    generator = torch.Generator().manual_seed(seed)
    batch = images(form, num_rows, seed=seed)
    label = torch.randint(0, 2, (num_rows,), generator=generator)
    height, width = (torch.arange(side) for side in form.size)
    centre = 10 + 12 * torch.rand(num_rows, 2, generator=generator)
    radius = 3 + 3 * torch.rand(num_rows, generator=generator)
    distance = (height.view(1, -1, 1) - centre[:, 0].view(-1, 1, 1)) ** 2 + (
        width.view(1, 1, -1) - centre[:, 1].view(-1, 1, 1)
    ) ** 2
    mask = distance < radius.view(-1, 1, 1) ** 2
    grey = 0.3 + mask * (0.2 + 0.3 * label).view(-1, 1, 1)
    noise = 0.03 * torch.randn(grey.shape, generator=generator)
    return {
        **batch,
        "image": (grey + noise).unsqueeze(1).half(),
        "mask": mask.byte(),
        "label": label,
    }
