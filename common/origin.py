"""Which runs trained the weights in a model file, for a later run that starts from it.

Written into the file's own header. What patients have spent is not in it: each site keeps that in
books of its own, where it is found by the names of these runs.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open

KEY = "fedward.trained_in"
BUNDLE_METADATA = Path("configs") / "metadata.json"
PLAIN = "none"
COUNTABLE = frozenset({"dp-sgd", "local"})
"""Privacy modes whose price is in the books of the sites."""


@dataclass(frozen=True)
class TrainedIn:
    """One run that trained a model."""

    run_key: str
    privacy_mode: str
    """As `privacy.mode` of its configuration."""


@dataclass(frozen=True)
class Origin:
    """The runs that trained a model, the last one last; none: nobody knows."""

    runs: tuple[TrainedIn, ...] = ()

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """Return what a model says; no runs where it says nothing, or cannot be read.

        Args:
            path: a `.safetensors` file, or the folder of a MONAI bundle.
        """
        try:
            if path.is_dir():
                text = (path / BUNDLE_METADATA).read_text(encoding="utf-8")
                said = json.loads(text).get("fedward", {})
            else:
                with safe_open(path, framework="numpy") as file:
                    said = file.metadata() or {}
            return cls.of_pairs(json.loads(said.get(KEY, "[]")))
        except (SafetensorError, OSError, ValueError, TypeError, AttributeError):
            return cls()  # whoever loads the weights says what is wrong with the file

    @classmethod
    def of_pairs(cls, pairs: Iterable[tuple[str, str]]) -> Self:
        """Return the origin with these run keys and privacy modes, as `pairs` gave them."""
        return cls(tuple(TrainedIn(str(key), str(mode)) for key, mode in pairs))

    @classmethod
    def of_release(cls, run_key: str, config: Mapping[str, Any]) -> Self:
        """Return the origin of what a run has handed out, from its signed configuration."""
        earlier = config["model"].get("trained_in", ())
        mode = (config.get("privacy") or {}).get("mode", PLAIN)
        return cls.of_pairs([*earlier, (run_key, mode)])

    def header(self) -> dict[str, str]:
        """Return what goes into the header of a model file."""
        return {KEY: json.dumps(self.pairs)}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Run keys and privacy modes, for JSON."""
        return [(run.run_key, run.privacy_mode) for run in self.runs]

    def then(self, run_key: str, privacy_mode: str) -> "Origin":
        """Return the origin of what a run makes of the model."""
        return Origin((*self.runs, TrainedIn(run_key, privacy_mode)))

    @property
    def private_runs(self) -> tuple[str, ...]:
        """Names of those that patients have paid for."""
        return tuple(run.run_key for run in self.runs if run.privacy_mode != PLAIN)

    @property
    def plain_runs(self) -> tuple[str, ...]:
        """Names of those that promised nothing to anybody."""
        return tuple(run.run_key for run in self.runs if run.privacy_mode == PLAIN)

    @property
    def uncountable(self) -> TrainedIn | None:
        """The first private run whose price no site has in its books; None: all have."""
        known = (*COUNTABLE, PLAIN)
        return next((run for run in self.runs if run.privacy_mode not in known), None)
