"""What private training costs over plain training of the same model on the same batch.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.dp_cost [--repetitions 15] [--case NAME ...]

CPU time of one step: gradients, clipping, noise and Adam, against gradients and Adam. Kinds of
training take turns. A ratio is that of the shortest times, as other work on the machine only ever
adds to them; in brackets, the middle half of the paired ratios. `control` is plain training against
itself: what a ratio may be off by. Noise comes from a seeded generator; `secret` is the same with
the cryptographic one of a hospital. `Opacus` hands the same clipped sum to Opacus' optimiser, which
adds the noise and calls torch's Adam. Stacked sites are compared with the faster of our stacked
step and `vmap(grad)` over sites.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from fedward.client.optimizers import Optimizer, OptimizerSettings
from fedward.client.privacy.method import method_for
from fedward.client.privacy.patients import Patients
from fedward.client.privacy.stack import PrivateSite
from fedward.client.privacy.step import Mechanism, PrivateStep
from fedward.client.sampling import ShuffleSampler
from fedward.client.stacked import train_stacked
from fedward.client.training import PlainStep
from fedward.common.config.image import LossConfig
from fedward.common.images.losses import classification_loss, deep_segmentation_loss
from fedward.common.models import build
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.parameters import ParameterSet
from fedward.common.privacy.noise import NoiseSource, SecretNoise, SeededNoise
from fedward.common.quiet import quiet_third_parties
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch, Loss, PatientDataset
from tests.client.plain_training import cross_entropy, dense_layout, generated_table

ADAM = OptimizerSettings("adam", 1e-3)
SIGMA, MAX_NORM = 1.0, 1.0
STACKED_STEPS = 20
IMAGES_2D = ImageForm((64, 64), 1, 2)
IMAGES_3D = ImageForm((32, 32, 32), 1, 2, dense_layout(15))
Timed = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A model, a batch, and how much private training may cost over plain."""

    model: str
    own: dict[str, Any]
    num_patients: int
    goal: float | None
    form: ImageForm | None = None
    num_columns: int = 15
    rows_each: int = 1
    num_steps: int = 20


CASES: dict[str, Case] = {
    "MLP, 32 patients": Case("mlp", {}, 32, 2.6),
    "MLP, 256 patients": Case("mlp", {}, 256, 2.6),
    "MLP, 32 patients of 4 rows": Case("mlp", {}, 32, 2.6, rows_each=4),
    "wide MLP, 64 patients": Case("mlp", {"hidden": [256, 256]}, 64, None, num_columns=64),
    "wide MLP, 256 patients": Case("mlp", {"hidden": [256, 256]}, 256, None, num_columns=64),
    "FT-Transformer, 32 patients": Case("ft-transformer", {}, 32, 2.0),
    "FT-Transformer, 256 patients": Case("ft-transformer", {}, 256, 2.0, num_steps=4),
    "FT-Transformer of width 64, 32 patients": Case(
        "ft-transformer", {"d_token": 64, "num_layers": 3}, 32, 2.0, num_steps=8
    ),
    "U-Net, 16 patients": Case(
        "basic-unet", {"features": [8, 8, 16, 32, 64, 8]}, 16, 1.6, IMAGES_2D, num_steps=1
    ),
    "U-Net, 8 patients of 2 rows": Case(
        "basic-unet", {"features": [8, 8, 16, 32, 64, 8]}, 8, None, IMAGES_2D,
        rows_each=2, num_steps=1,
    ),
    "USCNet smoke, 8 patients": Case("uscnet", {"preset": "smoke"}, 8, 1.6, IMAGES_3D, num_steps=1),
}  # fmt: skip
STACKED: dict[str, tuple[dict[str, Any], int, int, int]] = {
    "8 MLPs, 16 patients each": ({}, 15, 8, 16),
    "64 MLPs, 16 patients each": ({}, 15, 64, 16),
    "64 MLPs, 64 patients each": ({}, 15, 64, 64),
    "8 wide MLPs, 16 patients each": ({"hidden": [256, 256]}, 64, 8, 16),
    "8 wide MLPs, 64 patients each": ({"hidden": [256, 256]}, 64, 8, 64),
    "32 wide MLPs, 16 patients each": ({"hidden": [256, 256]}, 64, 32, 16),
}
STACKED_GOAL = 2.0


def main() -> int:
    """Print the table; return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--case", action="append", help="only cases whose name contains this")
    arguments = parser.parse_args()
    quiet_third_parties()
    torch.set_num_threads(1)
    print("| case | weights | plain ms | private / plain | secret | Opacus | control | goal | |")
    print("|---|---|---|---|---|---|---|---|---|")
    met = []
    for name, case in CASES.items():
        if _is_asked_for(name, arguments.case):
            met.append(report(name, one_site(case), case.goal, case.num_steps, arguments))
    for name, sizes in STACKED.items():
        if _is_asked_for(name, arguments.case):
            met.append(report(name, stacked(*sizes), STACKED_GOAL, STACKED_STEPS, arguments))
    return 0 if all(met) else 1


def _is_asked_for(name: str, parts: list[str] | None) -> bool:
    return not parts or any(part in name for part in parts)


@dataclass(frozen=True)
class Kinds:
    """What takes turns: some steps of each kind of training."""

    num_weights: int
    plain: Timed
    private: Timed
    secret: Timed
    opacus: Timed | None = None
    other_plain: Timed | None = None


def report(
    name: str, kinds: Kinds, goal: float | None, num_steps: int, arguments: argparse.Namespace
) -> bool:
    """Print one line; return whether the goal, if there is one, was met."""
    timed = {"plain": kinds.plain, "again": kinds.plain, "private": kinds.private}
    timed["secret"] = kinds.secret
    if kinds.opacus is not None:
        timed["opacus"] = kinds.opacus
    if kinds.other_plain is not None:
        timed["other plain"] = kinds.other_plain
    runs: list[dict[str, float]] = []
    for number in range(arguments.repetitions + 1):
        order = list(timed)[:: 1 if number % 2 else -1]
        runs.append({kind: _seconds(timed[kind]) for kind in order})
    runs = runs[1:]  # the first warms up
    least = {kind: min(run[kind] for run in runs) for kind in timed}
    faster = (
        "plain" if least["plain"] <= least.get("other plain", least["plain"]) else "other plain"
    )
    ratio = {kind: seconds / least[faster] for kind, seconds in least.items()}
    low, _, high = statistics.quantiles([run["private"] / run[faster] for run in runs], n=4)
    control = least["again"] / least["plain"]
    met = goal is None or ratio["private"] <= goal
    opacus = f"{ratio['opacus']:.2f}" if "opacus" in ratio else "-"
    plain_ms = 1e3 * least[faster] / num_steps
    told = "-" if goal is None else f"{goal}"
    verdict = "" if goal is None else "met" if met else "**missed**"
    print(
        f"| {name} | {kinds.num_weights:,} | {plain_ms:.2f} | {ratio['private']:.2f} "
        f"({low:.2f}-{high:.2f}) | {ratio['secret']:.2f} | {opacus} | {control:.2f} | {told} "
        f"| {verdict} |",
        flush=True,
    )
    return met


def one_site(case: Case) -> Kinds:
    """Return steps of one site on one batch."""
    batch, loss = _batch_and_loss(case)
    models = [_model(case) for _ in range(4)]
    plain = PlainStep(loss, ADAM)
    steps = [
        _private_step(models[number], loss, batch, case.num_patients, noise)
        for number, noise in ((1, _seeded(1)), (2, SecretNoise()))
    ]
    opacus = OpacusStep(models[3], loss, batch, case.num_patients)

    def repeated(step: Callable[[nn.Module, Batch], object], model: nn.Module) -> Timed:
        def run() -> None:
            for _ in range(case.num_steps):
                step(model, batch)

        return run

    return Kinds(
        sum(p.numel() for p in models[0].parameters()),
        repeated(plain, models[0]),
        repeated(steps[0], models[1]),
        repeated(steps[1], models[2]),
        repeated(opacus, models[3]),
    )


def stacked(own: dict[str, Any], num_columns: int, num_sites: int, num_patients: int) -> Kinds:
    """Return steps of many sites at once, each on all of its patients."""
    with seeded_global_torch(1):
        model = build("mlp", dense_layout(num_columns), 2, own)
    datasets = [generated_table(num_patients, num_columns, seed=s) for s in range(num_sites)]
    start = ParameterSet.of(model).flatten(model.state_dict())
    sampler = ShuffleSampler(num_patients, steps=STACKED_STEPS)
    mechanism = Mechanism(SIGMA, MAX_NORM, num_patients)

    def train(noises: list[NoiseSource]) -> None:
        train_stacked(
            model,
            datasets,
            start,
            step=PlainStep(cross_entropy, ADAM),
            sampler=sampler,
            rngs=[torch.Generator().manual_seed(site) for site in range(num_sites)],
            private=[PrivateSite(mechanism, noise) for noise in noises],
        )

    secret: list[NoiseSource] = [SecretNoise() for _ in range(num_sites)]
    seeded: list[NoiseSource] = [_seeded(site) for site in range(num_sites)]
    return Kinds(
        len(start),
        lambda: train([]),
        lambda: train(seeded),
        lambda: train(secret),
        other_plain=lambda: _vmapped_sites(model, datasets),
    )


def _vmapped_sites(model: nn.Module, datasets: list[PatientDataset]) -> None:
    """Train all sites by `vmap(grad)` over stacked weights, as torch's documentation has it."""
    state, _ = stack_module_state([model for _ in datasets])
    trained = {name: tensor.detach().clone() for name, tensor in state.items()}
    rows = {key: torch.stack([data.rows[key] for data in datasets]) for key in datasets[0].rows}
    optimizer = Optimizer(ADAM, list(trained.values()))

    def loss_of(weights: dict[str, Tensor], batch: Batch) -> Tensor:
        outputs: Tensor = functional_call(model, weights, (batch,))
        return cross_entropy(outputs, batch).mean()

    gradients = vmap(grad(loss_of))
    for _ in range(STACKED_STEPS):
        found = gradients(trained, rows)
        optimizer.step([found[name] for name in trained])


class OpacusStep:
    """Our clipped sum, in Opacus' optimiser: it adds the noise, divides, and calls torch's Adam."""

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch, num_patients: int) -> None:
        from opacus.optimizers import DPOptimizerFastGradientClipping

        self._gradients = method_for(model, loss, batch).gradients(model, loss)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = DPOptimizerFastGradientClipping(
            torch.optim.Adam(self._parameters, lr=ADAM.learning_rate, fused=True),
            noise_multiplier=SIGMA,
            max_grad_norm=MAX_NORM,
            expected_batch_size=num_patients,
            generator=torch.Generator().manual_seed(1),
        )

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Take one step."""
        del model
        patients = Patients.of(batch["patient_id"])
        found = self._gradients.clipped_sum(batch, patients, MAX_NORM)
        for parameter, gradient in zip(self._parameters, found.sums, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return found.loss_G.mean()


def _private_step(
    model: nn.Module, loss: Loss, batch: Batch, num_patients: int, noise: NoiseSource
) -> PrivateStep:
    return PrivateStep(
        loss,
        ADAM,
        method=method_for(model, loss, batch),
        mechanism=Mechanism(SIGMA, MAX_NORM, num_patients),
        noise=noise,
    )


def _model(case: Case) -> nn.Module:
    with seeded_global_torch(1):
        if case.form is None:
            model = build(case.model, dense_layout(case.num_columns), 2, case.own)
        else:
            model = build_image_model(case.model, case.form, case.own)
    return model.train()


def _batch_and_loss(case: Case) -> tuple[Batch, Loss]:
    num_rows = case.num_patients * case.rows_each
    patient_id = torch.arange(num_rows) // case.rows_each
    if case.form is None:
        table = generated_table(num_rows, case.num_columns, seed=1).all_rows()
        return table | {"patient_id": patient_id}, cross_entropy
    form, rng = case.form, torch.Generator().manual_seed(1)
    batch = {
        "image": torch.rand(num_rows, 1, *form.size, generator=rng).half(),
        "mask": (torch.rand(num_rows, *form.size, generator=rng) > 0.99).byte(),
        "label": torch.arange(num_rows) % 2,
        "patient_id": patient_id,
        **{f"mask.{name}": torch.ones(num_rows, dtype=torch.bool) for name in ("image", "table")},
    }
    if form.layout is not None:
        batch["features"] = torch.randn(num_rows, form.layout.stops[-1], generator=rng)

    def loss(outputs: dict[str, Tensor], rows: Batch) -> Tensor:
        terms = [deep_segmentation_loss(outputs, rows["mask"], form.num_structures, LossConfig())]
        if "label" in outputs:
            terms.append(classification_loss(outputs["label"], rows["label"], LossConfig()))
        return torch.stack(terms).sum(0)

    return batch, loss


def _seeded(seed: int) -> NoiseSource:
    return SeededNoise(torch.Generator().manual_seed(seed))


def _seconds(run: Timed) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


if __name__ == "__main__":
    raise SystemExit(main())
