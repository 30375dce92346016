"""What fixes one federated training: the same at the coordinator, at every site, and simulated.

Three kinds share all of the code: `federated` is the run itself; the baseline `local` shares no
tensor, so that every site trains alone; the baseline `pooled` has one site that holds all rows,
and exists in simulations only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from torch import Tensor, nn

from fedward.common.config.run import RunConfig, StrategyConfig
from fedward.common.errors import ConfigError
from fedward.common.models.low_rank import adapt, base_hash, check_base, merge
from fedward.common.origin import COUNTABLE, PLAIN, Origin
from fedward.common.parameters import ParameterSet, shared_set
from fedward.common.randomness import seed_for, seeded_global_torch
from fedward.common.tables.schema import TableSchema
from fedward.common.task import Split, Task
from fedward.common.tasks import build_task
from fedward.common.vectors import Vector
from fedward.common.weights import load_weights

Kind = Literal["federated", "local", "pooled"]


@dataclass(frozen=True)
class Study:
    """A run, or one of its baselines; picklable, so that worker processes build the same one.

    Args:
        config: the run.
        kind: the run itself, or a baseline.
        split: which patients are test patients; its seed is the repetition's.
        base_dir: folder of the configuration file; relative paths start there.
    """

    config: RunConfig
    kind: Kind
    split: Split
    base_dir: Path = Path()
    schema: TableSchema | None = None
    """What the columns mean; None: the schema that the configuration names."""
    own_models: bool = True
    """Whether a model may be an importable class of the user's."""
    label: str = ""
    """Tells two deployed runs of the same configuration apart."""
    weights: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)
    """The network to start from, where it is at hand rather than in `model.init`."""

    @property
    def seed(self) -> int:
        """The repetition's seed."""
        return self.split.seed

    @property
    def run_key(self) -> str:
        """Names this training in messages and in the sites' databases."""
        fold = "" if self.split.fold is None else f"-fold{self.split.fold}"
        label = f"-{self.label}" if self.label else ""
        return f"{self.config.name}-{self.kind}-seed{self.seed}{fold}{label}"

    @property
    def strategy(self) -> StrategyConfig:
        """How updates are put together: in a baseline, plainly."""
        return self.config.strategy if self.kind == "federated" else StrategyConfig(name="fedavg")

    def at(self, site: str) -> Self:
        """Return the study as one site trains it: with the network that the run gives to it."""
        config = self.config
        model = (config.models or {}).get(site, config.model)
        return replace(self, config=config.model_copy(update={"model": model, "models": None}))

    def check_shared(self, sites: Iterable[str]) -> None:
        """Return if the networks of the sites have the shared tensors in common.

        Raises:
            ConfigError: they differ; names which, and at which site.
        """
        if self.config.models is None or self.kind == "local":
            return
        unknown = sorted(set(self.config.models) - set(sites))
        if unknown:
            raise ConfigError(
                f"models.{unknown[0]}: there is no such site; the sites are "
                f"{', '.join(sorted(sites))}"
            )
        here = self.initial[0]
        for site in self.config.models:
            try:
                there = self.at(site).initial[0]
            except ConfigError as error:
                raise ConfigError(f"models.{site}: {error}") from error
            if there.manifest_hash != here.manifest_hash:
                raise ConfigError(f"models.{site}: {_differences(there, here)}")

    @cached_property
    def origin(self) -> Origin:
        """Which runs trained the network that this one starts from; none: nobody knows, or anew.

        Raises:
            ConfigError: the configuration says something else than the header of the file.
        """
        model = self.config.model
        given = Origin.of_pairs(model.trained_in)
        found = Origin() if model.init is None else Origin.of_file(self.base_dir / model.init)
        if given.runs and found.runs and given != found:
            raise ConfigError(
                f"model.trained_in: by its header {model.init} was trained in "
                f"{', '.join(run.run_key for run in found.runs)}; it is another file than the one "
                "that was meant"
            )
        return given if given.runs else found

    @property
    def made(self) -> Origin:
        """Which runs have trained what this study makes."""
        privacy = self.config.privacy
        return self.origin.then(self.run_key, PLAIN if privacy is None else privacy.mode)

    def check_origin(self) -> None:
        """Return if what earlier runs cost their patients can be counted together with this one.

        Raises:
            ConfigError: it cannot.
        """
        privacy = self.config.privacy
        if privacy is None or not privacy.is_on or not self.origin.private_runs:
            return
        earlier = self.origin.uncountable
        if privacy.protects_sites:
            earlier = next(run for run in self.origin.runs if run.privacy_mode != PLAIN)
        if earlier is not None:
            raise ConfigError(
                f"model.init: run {earlier.run_key} trained it under privacy.mode: "
                f"{earlier.privacy_mode}, whose price cannot be counted on under "
                f"{privacy.mode}: only dp-sgd goes on, after {' or '.join(sorted(COUNTABLE))}"
            )

    def check_modalities(self, lacking: Iterable[frozenset[str]]) -> None:
        """Return if each modality that the network looks at is at some site.

        Args:
            lacking: what no row of a site has, of every site.

        Raises:
            ConfigError: nobody has one of them; says which.
        """
        sites = list(lacking)
        nobody = sorted(self.task.modalities.intersection(*sites)) if sites else []
        if not nobody:
            return
        rest = sorted(self.task.modalities - {*nobody})
        do = f"set data.modalities: [{', '.join(rest)}]" if rest else "there is nothing to learn"
        raise ConfigError(
            f"data.modalities: {self.config.model.name} looks at {' and '.join(nobody)}, which no "
            f"row of any of the {len(sites)} sites that take part has; {do}"
        )

    @cached_property
    def task(self) -> Task:
        """The task, from the configuration."""
        return build_task(
            self.config, self.base_dir, schema=self.schema, own_models=self.own_models
        )

    @cached_property
    def statistics_are_shared(self) -> bool:
        """Whether preprocessing uses sums over all sites. A site alone has only its own."""
        if self.kind == "local" or self.config.data.statistics == "schema":
            return False
        return self.kind == "pooled" or self.config.data.statistics == "federated"

    @property
    def is_accounted(self) -> bool:
        """Whether each round costs a site's patients some of their budget, kept by the site."""
        privacy = self.config.privacy
        # In the mode `local` a baseline lets nothing out that would need noise.
        is_local = privacy is not None and privacy.mode == "local" and self.kind == "federated"
        return self.config.is_private or is_local

    @cached_property
    def initial(self) -> tuple[ParameterSet, Vector]:
        """What travels, and its values before round 1."""
        model = self.new_model()
        shared = self.shared_of(model)
        return shared, shared.flatten(model.state_dict())

    def new_model(self) -> nn.Module:
        """Return the model as every party initialises it: the same seed, the same bits."""
        with seeded_global_torch(seed_for(self.seed, purpose="model")):
            model = self.task.build_model()
        if self.config.model.init is not None:
            load_weights(model, self.base_dir / self.config.model.init)
        if self.weights is not None:
            model.load_state_dict(dict(self.weights))
        if self.config.model.lora is not None:
            check_base(model, self.config.model.lora)
            with seeded_global_torch(seed_for(self.seed, purpose="adapters")):
                adapt(model, self.config.model.lora)
        return model

    def finished(self, vector: Vector) -> nn.Module:
        """Return the network with the trained values, adapters folded into their layers.

        Args:
            vector: of `initial`'s form, after training.
        """
        model = self.new_model()
        self.shared_of(model).load(model, vector)
        return model if self.config.model.lora is None else merge(model)

    def shared_of(self, model: nn.Module) -> ParameterSet:
        """Return the tensors that travel; none in the `local` baseline."""
        if self.kind == "local":
            return ParameterSet.of(model, ())
        if self.config.model.lora is not None:
            trained = [name for name, p in model.named_parameters() if p.requires_grad]
            return replace(ParameterSet.of(model, trained), base=base_hash(model))
        patterns = self.config.shared if self.kind == "federated" else ("*",)
        return shared_set(model, patterns, strategy=self.strategy.name)


def _differences(there: ParameterSet, here: ParameterSet) -> str:
    """Return in words what two sets of shared tensors do not have in common."""
    own, others = (
        dict(zip(there.names, there.shapes, strict=True)),
        dict(zip(here.names, here.shapes, strict=True)),
    )
    told = [f"{name} is not in it" for name in others if name not in own]
    told += [f"{name} is not in `model`" for name in own if name not in others]
    told += [
        f"{name} has the shape {own[name]}, in `model` {others[name]}"
        for name in own
        if name in others and own[name] != others[name]
    ]
    if not told:
        told = ["what is shared is the same, in another order or on another base"]
    more = f", and {len(told) - 3} more" if len(told) > 3 else ""
    return f"shared: {'; '.join(told[:3])}{more}; the sites can share only what all of them have"
