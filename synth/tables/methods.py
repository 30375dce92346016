"""The methods by name. A method's module is imported when it is used: some need torch, or SDV."""

import inspect
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from fedward.common.errors import ConfigError
from fedward.common.registry import Registry, did_you_mean

if TYPE_CHECKING:
    from fedward.synth.tables.base import Synthesiser


@dataclass(frozen=True)
class Method:
    """Where a synthesiser lives, and what it is."""

    module: str
    """In `fedward.synth.tables`."""
    class_name: str
    about: str
    extra: str = "synth"
    """The extra of fedward that installs what it needs beside the core."""

    def load(self) -> "type[Synthesiser]":
        """Return its class.

        Raises:
            ConfigError: what it needs is not installed.
        """
        try:
            module = import_module(f"fedward.synth.tables.{self.module}")
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{self.class_name} needs {error.name}: pip install 'fedward[{self.extra}]'"
            ) from None
        return cast("type[Synthesiser]", getattr(module, self.class_name))


synthesisers: Registry[Method] = Registry("synthesiser")
_add = synthesisers.register

_add("gaussian-copula")(
    Method("copula", "GaussianCopula", "margins and a correlation per class; the default")
)
_add("dp-gaussian-copula")(
    Method("dp_copula", "DPGaussianCopula", "a copula with differential privacy per patient")
)
_add("class-gaussian")(
    Method("gaussian", "ClassGaussian", "one normal distribution per class; a baseline")
)
_add("kde-knn")(Method("kde_knn", "KDEKNN", "kernel densities that nearest neighbours filter"))
_add("kde")(Method("kde", "KDE", "kernel densities, unfiltered"))
_add("smote")(Method("smote", "SMOTE", "lines between patients; augmentation only, not private"))
_add("diffusion")(
    Method("diffusion", "TabularDiffusion", "diffusion in torch, after TabDDPM's paper")
)
_add("sdv-gaussian-copula")(
    Method("sdv_models", "SDVGaussianCopula", "SDV's; not open source (BUSL-1.1), for comparison")
)
_add("sdv-ctgan")(Method("sdv_models", "SDVCTGAN", "SDV's; not open source (BUSL-1.1)"))
_add("sdv-tvae")(Method("sdv_models", "SDVTVAE", "SDV's; not open source (BUSL-1.1)"))


def method_names() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(synthesisers)


def new_synthesiser(name: str, **parameters: Any) -> "Synthesiser":
    """Return a synthesiser that has learned nothing yet.

    Args:
        name: of the method.
        parameters: of its constructor.

    Raises:
        ConfigError: there is no such method or parameter.
    """
    cls = synthesisers[name].load()
    known = inspect.signature(cls).parameters
    for parameter in parameters:
        if parameter not in known:
            raise ConfigError(
                f"{name}: unknown parameter {parameter!r}{did_you_mean(parameter, known)}; known: "
                f"{', '.join(known)}"
            )
    return cls(**parameters)


def name_of(model: "Synthesiser") -> str | None:
    """Return the name of a synthesiser's method; None for a class that is not listed."""
    cls = type(model)
    for name in synthesisers:
        method = synthesisers[name]
        place = (f"fedward.synth.tables.{method.module}", method.class_name)
        if (cls.__module__, cls.__qualname__) == place:
            return name
    return None
