"""How a network is run while it is trained: in parts, in which precision, laid out, compiled.

None of it changes what is learned beyond rounding. Where every key is left out, training runs as
if this module did not exist.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal, Self

import torch
from torch import Tensor, nn

from fedward.common.config.run import LocalConfig
from fedward.common.errors import ConfigError
from fedward.common.task import Batch, Outputs

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
_log = logging.getLogger("fedward.training")


@dataclass(frozen=True)
class Execution:
    """The keys of `local` that are about speed and memory; the defaults change nothing."""

    rows_at_once: int | None = None
    """Most rows that go through the network at once; None: all of a batch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: mixed precision on a GPU, float32 elsewhere."""
    channels_last: bool = False
    """Whether images and convolutions lie in memory with the channel last."""
    compile: bool = False
    """Whether `torch.compile` makes the network's kernels."""

    @classmethod
    def of(cls, local: LocalConfig) -> Self:
        """Return what the `local` section of a run asks for."""
        return cls(local.rows_at_once, local.precision, local.channels_last, local.compile)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is asked for."""
        return self == Execution()

    def prepare(self, model: nn.Module) -> None:
        """Lay out and compile `model` in place, once; its `state_dict` keeps names and values.

        Compiled is what `model(batch)` runs. The work is done at the first batch.
        """
        if self.channels_last:
            _lay_out(model)
        if self.compile:
            with _explained():
                _import_quietly()
                # The method, not the function: a wrapper would put `_orig_mod.` before each name.
                model.compile()

    def forward(self, model: nn.Module, batch: Batch) -> Outputs:
        """Return the model's outputs for a batch, in float32 where they are floating-point.

        Raises:
            ConfigError: the network cannot be compiled.
        """
        if self.channels_last:
            batch = {name: _last(rows) if name == "image" else rows for name, rows in batch.items()}
        with self.explained(), self._autocast(batch):
            outputs = model(batch)
        # Losses and figures are sums over voxels and rows: bfloat16 has 8 bits for them.
        return _float32(outputs) if self.precision == "bfloat16" else outputs

    def parts(self, batch: Batch) -> Sequence[Batch]:
        """Return the batch in parts of at most `rows_at_once` rows, in order."""
        num_rows = len(batch["patient_id"])
        size = self.rows_at_once
        if size is None or num_rows <= size:
            return [batch]
        return [
            {name: rows[place : place + size] for name, rows in batch.items()}
            for place in range(0, num_rows, size)
        ]

    def explained(self) -> AbstractContextManager[None]:
        """Return a context in which a failure to compile is a ConfigError.

        The backward pass is compiled as well, when it is first run: it belongs in here too.
        """
        return _explained() if self.compile else nullcontext()

    def _autocast(self, batch: Batch) -> AbstractContextManager[object]:
        if self.precision != "bfloat16":
            return nullcontext()
        if batch["patient_id"].device.type != "cuda":
            _note_float32()
            return nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16)


def _lay_out(model: nn.Module) -> None:
    """Lay the kernels of convolutions out with the channel last.

    Other tensors of as many axes are left alone: `nn.Module.to` would turn them as well, and
    refuses models that have layers of two and of three dimensions.
    """
    for module in model.modules():
        if isinstance(module, _CONVOLUTIONS):
            module.weight.data = _last(module.weight.data)


def _last(tensor: Tensor) -> Tensor:
    layout = _LAYOUTS.get(tensor.ndim)
    return tensor if layout is None else tensor.contiguous(memory_format=layout)


def _float32(outputs: Outputs) -> Outputs:
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    return {name: _float32(output) for name, output in outputs.items()}


def _import_quietly() -> None:
    """Import the part of torch's compiler that warns of torch's own use of an old function."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
        importlib.import_module("torch.utils.mkldnn")


@cache  # said once by a process, not at every step
def _note_float32() -> None:
    _log.warning(
        "local.precision: bfloat16 is used on a GPU only; this site trains in float32, which is "
        "quicker on a CPU"
    )


@contextmanager
def _explained() -> Iterator[None]:
    from torch._dynamo.exc import TorchDynamoException  # importing it takes 1.4 s

    try:
        yield
    except TorchDynamoException as error:
        first_line = next(iter(str(error).strip().splitlines()), "no reason given")
        raise ConfigError(
            "local.compile: torch.compile cannot compile this network on this machine "
            f"({first_line}); leave the key out"
        ) from error
