"""Small batches of images with fields, and the forms that go with them."""

from dataclasses import replace

import torch

from fedward.common.models.image_form import ImageForm
from fedward.common.task import Batch
from tests.client.plain_training import Layout

LAYOUT = Layout(("age", "sex", "ph"), (0, 2, 5), (2, 5, 7))
SIGNS = ("lucency", "retraction")
FORM_2D = ImageForm((16, 32), 2, 3, LAYOUT, SIGNS)
FORM_3D = ImageForm((16, 16, 32), 1, 2, LAYOUT, SIGNS)


def without(form: ImageForm, *, structures: bool = False, classes: bool = False) -> ImageForm:
    """Return the form without what is named."""
    form = replace(form, num_structures=0) if structures else form
    return replace(form, num_classes=0) if classes else form


def images(form: ImageForm, num_rows: int, *, seed: int = 0) -> Batch:
    """Return rows of noise, every modality there, images as float16 in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.ones(num_rows, dtype=torch.bool)
    return {
        "image": torch.rand(num_rows, 1, *form.size, generator=generator).half(),
        "features": torch.randn(num_rows, 7, generator=generator),
        "mask": torch.randint(
            0, form.num_structures + 1, (num_rows, *form.size), generator=generator
        ).byte(),
        "label": torch.randint(0, max(form.num_classes, 1), (num_rows,), generator=generator),
        "signs": torch.randint(-1, 2, (num_rows, len(form.signs)), generator=generator).to(
            torch.int8
        ),
        "spacing_mm": torch.ones(num_rows, 3),
        "mask.image": there,
        "mask.table": there.clone(),
        "mask.mask": there.clone(),
        "mask.label": there.clone(),
    }
