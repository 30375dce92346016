"""What a single update gives away of a patient's image: gradient inversion, with and without DP.

A site takes one step of gradient descent on one patient, plainly or with the clipping and noise of
the run, and the attacker, who knows the model and the update, looks for the image. One patient is
the worst case: with more of them in a step the sum says less of each.

Two networks: a linear layer on the pixels, whose update holds the image itself, and the run's own,
inverted by search (`fedward.simulations.privacy_audit.gradient_search`).

Legend: N images, K attacked ones, H rows, W columns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fedward.client.report_form import PRIVACY
from fedward.client.trainer import LocalTrainer, TrainerSettings
from fedward.common.config.run import LocalConfig
from fedward.common.errors import ConfigError
from fedward.common.images.rows import IMAGE
from fedward.common.models.image_form import ImageForm, ImageOutputs
from fedward.common.models.image_parts import seen_image
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seed_for, seeded_global_torch, torch_generator
from fedward.common.records import PARAMETERS
from fedward.common.task import Batch, PatientDataset, SiteData
from fedward.common.tasks.ct import CtTask
from fedward.simulations.federation import Federation
from fedward.simulations.privacy_audit.gradient_search import Seen, read_off, search
from fedward.simulations.privacy_audit.messages import instruction_of, site_with

NUM_ATTACKED = 4
LINEAR, NETWORK = "linear layer", "network of the run"
Images = npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Reconstruction:
    """What an attacker made of the updates of K patients."""

    network: str
    is_private: bool
    image_KHW: Images
    mse: tuple[float, ...]
    """Of each patient, over pixels in [0, 1]."""
    num_named: int
    """Patients to whose image the reconstruction is nearer than to any other of the site."""


@dataclass(frozen=True, repr=False)
class Attacked:
    """The patients, and what is known of them from others who look alike."""

    num_images: int
    """Of the site, among which a patient is named."""
    truth_KHW: Images
    other_KHW: Images
    """The nearest image of another patient."""
    other_mse: tuple[float, ...]
    """A reconstruction that is no nearer has learnt nothing of this patient."""


@dataclass(frozen=True, repr=False)
class Inversion:
    """The attacks on a site's updates."""

    site: str
    noise_multiplier: float
    max_grad_norm: float
    attacked: Attacked
    found: tuple[Reconstruction, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        told = [
            {name: value for name, value in asdict(one).items() if name != "image_KHW"}
            | {"psnr_db": psnr_db(one.mse)}
            for one in self.found
        ]
        others = {"mse": self.attacked.other_mse, "psnr_db": psnr_db(self.attacked.other_mse)}
        return {
            "site": self.site,
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self.max_grad_norm,
            "num_images": self.attacked.num_images,
            "another_patient": others,
            "reconstructions": told,
        }


def invert(federation: Federation, *, say: Callable[[str], None] = lambda text: None) -> Inversion:
    """Return what updates of the first site give away of `NUM_ATTACKED` patients, one by one.

    Args:
        federation: private, of 2D images with a label, all of whose weights travel.
        say: told what is done.

    Raises:
        ConfigError: it is another one, or the site has too few patients.
    """
    task = _checked(federation)
    privacy = federation.config.privacy
    assert privacy is not None
    assert privacy.max_grad_norm is not None
    name = federation.sites.site_ids[0]
    say(f"reading {name}")
    data = task.datasets(federation.sites.source(name), federation.split, None)
    places = _places(data.train, name)
    noise = _noise_of_run(federation, name, data)
    plain, private = _one_step(federation, None), _one_step(federation, noise)
    found = []
    for network in (LINEAR, NETWORK):
        for run in (plain, private):
            say(f"{network}, {'with' if run is private else 'without'} privacy")
            image_KHW = np.stack([_attack(run, network, data, place) for place in places])
            mse, num_named = _compared(image_KHW, data.train, places)
            found.append(Reconstruction(network, run is private, image_KHW, mse, num_named))
    return Inversion(name, noise, privacy.max_grad_norm, _known(data.train, places), tuple(found))


def psnr_db(mse: Sequence[float]) -> tuple[float, ...]:
    """Return 10 log10(1 / MSE) of each, at most 100 dB: what is above is rounding."""
    return tuple(min(100.0, -10 * math.log10(max(value, 1e-12))) for value in mse)


class Pixels(nn.Module):
    """A linear layer on the pixels, the network that hides an image least."""

    def __init__(self, form: ImageForm) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(form.size), form.num_classes)

    def forward(self, batch: Batch) -> ImageOutputs:
        """Return `label` (B, C)."""
        return {"label": self.linear(seen_image(batch, self).flatten(1))}


def _attack(run: Federation, network: str, data: SiteData, place: int) -> Images:
    """Return the image that the attacker makes of one patient's update."""
    task = run.task
    assert isinstance(task, CtTask), "the caller has checked it"
    if network == LINEAR:
        with seeded_global_torch(seed_for(run.seed, purpose="model")):
            model: nn.Module = Pixels(task.form)
    else:
        model = run.new_model()
    shared = ParameterSet.of(model)
    sent = shared.flatten(model.state_dict())
    row = {name: column[place : place + 1] for name, column in data.train.rows.items()}
    site = site_with(f"patient-{place}", SiteData(PatientDataset(row), data.test))
    trainer = LocalTrainer(task, model, shared, TrainerSettings.of(run))
    update = trainer.train(site, instruction_of(run, shared, sent, number=1))
    # The step has length 1: what the weights lost is the gradient.
    gradient = shared.unflatten(sent - update.vectors[PARAMETERS])
    shared.load(model, sent)
    form = {name: torch.zeros_like(column) for name, column in row.items()}
    form |= {name: column for name, column in row.items() if name.startswith("mask.")}
    seen = Seen(model.eval(), task.training_loss(model, None), gradient, form)
    if network == LINEAR:
        return read_off(seen)
    return search(seen, torch_generator(run.seed, purpose="inversion", site=site.site_id))


def _noise_of_run(federation: Federation, name: str, data: SiteData) -> float:
    """Return the noise multiplier with which the site would train, from its own first round."""
    model = federation.new_model()
    shared = ParameterSet.of(model)
    trainer = LocalTrainer(federation.task, model, shared, TrainerSettings.of(federation))
    sent = shared.flatten(model.state_dict())
    message = instruction_of(federation, shared, sent, number=1)
    update = trainer.train(site_with(name, data), message)
    return float(update.report[PRIVACY]["noise_multiplier"])


def _one_step(federation: Federation, noise_multiplier: float | None) -> Federation:
    """Return the run as one step of length 1 on a single patient; None: without privacy."""
    config = federation.config
    assert config.privacy is not None
    assert config.data.image is not None
    privacy = None
    if noise_multiplier is not None:
        own = {"epsilon": None, "noise_multiplier": noise_multiplier}
        privacy = config.privacy.model_copy(update=own)
    local = LocalConfig(steps=1, batch_size=1, optimizer="sgd", learning_rate=1.0)
    image = config.data.image.model_copy(update={"augment": "none"})
    data = config.data.model_copy(update={"image": image})
    changed = {"local": local, "privacy": privacy, "data": data}
    return replace(federation, config=config.model_copy(update=changed))


def _places(data: PatientDataset, name: str) -> list[int]:
    """Return where the middle row of each of the first patients is.

    Raises:
        ConfigError: there are too few patients to compare with.
    """
    if len(data) < 2 * NUM_ATTACKED:
        raise ConfigError(
            f"site {name}: {len(data)} training patients; the demonstration needs at least "
            f"{2 * NUM_ATTACKED}"
        )
    rows = [data.row_index(torch.tensor([patient])) for patient in range(NUM_ATTACKED)]
    return [int(own[len(own) // 2]) for own in rows]


def _compared(
    image_KHW: Images, data: PatientDataset, places: Sequence[int]
) -> tuple[tuple[float, ...], int]:
    """Return each image's distance from the truth, and how many are nearest to it."""
    distance_KN = _distances(image_KHW, data)
    mse = tuple(float(distance_KN[k, place]) for k, place in enumerate(places))
    owner_N = data.rows["patient_id"].numpy()
    nearest_K = owner_N[distance_KN.argmin(axis=1)]
    return mse, int((nearest_K == owner_N[list(places)]).sum())


def _known(data: PatientDataset, places: Sequence[int]) -> Attacked:
    """Return the attacked images, and the nearest one of another patient to each."""
    image_NHW = _images(data)
    truth_KHW = image_NHW[list(places)]
    owner_N = data.rows["patient_id"].numpy()
    distance_KN = _distances(truth_KHW, data)
    distance_KN[owner_N[list(places)][:, None] == owner_N] = np.inf
    nearest_K = distance_KN.argmin(axis=1)
    others = tuple(float(value) for value in distance_KN.min(axis=1))
    return Attacked(len(image_NHW), truth_KHW, image_NHW[nearest_K], others)


def _distances(image_KHW: Images, data: PatientDataset) -> npt.NDArray[np.float64]:
    """Return (K, N), the mean squared differences from every image of the site."""
    difference = image_KHW[:, None].astype(np.float64) - _images(data)
    distance: npt.NDArray[np.float64] = (difference**2).mean(axis=(2, 3))
    return distance


def _images(data: PatientDataset) -> Images:
    image_NHW: Images = data.rows[IMAGE][:, 0].float().numpy()
    return image_NHW


def _checked(federation: Federation) -> CtTask:
    config, task = federation.config, federation.task
    if not config.is_private:
        raise ConfigError(
            "privacy.mode: this run promises nothing to compare with; set dp-sgd, or try "
            "private_phantom"
        )
    if not isinstance(task, CtTask) or task.form.spatial_dims != 2 or not task.form.num_classes:
        raise ConfigError(
            "task: the demonstration is one of images in two dimensions with a class; try "
            "private_phantom"
        )
    if tuple(config.shared) != ("*",):
        raise ConfigError("shared: the demonstration is one of a model that travels whole")
    return task
