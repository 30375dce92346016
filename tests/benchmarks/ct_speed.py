"""How fast scans are read, and how fast networks of CT train, with their peak memory.

    python -m tests.benchmarks.ct_speed reading            slices/s, against plain pydicom and numpy
    python -m tests.benchmarks.ct_speed networks           samples/s and MiB, one process each, CPU
    python -m tests.benchmarks.ct_speed networks --device cuda --batch 128

Reading takes turns with the plain loop on the same files; a figure is the median over repetitions
of CPU time. A network's figure is forward, loss and backward of one batch, the median over steps;
on a GPU also under bfloat16, and memory is what torch allocated at most.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedward.client.data.volumes import load_volume, scan_folder
from fedward.client.precision import Execution
from fedward.common.config.image import LossConfig
from fedward.common.images.losses import classification_loss, deep_segmentation_loss
from fedward.common.images.signs import signs_loss
from fedward.common.models.image_form import ImageForm
from fedward.common.models.image_models import build_image_model
from fedward.common.quiet import quiet_third_parties
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch

FIFTEEN = 15
"""Columns of the clinical fields, as in the paper's code: five numbers, and one-hot 2 and 8."""
CUBE_48 = (48, 48, 48)
NETWORKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "uscnet smoke": ("uscnet", (32, 32, 32), {"preset": "smoke"}),
    "uscnet tokens": ("uscnet", CUBE_48, {"preset": "tokens"}),
    "uscnet published": ("uscnet", CUBE_48, {"preset": "published"}),
    "unetr": ("unetr", CUBE_48, {}),
    "basic-unet": ("basic-unet", CUBE_48, {}),
    "seg-resnet": ("seg-resnet", CUBE_48, {}),
    "resnet3d": ("resnet3d", CUBE_48, {}),
    "concat-fusion": ("concat-fusion", CUBE_48, {}),
    "tmss": ("tmss", CUBE_48, {}),
    "resformer small": ("resformer", (64, 64), {"preset": "small"}),
    "resformer published": ("resformer", (224, 224), {}),
    "resformer published, window 8": ("resformer", (512, 512), {"window": 8}),
    "dsmt-net small": ("dsmt-net", CUBE_48, {"preset": "small"}),
    "dsmt-net medium": ("dsmt-net", (96, 96, 96), {"preset": "medium"}),
    "dsmt-net published": ("dsmt-net", (192, 192, 192), {}),
    "cme-resnet small": ("cme-resnet", (64, 64), {"preset": "small"}),
    "cme-resnet published": ("cme-resnet", (64, 64), {}),
    "cme-densenet small": ("cme-densenet", (64, 64), {"preset": "small"}),
    "cme-densenet published": ("cme-densenet", (64, 64), {}),
    "cme-alexnet small": ("cme-alexnet", (64, 64), {"preset": "small"}),
    "cme-alexnet published": ("cme-alexnet", (64, 64), {}),
}
GPU_ONLY = ("resformer published, window 8", "dsmt-net published")
"""Minutes per batch on a CPU."""


class FifteenColumns:
    """Seven fields of the paper in 15 columns."""

    names = ("age", "blood_wbc", "creatinine", "urine_wbc", "urine_ph", "sex", "location")
    starts = (0, 1, 2, 3, 4, 5, 7)
    stops = (1, 2, 3, 4, 5, 7, 15)


def main() -> None:
    """Print one of the two tables, or one network's figures for the parent process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["reading", "networks", "network"])
    parser.add_argument("--name", choices=list(NETWORKS))
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    quiet_third_parties()
    if args.what == "reading":
        reading(args.slices, args.repeat)
    elif args.what == "network":
        print(json.dumps(network(args.name, args.device, args.batch, args.repeat)))
    else:
        networks(args)


def reading(num_slices: int, repeat: int) -> None:
    """Print slices per second of CPU time for each way in which pixels are stored."""
    from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

    from tests.client.dicom_files import body, write_series

    voxels_DHW = body((num_slices, 512, 512))
    voxels_DHW = voxels_DHW + np.random.default_rng(1).integers(-20, 20, voxels_DHW.shape)
    print("| stored | plain slices/s | ours | ratio |\n|---|---|---|---|")
    for name, syntax in (
        ("uncompressed", None),
        ("RLE", RLELossless),
        ("JPEG-LS", JPEGLSLossless),
        ("JPEG 2000", JPEG2000Lossless),
    ):
        with tempfile.TemporaryDirectory() as folder:
            write_series(Path(folder) / "p1", voxels_DHW.astype(np.int16), syntax=syntax)
            plain, ours = _in_turns(Path(folder), repeat)
        print(
            f"| {name} | {num_slices / plain:.0f} | {num_slices / ours:.0f} | {plain / ours:.2f} |"
        )


def _in_turns(folder: Path, repeat: int) -> tuple[float, float]:
    def ours() -> None:
        (series,) = scan_folder(folder).series
        load_volume(series)

    ways: tuple[Callable[[], None], ...] = (lambda: _plain(folder), ours)
    seconds: list[list[float]] = [[], []]
    for _ in range(repeat + 1):
        for place, way in enumerate(ways):
            begun = time.process_time()
            way()
            seconds[place].append(time.process_time() - begun)
    plain, own = (statistics.median(times[1:]) for times in seconds)
    return plain, own


def _plain(folder: Path) -> None:
    from pydicom import dcmread

    slices = [dcmread(path) for path in folder.rglob("*.dcm")]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    np.stack(
        [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
    ).astype(np.int16)


def networks(args: argparse.Namespace) -> None:
    """Print each network's figures, measured in a process of its own."""
    print(f"device {_device_name(args.device)}, batch {args.batch}")
    print("| network | size | parameters | samples/s | bfloat16 | peak MiB | bfloat16 |")
    print("|---|---|---|---|---|---|---|")
    for name in NETWORKS:
        by_default = args.device == "cuda" or name not in GPU_ONLY
        if name not in args.only if args.only else not by_default:
            continue
        command = [sys.executable, "-m", "tests.benchmarks.ct_speed", "network", "--name", name]
        command += ["--device", args.device, "--batch", str(args.batch)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        half = found["bfloat16"] or {"samples": None, "mib": None}
        cells = [f"{found['parameters'] / 1e6:.2f} M", found["float32"]["samples"]]
        cells += [half["samples"], found["float32"]["mib"], half["mib"]]
        shown = " | ".join("-" if c is None else str(c) for c in cells)
        print(f"| {name} | {' x '.join(map(str, found['size']))} | {shown} |", flush=True)


def network(name: str, device: str, batch_size: int, repeat: int) -> dict[str, Any]:
    """Return the figures of one network."""
    registered, size, own = NETWORKS[name]
    form = ImageForm(size, 1, 2, FifteenColumns(), ("lucency", "retraction"))
    with seeded_global_torch(1):
        model = build_image_model(registered, form, own).to(device)
    model.train()
    batch = _batch(form, batch_size, device)
    parameters = sum(p.numel() for p in model.parameters())
    found: dict[str, Any] = {"size": size, "parameters": parameters, "bfloat16": None}
    plain = Execution(channels_last=device == "cuda")
    plain.prepare(model)
    found["float32"] = _measured(model, form, batch, plain, repeat)
    if device == "cuda":
        half = replace(plain, precision="bfloat16")
        found["bfloat16"] = _measured(model, form, batch, half, repeat)
    return found


def _measured(
    model: torch.nn.Module, form: ImageForm, batch: Batch, execution: Execution, repeat: int
) -> dict[str, float]:
    is_gpu = batch["image"].is_cuda
    if is_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeat + 2):
        model.zero_grad()
        begun = time.perf_counter() if is_gpu else time.process_time()
        outputs = execution.forward(model, batch)
        _loss(outputs, batch, form).backward()
        if is_gpu:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if is_gpu else time.process_time()) - begun)
    peak = (
        torch.cuda.max_memory_allocated()
        if is_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    rate = len(batch["label"]) / statistics.median(seconds[2:])
    return {"samples": round(rate, 2), "mib": round(peak / 2**20)}


def _loss(outputs: dict[str, torch.Tensor], batch: Batch, form: ImageForm) -> torch.Tensor:
    total = torch.zeros((), device=batch["image"].device)
    if "mask" in outputs:
        config = LossConfig()
        total = (
            total
            + deep_segmentation_loss(outputs, batch["mask"], form.num_structures, config).mean()
        )
    if "label" in outputs:
        total = total + classification_loss(outputs["label"], batch["label"], LossConfig()).mean()
    if "signs" in outputs:
        total = total + signs_loss(outputs["signs"], batch["signs"]).mean()
    return total


def _batch(form: ImageForm, size: int, device: str) -> Batch:
    rng = torch.Generator().manual_seed(1)
    batch = {
        "image": torch.rand(size, 1, *form.size, generator=rng).half(),
        "mask": (torch.rand(size, *form.size, generator=rng) > 0.99).byte(),
        "features": torch.randn(size, FIFTEEN, generator=rng),
        "label": torch.arange(size) % 2,
        "signs": torch.arange(2 * size).reshape(size, 2) % 3 - 1,
        "patient_id": torch.arange(size),
        **{f"mask.{name}": torch.ones(size, dtype=torch.bool) for name in ("image", "table")},
    }
    return {name: rows.to(device) for name, rows in batch.items()}


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"


if __name__ == "__main__":
    main()
