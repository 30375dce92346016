"""What a site does with an instruction: train, or evaluate, and say what it found.

One trainer serves all sites of a process with one model, whose tensors are overwritten for each
site. What is not shared, personal models (Ditto) and control variates (SCAFFOLD) come from the
site's store and go back to it; nothing of them leaves.
"""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor, nn

from fedward.client.cme import STORED, RoundWatch, Watch, figures_of, maps_of
from fedward.client.corrections import Correction, ditto, fedprox, scaffold
from fedward.client.optimizers import OptimizerSettings
from fedward.client.precision import Execution
from fedward.client.privacy.account import Account
from fedward.client.privacy.training import PrivateRound, PrivateTraining
from fedward.client.report_form import PRIVACY
from fedward.client.sampling import RoundSampler, ShuffleSampler
from fedward.client.site import Site
from fedward.client.site_memory import recall, remember
from fedward.client.training import LocalResult, PlainStep, Step, train_locally
from fedward.common.config.monitor import CmeConfig
from fedward.common.config.privacy import PrivacyConfig
from fedward.common.config.run import LocalConfig
from fedward.common.errors import ConfigError, NoPatientsError
from fedward.common.monitoring.map_files import write_maps
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seed_for, seeded_global_torch, torch_generator
from fedward.common.records import (
    CONTROL,
    DITTO_LAMBDA,
    LOSS_OF_RECEIVED_MODEL,
    PARAMETERS,
    PROXIMAL_MU,
    Instruction,
    Update,
)
from fedward.common.study import Study
from fedward.common.task import Kept, Loss, PatientDataset, SiteData, Task
from fedward.common.vectors import Vector

NOT_TOLD = 0.0
"""Stands in a private update where the loss of its patients would."""


class Trainer(Protocol):
    """Answers one instruction for one site."""

    def train(self, site: Site, instruction: Instruction) -> Update:
        """Return the site's new vectors."""

    def evaluate(self, site: Site, instruction: Instruction) -> Update:
        """Return the site's figures of the received model."""

    def prefill(self, jobs: Sequence[tuple[Site, Instruction]]) -> None:
        """See all training jobs that this process is about to get; may compute them at once."""


@dataclass(frozen=True)
class TrainerSettings:
    """The part of a run that a trainer needs."""

    local: LocalConfig
    seed: int
    run_key: str
    cme: CmeConfig | None = None
    """Which layers are watched while a site trains; None: none."""
    maps: Path | None = None
    """A folder for the covariance maps; None: only what the next round needs is kept."""
    privacy: PrivacyConfig | None = None
    """What patients are promised; None: nothing."""
    rounds: int | None = None
    """All that are planned, which the noise follows from."""
    evaluate_every: int = 1
    """Rounds between two evaluations."""

    @classmethod
    def of(cls, study: Study, *, maps: Path | None = None) -> Self:
        """Return the settings of a study; its baselines are not watched."""
        cme = study.config.monitor.cme if study.kind == "federated" else None
        maps = None if cme is None else maps
        config = study.config
        privacy = config.privacy if config.is_private else None
        return cls(
            config.local,
            study.seed,
            study.run_key,
            cme,
            maps,
            privacy,
            rounds=config.rounds,
            evaluate_every=config.evaluate_every,
        )


class LocalTrainer:
    """Trains and evaluates one site at a time.

    Args:
        task: losses and figures.
        model: the process's one model; its tensors are overwritten for every site.
        shared: what travels.
        settings: local epochs, optimiser, seed.
        account: what private rounds are paid from, at a hospital; None: it is a simulation.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        shared: ParameterSet,
        settings: TrainerSettings,
        *,
        account: Account | None = None,
    ) -> None:
        self.task = task
        self.model = model
        self.shared = shared
        self.settings = settings
        self.optimizer = OptimizerSettings.of(settings.local)
        local = settings.local
        self.execution = Execution.of(local)
        self.execution.prepare(model)
        self._num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.private = _private_training(settings, account, self._num_trained)
        self.sampler: RoundSampler
        if self.private is not None:
            self.sampler = self.private.sampler
        else:
            self.sampler = ShuffleSampler(local.batch_size, epochs=local.epochs, steps=local.steps)
        # What stays at a site starts alike everywhere: as the model was initialised. What is frozen
        # never changes, and is not kept again for every site.
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        self._initial = {
            name: tensor.clone()
            for name, tensor in model.state_dict().items()
            if name not in {*shared.names, *frozen}
        }
        cme = settings.cme
        self.watch = None if cme is None else Watch.of(model, cme, self.sampler)
        self._drops_out = any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules())

    def prefill(self, jobs: Sequence[tuple[Site, Instruction]]) -> None:
        """Do nothing: every site is trained when its message is answered."""

    def train(self, site: Site, instruction: Instruction) -> Update:
        """Return the site's new vectors after its local epochs.

        Raises:
            NoPatientsError: there is no training patient.
        """
        started = time.perf_counter()
        data = site.data(instruction.statistics)
        private = self._begin_private(site, instruction, data.train)
        if DITTO_LAMBDA in instruction.options:
            self._train_personal(site, instruction, data)
        self._load(site, instruction)
        before = None
        if instruction.options.get(LOSS_OF_RECEIVED_MODEL):
            before, _ = self._examine(data.train)
        watch = self._begin_watch(data.train)
        correction = self._correction(site, instruction)
        result = self._run(site, instruction, data, correction, watch=watch, private=private)
        vectors = {PARAMETERS: self.shared.flatten(self.model.state_dict())}
        if CONTROL in instruction.vectors:
            vectors[CONTROL] = self._move_control(
                site, instruction, vectors[PARAMETERS], result.num_steps
            )
        self._keep_local(site, instruction)
        watched = self._end_watch(site, instruction, watch)
        seconds = time.perf_counter() - started
        report = {"seconds": seconds, "num_steps": result.num_steps, **watched}
        loss = result.loss if before is None else before
        if private is not None:
            seen = private.tally.summary(private.mechanism, self._num_trained)
            report, loss = {**report, PRIVACY: private.told(seen)}, NOT_TOLD
        return Update(len(data.train), loss, vectors, report)

    def evaluate(self, site: Site, instruction: Instruction) -> Update:
        """Return the figures of the received model on the site's test patients.

        Where the site has a personal model (Ditto), they are those of that model. Where it has
        validation patients, the report says the model's loss on them as well.

        Raises:
            NoPatientsError: there is no test patient.
        """
        started = time.perf_counter()
        data = site.data(instruction.statistics)
        if len(data.test) == 0:
            raise NoPatientsError(f"site {site.site_id} has no patient to test on")
        self._load(site, instruction)
        personal = recall(site, instruction, "personal")
        if personal is not None:
            self._load_named(personal)
        loss, kept = self._examine(data.test)
        if self.private is not None and self.private.figures != "exact":
            outcomes = self.task.outcomes(kept)
            loss = NOT_TOLD
            figures = self.private.figures_of(site, instruction, outcomes, data.test)
        else:
            exact = self.task.metrics(kept)
            figures = {
                "metrics": {name: asdict(figure) for name, figure in exact.items()},
                **self.task.details(kept),
                **self._validated(data.validation),
            }
        report = {
            "num_examples": {"train": len(data.train), "test": len(data.test)},
            **figures,
            "seconds": time.perf_counter() - started,
        }
        return Update(len(data.test), loss, {}, report)

    def _run(  # noqa: PLR0913 - whose data, how they are trained on, and who looks on
        self,
        site: Site,
        instruction: Instruction,
        data: SiteData,
        correction: Correction | None,
        *,
        purpose: str = "batches",
        watch: RoundWatch | None = None,
        private: PrivateRound | None = None,
    ) -> LocalResult:
        """Train the loaded model."""
        loss = self.task.training_loss(self.model, data.validation)
        number = instruction.binding.round_number
        rng = torch_generator(
            self.settings.seed, purpose=purpose, site=site.site_id, round_number=number
        )
        patients, step = data.train, self._plain_step(loss, correction)
        if private is not None:
            patients = private.patients
            assert self.private is not None
            step = self.private.step(
                private, self.model, loss, optimizer=self.optimizer, correction=correction
            )
        with self._seeded_dropout(site.site_id, number, purpose):
            result = train_locally(
                self.model,
                patients,
                step=step,
                sampler=self.sampler,
                observers=() if watch is None else (watch,),
                rng=rng,
                augment=self.task.augment,
            )
        self.model.zero_grad()  # gradients take as much memory as the model
        return result

    def _plain_step(self, loss: Loss, correction: Correction | None) -> Step:
        return PlainStep(loss, self.optimizer, correction, execution=self.execution)

    def _begin_private(
        self, site: Site, instruction: Instruction, data: PatientDataset
    ) -> PrivateRound | None:
        """Pay for a private round, before a patient is looked at; None: it is not private."""
        return None if self.private is None else self.private.begin(site, instruction, data)

    def _begin_watch(self, data: PatientDataset) -> RoundWatch | None:
        """Return what looks at the layers during a round over `data`; None: nothing does."""
        return None if self.watch is None else self.watch.begin(len(data))

    def _end_watch(
        self, site: Site, instruction: Instruction, watch: RoundWatch | None
    ) -> dict[str, Any]:
        """Keep the round's maps at the site, and return what its report says of the layers."""
        if watch is None:
            return {}
        rounds = watch.finish(recall(site, instruction, STORED) or {})
        if not rounds:
            return {}
        remember(site, instruction, STORED, maps_of(rounds))
        if self.settings.maps is not None:
            number = instruction.binding.round_number
            write_maps(self.settings.maps, site.site_id, number, rounds)
        figures = figures_of(rounds)
        return {"cme": figures} if figures else {}

    def _validated(self, data: PatientDataset | None) -> dict[str, Any]:
        """Return what the report says of the validation patients; nothing without any."""
        if data is None or len(data) == 0:
            return {}
        loss, _ = self._examine(data)
        if not math.isfinite(loss):
            return {}
        return {"validation": {"loss": loss, "num_examples": len(data)}}

    def _correction(self, site: Site, instruction: Instruction) -> Correction | None:
        """Return what the strategy adds to the gradient."""
        received = instruction.vectors[PARAMETERS]
        if mu := instruction.options.get(PROXIMAL_MU):
            return fedprox(self.shared, received, mu=float(mu))
        if CONTROL in instruction.vectors:
            own = self._site_control(site, instruction)
            return scaffold(self.shared, instruction.vectors[CONTROL], own)
        return None

    def _train_personal(self, site: Site, instruction: Instruction, data: SiteData) -> None:
        """Train the site's personal model of Ditto, and keep it."""
        self._load(site, instruction)
        personal = recall(site, instruction, "personal")
        if personal is not None:
            self._load_named(personal)
        penalty = float(instruction.options[DITTO_LAMBDA])
        pull = ditto(self.shared, instruction.vectors[PARAMETERS], penalty=penalty)
        self._run(site, instruction, data, pull, purpose="personal-batches")
        state = {name: tensor.cpu().numpy() for name, tensor in self.model.state_dict().items()}
        remember(site, instruction, "personal", state)

    def _site_control(self, site: Site, instruction: Instruction) -> Vector:
        """Return c_i, zero before the site's first round."""
        kept = recall(site, instruction, "control")
        if kept is None:
            return np.zeros(self.shared.size, dtype=np.float32)
        vector: Vector = kept["control"]
        return vector

    def _move_control(
        self, site: Site, instruction: Instruction, trained: Vector, num_steps: int
    ) -> Vector:
        """Keep the site's new control variate and return its change.

        c_i+ = c_i - c + (x - y_i) / (K lr): Karimireddy et al. 2020, arXiv:1910.06378,
        Algorithm 1, line 12, option II.
        """
        received = instruction.vectors[PARAMETERS]
        scale = np.float32(1 / (num_steps * self.settings.local.learning_rate))
        change: Vector = (received - trained) * scale - instruction.vectors[CONTROL]
        kept = self._site_control(site, instruction) + change
        remember(site, instruction, "control", {"control": kept})
        return change

    def _load(self, site: Site, instruction: Instruction) -> None:
        """Overwrite the whole model: initial tensors, the site's own, the received ones."""
        if self._initial:
            self._load_named(self._initial)
            local = recall(site, instruction, "local")
            if local is not None:
                self._load_named(local)
        self.shared.load(self.model, instruction.vectors[PARAMETERS])

    def _load_named(self, tensors: Mapping[str, Tensor | np.ndarray[Any, Any]]) -> None:
        state = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in tensors.items():
                state[name].copy_(torch.as_tensor(tensor))

    def _keep_local(self, site: Site, instruction: Instruction) -> None:
        if self._initial:
            state = self.model.state_dict()
            kept = {name: state[name].cpu().numpy() for name in self._initial}
            remember(site, instruction, "local", kept)

    def _examine(self, data: PatientDataset) -> tuple[float, Kept]:
        """Return the model's mean loss over all rows, and what figures need of each."""
        self.model.eval()
        rows = data.all_rows()
        at_once = self.task.rows_per_pass
        losses: list[Tensor] = []
        kept: list[Kept] = []
        with torch.no_grad():
            for place in range(0, len(rows["patient_id"]), at_once):
                batch = {key: column[place : place + at_once] for key, column in rows.items()}
                outputs = self.execution.forward(self.model, batch)
                losses.append(self.task.loss_per_sample(outputs, batch).cpu())
                found = self.task.condense(outputs, batch)
                kept.append({key: value.cpu() for key, value in found.items()})
        whole = {key: torch.cat([part[key] for part in kept]) for key in kept[0]}
        return float(torch.cat(losses).mean()), whole

    def _seeded_dropout(
        self, site: str, round_number: int, purpose: str
    ) -> AbstractContextManager[None]:
        if not self._drops_out:
            return nullcontext()
        seed = seed_for(
            self.settings.seed,
            purpose=f"dropout-{purpose}",
            site=site,
            round_number=round_number,
        )
        return seeded_global_torch(seed)


def _private_training(
    settings: TrainerSettings, account: Account | None, num_parameters: int
) -> PrivateTraining | None:
    """Return how the run trains privately; None: it does not.

    Raises:
        ConfigError: the rounds are not known, or a key does not go with it.
    """
    if settings.privacy is None:
        return None
    if settings.rounds is None:
        raise ConfigError("rounds: how much noise a budget needs follows from them")
    return PrivateTraining(
        settings.privacy,
        settings.local,
        rounds=settings.rounds,
        seed=settings.seed,
        num_parameters=num_parameters,
        evaluate_every=settings.evaluate_every,
        account=account,
    )
