"""Scans and tables that are wrong in every way at once: a run goes on, and the site can see why.

What is wrong with single files or rows is tested in test_ct_volumes*.py and test_ct_cohort.py.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import FileDataset
from safetensors.numpy import load_file

from fedward.client.check_data import check_data
from fedward.client.data.ct_source import CtSource
from fedward.client.data.quarantine import read_quarantine
from fedward.client.findings import Finding
from fedward.client.retention import tidy_scans
from fedward.common.config.image import ImageConfig
from fedward.common.config.loader import load_run_config
from fedward.common.config.site import load_site_config
from fedward.common.config.yaml_lines import dump_yaml
from fedward.common.errors import SiteDataError
from fedward.common.tables.table import Table
from fedward.simulations.simulate import simulate
from tests.client.ct_folder import STONES, mask, scan, write_nifti, write_patient, write_table
from tests.client.dicom_files import Geometry, box_contour, write_rtstruct, write_series
from tests.common.ct_rows import config

SMALL = scan()[8:32]
"""(D, H, W) HU, with the large stone in slices 9 to 14."""
IMAGE = ImageConfig(size=(16, 16, 16), window=(-400, 2000), min_lesion_voxels=2)
EVEN = Geometry(spacing_mm=(1.0, 1.0, 1.0))


def dicom_patient(
    folder: Path,
    patient: str,
    *,
    change: Callable[[FileDataset, int], None] | None = None,
    masked: bool = True,
) -> list[Path]:
    """Write a series of DICOM files, and contours round the stone."""
    place = folder / patient
    paths = write_series(
        place, SMALL, EVEN, patient=patient, uid=f"1.2.{len(patient)}.{ord(patient[-1])}",
        change=change,
    )  # fmt: skip
    if masked:
        boxes = [box_contour(EVEN, index, (15, 21), (19, 25)) for index in range(9, 15)]
        write_rtstruct(place / "stone.dcm", {"stone": boxes}, patient=patient)
    return paths


def read(folder: Path) -> tuple[Table, list[str], dict[str, str]]:
    """Return rows, patients and the quarantine list of a folder."""
    source = CtSource("west", folder, STONES, IMAGE, cache=folder.parent / "cache")
    table = source.read()
    return table, source.patient_ids(), quarantine(folder)


def quarantine(folder: Path) -> dict[str, str]:
    return dict(read_quarantine(folder.parent / "cache" / "quarantine.csv"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two sound patients, one of DICOM and one of NIfTI, and three rows."""
    place = tmp_path / "scans"
    dicom_patient(place, "ann")
    write_patient(place, "bob")
    write_table(place, ["ann", "bob", "eve"])
    return place


def test_sound_dicom_with_contours_is_used(folder: Path) -> None:
    table, patients, listed = read(folder)
    assert patients == ["ann", "bob", "eve"]
    assert listed == {}
    assert table.arrays["mask"][0].sum() == 216


def test_a_truncated_slice_is_listed_and_its_scan_is_used(folder: Path) -> None:
    paths = dicom_patient(folder, "eve")
    paths[4].write_bytes(paths[4].read_bytes()[:2000])
    table, _, listed = read(folder)
    assert "truncated" in listed[f"eve/{paths[4].name}"]
    assert table.arrays["has.image"].all()


def test_a_scan_with_too_many_truncated_slices_is_listed_whole(folder: Path) -> None:
    paths = dicom_patient(folder, "eve")
    for path in paths[4:12]:
        path.write_bytes(path.read_bytes()[:2000])
    table, patients, listed = read(folder)
    assert "8 slices are missing" in listed[f"eve/{paths[0].name}"]
    assert patients == ["ann", "bob", "eve"]
    assert table.arrays["has.image"].tolist() == [True, True, True, False]


def test_two_series_mixed_in_one_folder_are_told_apart(folder: Path) -> None:
    dicom_patient(folder, "eve")
    write_series(
        folder / "eve", (SMALL[:12] + 30).astype(np.int16),
        Geometry(spacing_mm=(2.0, 1.0, 1.0)), patient="eve", uid="1.2.99",
    )  # fmt: skip
    table, _, listed = read(folder)
    assert listed == {}
    assert (table.patient_id == 2).sum() == 2
    assert sorted(table.arrays["spacing_mm"][table.patient_id == 2][:, 0]) == [1, 2]
    # Contours that name no series are laid on both, as the frame of reference is the same.
    assert table.arrays["has.mask"].all()


def test_contours_of_another_patient_reach_nobody(folder: Path) -> None:
    boxes = [box_contour(EVEN, index, (15, 21), (19, 25)) for index in range(9, 15)]
    write_rtstruct(folder / "bob" / "of_eve.dcm", {"stone": boxes}, patient="eve")
    _, _, listed = read(folder)
    assert listed == {"bob/of_eve.dcm": "a mask of an image that is not there"}


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [("RescaleIntercept", 0, "1024 too high"), ("RescaleSlope", 0, "RescaleSlope is 0")],
)
def test_a_wrong_rescale_is_listed(folder: Path, keyword: str, value: int, reason: str) -> None:
    dicom_patient(folder, "eve", change=lambda one, _: setattr(one, keyword, value))
    table, _, listed = read(folder)
    of_eve = {why for file, why in listed.items() if file.startswith("eve/")}
    assert len(of_eve) == 1
    assert reason in of_eve.pop()
    assert table.arrays["has.image"].tolist() == [True, True, True, False]


def test_a_mask_of_another_size_is_listed(folder: Path) -> None:
    write_nifti(folder / "eve" / "ct.nii.gz", scan())
    write_nifti(folder / "eve" / "ct_mask.nii.gz", mask()[:, ::2, ::2])
    before = len(read(folder)[0])
    path = folder / "eve" / "ct_mask.nii.gz"
    assert before == 5  # it says where it lies: resampled
    labels = mask()[::2].transpose(2, 1, 0)
    image = nib.Nifti1Image(labels, None)  # type: ignore[no-untyped-call]
    nib.save(image, path)
    table, _, listed = read(folder)
    assert "another size" in listed["eve/ct_mask.nii.gz"]
    assert not table.arrays["has.image"][-1]


def test_all_scans_off_by_1024_end_in_an_error_that_says_so(tmp_path: Path) -> None:
    folder = site(tmp_path, broken=["ann", "bob", "cat"])
    with pytest.raises(SiteDataError, match=r"no scan can be used: .*1024 too high.*quarantine"):
        read(folder)
    found = findings(tmp_path)
    assert found["data.voxels"].status == "fail"
    assert "3 x values are about 1024 too high" in found["data.voxels"].text


def test_one_scan_off_by_1024_is_a_warning(tmp_path: Path) -> None:
    site(tmp_path, broken=["ann"])
    found = findings(tmp_path)
    assert found["data.voxels"].status == "warn"
    assert "of 3 series that were read to try: 1 x" in found["data.voxels"].text


def site(folder: Path, *, broken: list[str]) -> Path:
    """Make a site of three patients with scans and rows, and return its folder of scans."""
    for patient in ("ann", "bob", "cat"):
        write_patient(folder / "scans", patient)
        if patient in broken:
            voxels = (scan() + 1024).astype(np.int16)
            write_nifti(folder / "scans" / patient / "ct.nii.gz", voxels)
    write_table(folder / "scans", ["ann", "bob", "cat"])
    write_schema(folder)
    (folder / "site.yaml").write_text(
        "version: 1\nsite: west\nmin_cohort: 2\nlimits: {epochs: 5}\n"
        "data: {path: scans, format: ct, cache: cache, schema: stones.yaml}\n",
        encoding="utf-8",
    )
    return folder / "scans"


def write_schema(folder: Path) -> None:
    schema = STONES.model_dump(mode="json", exclude_defaults=True)
    (folder / "stones.yaml").write_text(dump_yaml({"version": 1, **schema}), encoding="utf-8")


def findings(folder: Path) -> dict[str, Finding]:
    return {one.name: one for one in check_data(load_site_config(folder / "site.yaml"))}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hand files over")
def test_what_root_reads_belongs_to_whose_folder_it_is(tmp_path: Path) -> None:
    folder = site(tmp_path, broken=[])
    os.chown(tmp_path, 1234, 1234)
    read(folder)
    kept = [tmp_path / "cache", *(tmp_path / "cache").iterdir()]
    assert {path.stat().st_uid for path in kept} == {1234}


def test_scans_leave_the_cache_after_the_agreed_days(tmp_path: Path) -> None:
    folder = site(tmp_path, broken=[])
    text = (tmp_path / "site.yaml").read_text(encoding="utf-8")
    (tmp_path / "site.yaml").write_text(text + "retention_days: 30\n", encoding="utf-8")
    loaded = load_site_config(tmp_path / "site.yaml")
    first = read(folder)[0]
    tidy_scans(loaded)
    rows = list((tmp_path / "cache").glob("*.npz"))
    assert len(rows) == 3
    for path in rows:
        os.utime(path, (0, 0))
    tidy_scans(loaded)
    assert list((tmp_path / "cache").glob("*.npz")) == []
    assert np.array_equal(first.arrays["image"], read(folder)[0].arrays["image"])


def messy(folder: Path) -> None:
    """Write eight sound patients, and one of every kind that is not."""
    sound = [f"p{number}" for number in range(8)]
    for patient in sound:
        write_patient(folder, patient)
    cut = dicom_patient(folder, "cut")
    cut[4].write_bytes(cut[4].read_bytes()[:2000])
    dicom_patient(folder, "slope", change=lambda one, _: setattr(one, "RescaleSlope", 0))
    write_patient(folder, "unmasked", masked=False)
    write_patient(folder, "scan-only")
    write_patient(folder, "background")
    write_nifti(folder / "background" / "ct_mask.nii.gz", 0 * mask())
    write_patient(folder, "shifted")
    write_nifti(folder / "shifted" / "ct.nii.gz", (scan() + 1024).astype(np.int16))
    (folder / "noise.dcm").write_bytes(b"\0" * 128 + b"DICM" + bytes(range(200)))
    write_table(
        folder, [*sound, "cut", "slope", "unmasked", "background", "shifted", "row-1", "row-2"]
    )


@pytest.mark.slow
def test_a_run_goes_on_with_all_that_at_one_site(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDWARD_CACHE_DIR", str(tmp_path / "cache"))
    messy(tmp_path / "west")
    for number in range(8):
        write_patient(tmp_path / "east", f"q{number}", offset=number)
    write_table(tmp_path / "east", [f"q{number}" for number in range(8)])
    for number in range(8):
        write_patient(tmp_path / "scans-only", f"r{number}", offset=number)
    write_table(tmp_path / "scans-only", [])
    (tmp_path / "rows-only").mkdir()
    write_table(tmp_path / "rows-only", [f"s{number}" for number in range(8)])
    write_schema(tmp_path)
    image = IMAGE.model_dump(mode="json")
    files = {name: {"file": name} for name in ("east", "west", "scans-only", "rows-only")}
    data = {"root": ".", "schema": "stones.yaml", "sites": files, "image": image,
            "validation_fraction": 0.2}  # fmt: skip
    run = config().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    run |= {"data": data, "rounds": 1, "engine": {"name": "inprocess"},
            "sampling": {"min_replies": 4}}  # fmt: skip
    (tmp_path / "run.yaml").write_text(dump_yaml({"version": 1, **run}), encoding="utf-8")
    result = simulate(
        load_run_config(tmp_path / "run.yaml").config, base_dir=tmp_path, out=tmp_path / "runs"
    )

    state = load_file(result.folder / "model.safetensors")
    assert all(np.isfinite(values).all() for values in state.values())
    lines = (result.folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["status"] for line in lines} == {"ok"}
    listed = dict(read_quarantine(tmp_path / "cache" / "scans" / "west" / "quarantine.csv"))
    named = {file.split("/")[0] for file in listed}
    assert named == {"cut", "slope", "background", "shifted", "noise.dcm"}
