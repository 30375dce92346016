"""From the gradient of one patient's loss to the patient's image: read off, or searched for.

Source: Geiping, Bauermeister, Droege and Moeller 2020, "Inverting Gradients: How easy is it to
break privacy in federated learning?", arXiv:2003.14053: proposition 3.1 for a linear layer, section
4 for the search (cosine distance, total variation, signed Adam). The label is known from the sign
of the last bias, Zhao, Mopuri and Bilen 2020, arXiv:2001.02610.

Legend: H rows, W columns of a picture; C classes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fedward.common.images.rows import IMAGE
from fedward.common.task import Batch, Loss

Image = npt.NDArray[np.float32]
Gradient = dict[str, Tensor]
NUM_TRIES, STEP_SIZE, DECAY = 400, 0.05, 0.1
DECAYS_AT = (0.4, 0.65, 0.85)
"""Shares of the search after which its steps get shorter, by `DECAY`."""
TOTAL_VARIATION = 0.01


@dataclass(frozen=True, repr=False)
class Seen:
    """What the attacker has.

    Args:
        model: as it was sent.
        loss: that the site minimises.
        gradient: of one patient's loss by the model's weights, by name.
        form: a row like the patient's; only its form is used.
    """

    model: nn.Module
    loss: Loss
    gradient: Gradient
    form: Batch


def label_in(gradient: Gradient) -> int:
    """Return the class whose bias is pushed up: the last bias's gradient is p - y, so below 0."""
    last = [tensor for name, tensor in gradient.items() if name.endswith("bias")][-1]
    return int(last.argmin())


def read_off(seen: Seen) -> Image:
    """Return the image (H, W) in the gradient of a linear layer on the pixels: dL/dW_c / dL/db_c.

    Of the classes, the one whose bias moved most is divided by.
    """
    weight_CP, bias_C = seen.gradient["linear.weight"], seen.gradient["linear.bias"]
    place = int(bias_C.abs().argmax())
    pixels_P = (weight_CP[place] / bias_C[place]).clamp(0, 1)
    found: Image = pixels_P.view(seen.form[IMAGE].shape[-2:]).numpy()
    return found


def search(seen: Seen, rng: torch.Generator) -> Image:
    """Return the image (H, W) whose gradient points most nearly the way of the one that was seen.

    It starts from grey with a little noise. Each step is of one size in every pixel, by the sign
    of the slope, which Adam then smooths.
    """
    row = {**seen.form, "label": torch.full_like(seen.form["label"], label_in(seen.gradient))}
    named = {n: p for n, p in seen.model.named_parameters() if n in seen.gradient}
    wanted = [seen.gradient[name] for name in named]
    noise = torch.randn(row[IMAGE].shape, generator=rng)
    image = (0.5 + 0.1 * noise).clamp(0, 1).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=STEP_SIZE)
    milestones = [int(share * NUM_TRIES) for share in DECAYS_AT]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=DECAY)
    for _ in range(NUM_TRIES):
        guess = {**row, IMAGE: image}
        loss = seen.loss(seen.model(guess), guess).sum()
        found = torch.autograd.grad(
            loss, list(named.values()), create_graph=True, materialize_grads=True
        )
        cost = _cosine_distance(found, wanted) + TOTAL_VARIATION * _total_variation(image)
        image.grad = torch.autograd.grad(cost, image)[0].sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    result: Image = image.detach()[0, 0].numpy()
    return result


def _cosine_distance(found: tuple[Tensor, ...], wanted: list[Tensor]) -> Tensor:
    a = torch.cat([tensor.reshape(-1) for tensor in found])
    b = torch.cat([tensor.reshape(-1) for tensor in wanted])
    return 1 - torch.nn.functional.cosine_similarity(a, b, dim=0)


def _total_variation(image: Tensor) -> Tensor:
    return image.diff(dim=-1).abs().mean() + image.diff(dim=-2).abs().mean()
