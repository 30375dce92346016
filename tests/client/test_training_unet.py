"""A network of MONAI, trained twice: the same bits."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedward.client.optimizers import OptimizerSettings
from fedward.client.precision import Execution
from fedward.client.sampling import ShuffleSampler
from fedward.client.training import PlainStep, train_locally
from fedward.common.parameters import ParameterSet
from fedward.common.randomness import seeded_global_torch
from fedward.common.task import Batch
from tests.client.test_training_execution import volumes

networks = pytest.importorskip("monai.networks.nets")
losses = pytest.importorskip("monai.losses")
pytestmark = pytest.mark.slow  # importing MONAI


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = networks.BasicUNet(
            spatial_dims=3, out_channels=2, features=(4, 4, 8, 8, 8, 4), norm="instance"
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        image = nn.functional.interpolate(batch["image"].float(), scale_factor=4)
        return {"mask": nn.functional.avg_pool3d(self.net(image), 4)}


def dice(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
    per_structure: Tensor = losses.DiceLoss(sigmoid=True, reduction="none")(
        outputs["mask"], batch["mask"].float()
    )
    return per_structure.flatten(1).mean(1)


def trained(execution: Execution | None = None) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    with seeded_global_torch(4):
        model = UNet()
    torch.use_deterministic_algorithms(mode=True)
    try:
        result = train_locally(
            model,
            volumes(5),
            step=PlainStep(dice, OptimizerSettings("adamw", 1e-3), execution=execution),
            sampler=ShuffleSampler(2, epochs=2),
            rng=torch.Generator().manual_seed(1),
        )
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert np.isfinite(result.loss)
    return ParameterSet.of(model).flatten(model.state_dict())


def test_two_trainings_of_a_3d_unet_end_with_the_same_bits() -> None:
    first, again = trained(), trained()
    assert first.tobytes() == again.tobytes()


def test_so_do_two_in_parts() -> None:
    in_parts = Execution(rows_at_once=1)
    assert trained(in_parts).tobytes() == trained(in_parts).tobytes()
