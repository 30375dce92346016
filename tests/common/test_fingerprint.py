"""The federated fingerprint, and nnU-Net's plan from it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fedward.client.suppression import suppress_sums
from fedward.common.errors import ConfigError, NoPatientsError
from fedward.common.images.fingerprint import (
    FINGERPRINT_SIZE,
    TRIPLE,
    Case,
    Fingerprint,
    Vector,
    cases_of_rows,
    local_fingerprint,
)
from fedward.common.images.plan import GIB, Plan, num_activations, plan_of
from fedward.common.images.topology import Topology
from fedward.common.models.image_form import ImageForm
from fedward.common.randomness import numpy_generator

CT = (5.0, 0.8, 0.8)


def patient_cells(vector: Vector) -> npt.NDArray[np.int64]:
    """Return where the counts of patients are: their number, then the first of each triple."""
    return np.concatenate([[0], np.arange(1, len(vector), TRIPLE)])


def cases(num_patients: int, *, seed: int, prefix: str = "p") -> Iterator[Case]:
    """Yield scans of 5 x 0.8 x 0.8 mm, give or take; every third patient has two."""
    rng = numpy_generator(seed, purpose="scans")
    for number in range(num_patients):
        for _ in range(1 + (number % 3 == 0)):
            size = (int(rng.integers(90, 110)), 512, 512)
            in_plane = float(rng.choice([0.7, 0.8, 0.9]))
            spacing_mm = (5.0, in_plane, in_plane)
            voxels = rng.normal(100, 40, int(rng.integers(50, 400))).astype(np.int16)
            yield Case(f"{prefix}{number}", size, spacing_mm, voxels)


def made_up(
    size: tuple[float, ...], spacing_mm: tuple[float, ...] | None, num_patients: int = 100
) -> Fingerprint:
    return Fingerprint(num_patients, size, spacing_mm, spacing_mm, None)


def test_the_vectors_of_two_sites_add_up_to_that_of_both_to_the_last_bit() -> None:
    one = list(cases(23, seed=1))
    other = list(cases(31, seed=2, prefix="q"))
    together = local_fingerprint([*other, *one])
    added = local_fingerprint(one) + local_fingerprint(other)
    assert added.shape == (FINGERPRINT_SIZE,)
    assert (added == together).all()


def test_an_empty_site_adds_nothing() -> None:
    assert not local_fingerprint([]).any()
    assert local_fingerprint([]).shape == (FINGERPRINT_SIZE,)


def test_medians_and_percentiles_are_those_of_the_values_themselves() -> None:
    rng = numpy_generator(3, purpose="values")
    voxels = [rng.normal(400, 150, 2000).clip(-1024, 3071).astype(np.int16) for _ in range(40)]
    sizes = [(int(rng.integers(80, 130)), 512, 512) for _ in voxels]
    spacing = [(float(rng.choice([1.0, 5.0], p=[0.3, 0.7])), 0.5, 0.5) for _ in voxels]
    found = Fingerprint.of(
        local_fingerprint(
            Case(number, *facts)
            for number, facts in enumerate(zip(sizes, spacing, voxels, strict=True))
        )
    )
    assert found.num_patients == 40
    bin_width = 2 ** (1 / 8)  # half a bin either way
    assert found.size[0] == pytest.approx(np.median([s[0] for s in sizes]), rel=bin_width - 1)
    assert found.size[1:] == (512.0, 512.0)
    assert found.spacing_mm is not None
    assert found.spacing_mm[0] == pytest.approx(5.0, rel=bin_width - 1)
    assert found.spacing_mm[1:] == (0.5, 0.5)
    assert found.fine_spacing_mm is not None
    assert found.fine_spacing_mm[0] == 1.0
    pooled = np.concatenate(voxels).astype(float)
    assert found.intensity is not None
    assert found.intensity.low == pytest.approx(np.percentile(pooled, 0.5), abs=8)
    assert found.intensity.high == pytest.approx(np.percentile(pooled, 99.5), abs=8)


def test_a_patient_counts_once_however_many_scans_and_voxels() -> None:
    large = [Case("a", (64, 64, 64), (1.0, 1.0, 1.0), np.full(5000, 800)) for _ in range(7)]
    small = [Case(name, (32, 32, 32), (2.0, 2.0, 2.0), np.full(10, 0)) for name in "bc"]
    vector = local_fingerprint([*large, *small])
    found = Fingerprint.of(vector)
    assert vector[patient_cells(vector)].max() == vector[0] == 3
    assert found.size == (32.0, 32.0, 32.0)
    assert found.intensity is not None
    # One patient in three has the bright voxels, so a third of the shares is there.
    assert found.intensity.low == pytest.approx(0, abs=8)
    assert found.intensity.high == pytest.approx(800, abs=8)
    assert vector[2::TRIPLE].tolist().count(1.0) == 1


def test_patient_cells_are_counts_and_the_gate_withholds_what_hangs_on_small_ones() -> None:
    vector = local_fingerprint(cases(60, seed=4))
    cells = patient_cells(vector)
    assert (vector[cells] == np.round(vector[cells])).all()
    assert vector[cells].max() <= vector[0]
    cleared, withheld = suppress_sums(vector, 10)
    small = (vector[cells[1:]] > 0) & (vector[cells[1:]] < 10)
    assert withheld == small.sum() > 0
    rest = np.delete(cleared, cells).reshape(-1, 2)
    assert not rest[small].any()
    assert not (rest[vector[cells[1:]] == 0]).any()  # nothing leaves without a count
    before, after = Fingerprint.of(vector), Fingerprint.of(cleared)
    assert after.intensity is not None
    assert before.intensity is not None
    assert after.intensity.low == pytest.approx(before.intensity.low, abs=40)
    assert after.intensity.high == pytest.approx(before.intensity.high, abs=40)
    assert after.size[1:] == before.size[1:]
    # An axis is never lost quietly.
    with pytest.raises(NoPatientsError, match="each size"):
        Fingerprint.of(suppress_sums(vector, 35)[0])


def test_nothing_but_histograms_tells_of_a_patient_s_voxels() -> None:
    rng = numpy_generator(5, purpose="voxels")
    voxels = rng.integers(-200, 900, 300)
    one = local_fingerprint([Case("a", (40, 64, 64), CT, voxels)])
    shuffled = local_fingerprint([Case("z", (40, 64, 64), CT, rng.permutation(voxels))])
    assert (one == shuffled).all()


def test_slices_have_two_axes_and_unknown_spacing_is_said_to_be_unknown() -> None:
    nowhere = np.zeros(0, dtype=np.uint8)
    found = Fingerprint.of(
        local_fingerprint(Case(number, (256, 512), None, nowhere) for number in range(3)),
        num_axes=2,
    )
    assert found.size == (256.0, 512.0)
    assert found.spacing_mm is None
    assert found.intensity is None
    unknown = (float("nan"),) * 2
    assert Fingerprint.of(
        local_fingerprint([Case(0, (256, 512), unknown, nowhere)]), num_axes=2
    ) == Fingerprint.of(local_fingerprint([Case(0, (256, 512), None, nowhere)]), num_axes=2)


def test_rows_of_a_table_are_cases_but_for_those_without_an_image() -> None:
    rng = numpy_generator(8, purpose="rows")
    arrays: dict[str, Any] = {
        "image": rng.integers(-100, 900, (4, 8, 16, 16)).astype(np.int16),
        "mask": (rng.random((4, 8, 16, 16)) < 0.1).astype(np.uint8),
        "spacing_mm": np.full((4, 3), 0.5, dtype=np.float32),
        "has.image": np.array([True, True, False, True]),
        "has.mask": np.array([True, False, False, True]),
    }
    arrays["spacing_mm"][3] = np.nan
    found = list(cases_of_rows(arrays, np.array([7, 7, 8, 9])))
    assert [case.patient for case in found] == [7, 7, 9]
    assert [case.spacing_mm for case in found] == [(0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None]
    assert (found[0].foreground == arrays["image"][0][arrays["mask"][0] == 1]).all()
    assert not len(found[1].foreground)
    assert local_fingerprint(found)[0] == 2


def test_without_a_single_cell_there_is_no_fingerprint() -> None:
    with pytest.raises(NoPatientsError, match="too few of a site"):
        Fingerprint.of(np.zeros(FINGERPRINT_SIZE))


@pytest.mark.parametrize(
    ("size", "spacing_mm", "strides", "kernels"),
    [
        # By hand after nnU-Net's rule: 128 is halved while 8 or more are left.
        ((128, 128, 128), (1.0, 1.0, 1.0), [(1, 1, 1)] + [(2, 2, 2)] * 5, [(3, 3, 3)] * 6),
        # 5 mm slices of 0.8 mm: the plane alone until its voxels are 3.2 mm.
        (
            (16, 256, 256),
            CT,
            [(1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)],
            [(1, 3, 3), (1, 3, 3)] + [(3, 3, 3)] * 5,
        ),
        ((64, 32), (1.0, 1.0), [(1, 1)] + [(2, 2)] * 3, [(3, 3)] * 4),
    ],
)
def test_the_topology_is_nnunet_s(
    size: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    strides: list[tuple[int, ...]],
    kernels: list[tuple[int, ...]],
) -> None:
    found = Topology.of(size, spacing_mm)
    assert list(found.strides) == strides
    assert list(found.kernels) == kernels


def test_even_scans_give_the_published_patch_and_batch() -> None:
    # Isensee et al. 2021: 128 x 128 x 128 and a batch of 2 is what 8 GB hold at full resolution.
    plan = plan_of(made_up((300.0, 300.0, 300.0), (1.0, 1.0, 1.0)))
    assert plan.size == (128, 128, 128)
    assert plan.batch_size == 2
    assert len(plan.topology.kernels) == 6
    assert plan.deep_supervision == 3


def test_thick_slices_give_flat_patches() -> None:
    plan = plan_of(made_up((90.0, 512.0, 512.0), CT))
    assert plan.spacing_mm == CT  # not thinner: 90 slices are not few beside 512 / 3
    assert plan.size[0] * 2 < plan.size[1]
    few = plan_of(Fingerprint(100, (30.0, 512.0, 512.0), CT, (2.0, 0.8, 0.8), None))
    assert few.spacing_mm == (2.0, 0.8, 0.8)


def test_a_patch_is_no_larger_than_the_scans_and_fits_into_memory() -> None:
    small = plan_of(made_up((48.0, 48.0, 48.0), (1.0, 1.0, 1.0)))
    assert small.size == (48, 48, 48)
    assert small.batch_size > 2
    sizes = []
    for memory in (2, 4, 8, 24):
        plan = plan_of(made_up((300.0, 300.0, 300.0), (1.0, 1.0, 1.0)), memory_bytes=memory * GIB)
        sizes.append(int(np.prod(plan.size)))
        assert num_activations(plan.size, plan.topology) <= 560e6 * memory / 8
        assert plan.size == plan.topology.fitted(plan.size)
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    with pytest.raises(ConfigError, match=r"memory_bytes|too small"):
        plan_of(made_up((300.0, 300.0, 300.0), (1.0, 1.0, 1.0)), memory_bytes=1e4)


def test_few_patients_keep_the_batch_small() -> None:
    def batch(num_patients: int) -> int:
        return plan_of(made_up((48.0, 48.0, 48.0), (1.0,) * 3, num_patients)).batch_size

    assert batch(10) == 2
    assert batch(200) == 10  # 5 % of 200 scans of one patch each


def test_the_plan_of_two_sites_builds_the_network_and_the_configuration() -> None:
    from fedward.common.config.image import ImageConfig
    from fedward.common.models.image_models import build_image_model

    vector = local_fingerprint(cases(20, seed=6)) + local_fingerprint(cases(20, seed=7))
    plan = plan_of(Fingerprint.of(vector), memory_bytes=GIB / 4)
    assert isinstance(plan, Plan)
    keys = plan.as_config()
    image = ImageConfig(rows="volume", **keys["data"]["image"])
    assert image.size == plan.size
    assert image.window[0] < 100 < image.window[1]
    model = {key: value for key, value in keys["model"].items() if key != "name"}
    build_image_model(keys["model"]["name"], ImageForm(plan.size, 1, 0), {**model, "filters": 2})
    assert keys["local"]["batch_size"] >= 2
