"""Synthetic cohorts: CT phantoms (`phantom`), and clinical tables in scikit-learn's manner.

>>> from fedward.synth import GaussianCopula
>>> rows = GaussianCopula().fit(X, y).sample(1000, seed=1)  # doctest: +SKIP

A name is imported when it is used, so that phantoms need no pandas, and a copula no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedward.synth.tables.artefact import load, read_header
    from fedward.synth.tables.base import Sampling, Synthesiser
    from fedward.synth.tables.columns import Column, Columns
    from fedward.synth.tables.copula import GaussianCopula
    from fedward.synth.tables.detect import detect
    from fedward.synth.tables.diffusion import TabularDiffusion
    from fedward.synth.tables.gaussian import ClassGaussian
    from fedward.synth.tables.kde import KDE
    from fedward.synth.tables.kde_knn import KDEKNN
    from fedward.synth.tables.methods import method_names, new_synthesiser
    from fedward.synth.tables.schema_text import schema_yaml
    from fedward.synth.tables.smote import SMOTE

_MODULES = {
    "KDE": "tables.kde",
    "KDEKNN": "tables.kde_knn",
    "SMOTE": "tables.smote",
    "ClassGaussian": "tables.gaussian",
    "Column": "tables.columns",
    "Columns": "tables.columns",
    "GaussianCopula": "tables.copula",
    "Sampling": "tables.base",
    "Synthesiser": "tables.base",
    "TabularDiffusion": "tables.diffusion",
    "detect": "tables.detect",
    "load": "tables.artefact",
    "method_names": "tables.methods",
    "new_synthesiser": "tables.methods",
    "read_header": "tables.artefact",
    "schema_yaml": "tables.schema_text",
}
__all__ = [
    "KDE",
    "KDEKNN",
    "SMOTE",
    "ClassGaussian",
    "Column",
    "Columns",
    "GaussianCopula",
    "Sampling",
    "Synthesiser",
    "TabularDiffusion",
    "detect",
    "load",
    "method_names",
    "new_synthesiser",
    "read_header",
    "schema_yaml",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
