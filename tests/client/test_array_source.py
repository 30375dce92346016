"""Images in `.npz` files: columns, masks, spacings and names of sites; the sets that ship."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.data.array_source import ArraySource, read_arrays, table_from_arrays
from fedward.client.data.catalogue import (
    BRAIN_TUMOURS,
    DATA_SETS,
    KIDNEY_STONES,
    NODULES,
    NODULES_3D,
    DataSet,
    fetch,
    resolve_root,
)
from fedward.common.config.image import ImageConfig
from fedward.common.errors import ConfigError, SiteDataError
from fedward.common.tables.schema import TableSchema, load_schema

NODULE = TableSchema.model_validate(
    {
        "version": 1,
        "name": "nodules",
        "patient_id": "subject",
        "label": {"column": "grade", "positive_above": 3},
        "fields": [{"name": "age", "kind": "continuous", "range": [0, 120]}],
        "exclude": ["site", "spacing_mm", "pixel_spacing_mm"],
        "drop": [{"column": "grade", "equals": 3}],
        "min_cohort": 1,
        "image": {"structures": ["nodule"], "lesion": "nodule", "label_of": "row"},
    }
)
SMALL = ImageConfig(size=(4, 6), rows="slice", window=(-1000, 400))


def arrays(**changed: Any) -> dict[str, Any]:
    """Return six images of 8 x 8 pixels; image n is n everywhere, and its mask row n."""
    masks = np.zeros((6, 8, 8), np.uint8)
    masks[np.arange(6), np.arange(6)] = 1
    return {
        "images": np.arange(6, dtype=np.int16)[:, None, None] * np.ones((1, 8, 8), np.int16),
        "masks": np.packbits(masks.reshape(6, -1), axis=1),
        "mask_shape": np.array([6, 8, 8]),
        "subject": np.array(["a", "a", "b", "c", "d", "e"]),
        "grade": np.array([1, 2, 3, 4, 5, 4], np.float32),
        "age": np.array([50, 51, 52, np.nan, 54, 55]),
        "site": np.array([0, 0, 0, 1, 1, 1], np.uint8),
        "site_names": np.array(["GE MEDICAL SYSTEMS", "Philips"]),
        "pixel_spacing_mm": np.full(6, 0.5, np.float32),
        **changed,
    }


def write(folder: Path, **changed: Any) -> Path:
    np.savez_compressed(folder / "set.npz", **arrays(**changed))
    return folder / "set.npz"


def test_rows_have_their_images_masks_labels_and_flags(tmp_path: Path) -> None:
    source = ArraySource("a", write(tmp_path), NODULE)
    table = source.read()

    assert len(table) == 5  # the raters' middle is dropped
    assert table.label.tolist() == [0, 0, 1, 1, 1]
    assert table.patient_id.tolist() == [0, 0, 1, 2, 3]
    assert source.patient_ids() == ["a", "c", "d", "e"]
    assert table.arrays["image"][:, 0, 0].tolist() == [0, 1, 3, 4, 5]
    assert [row.any(axis=1).argmax() for row in table.arrays["mask"]] == [0, 1, 3, 4, 5]
    assert table.arrays["spacing_mm"][0].tolist() == pytest.approx([np.nan, 0.5, 0.5], nan_ok=True)
    assert all(table.arrays[f"has.{name}"].all() for name in ("image", "mask", "table", "label"))
    assert np.isnan(table.columns["age"][2])


def test_part_of_the_frame_finds_its_own_images(tmp_path: Path) -> None:
    frame, stored = read_arrays(write(tmp_path), NODULE)
    assert sorted(set(frame["site"])) == ["GE-MEDICAL-SYSTEMS", "Philips"]
    philips = frame[frame["site"] == "Philips"]
    table = table_from_arrays(philips, stored, NODULE, image=SMALL, place="set")
    assert table.arrays["image"][:, 0, 0].tolist() == [3, 4, 5]
    assert table.arrays["image"].shape == (3, 4, 6)
    assert [row.any(axis=1).argmax() for row in table.arrays["mask"]] == [1, 2, 3]


def test_images_are_resampled_where_the_run_asks_for_a_spacing(tmp_path: Path) -> None:
    image = SMALL.model_copy(update={"spacing_mm": (1.0, 1.0)})
    table = ArraySource("a", write(tmp_path), NODULE, image=image).read()
    assert table.arrays["spacing_mm"][0, 1:].tolist() == [1, 1]
    # 8 pixels of half a millimetre are 4: two columns are air.
    assert (table.arrays["image"][4] == -1000).sum() == 8


def test_excluded_patients_are_never_used(tmp_path: Path) -> None:
    source = ArraySource("a", write(tmp_path), NODULE, excluded=["a"])
    assert source.patient_ids() == ["c", "d", "e"]
    assert source.read().arrays["image"][:, 0, 0].tolist() == [3, 4, 5]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((6, 8, 8))}, "whole numbers"),
        ({"images": np.zeros((6, 8), np.int16)}, "expected images"),
        ({"mask_shape": np.array([6, 8, 9])}, "does not fit"),
        ({"masks": np.zeros((6, 7), np.uint8)}, "does not fit"),
        ({"masks": np.full((6, 8, 8), 2, np.uint8), "mask_shape": np.zeros(0)}, "does not fit"),
        ({"pixel_spacing_mm": np.zeros(6)}, "above 0"),
        ({"age": np.full(6, 2000.0)}, "another unit"),
        ({"surprise": np.zeros(6)}, "does not know: surprise"),
        ({"site": np.array([{}] * 6)}, "cannot be read as arrays"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changed: Any, message: str) -> None:
    with pytest.raises(SiteDataError, match=message):
        ArraySource("a", write(tmp_path, **changed), NODULE).read()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"a,b\n1,2\n"])
def test_a_file_that_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(SiteDataError, match=r"set.npz: (cannot be read as arrays|not an .npz)"):
        ArraySource("a", tmp_path / "set.npz", NODULE).read()


def test_images_of_other_dimensions_than_the_run_wants_are_its_mistake(tmp_path: Path) -> None:
    image = ImageConfig(size=(4, 4, 4), window=(0, 1))
    with pytest.raises(ConfigError, match="images of 2 dimensions"):
        ArraySource("a", write(tmp_path), NODULE, image=image).read()


# Rows, patients and positives as the sets' own descriptions give them.
@pytest.mark.parametrize(
    ("entry", "image", "rows", "patients", "positive"),
    [
        (KIDNEY_STONES, ImageConfig(size=(64, 64), rows="slice", window=(0, 255)), 838, 37, 0),
        (NODULES, ImageConfig(size=(64, 64), rows="slice", window=(-1000, 400)), 2042, 789, 702),
        (NODULES_3D, ImageConfig(size=(48, 48, 48), window=(0, 255)), 93, 93, 67),
        (
            BRAIN_TUMOURS,
            ImageConfig(size=(64, 64), rows="slice", window=(0, 255)),
            3264,
            2870,
            2338,
        ),
    ],
)
def test_a_set_that_ships_with_a_schema_is_read(
    data_dir: Path, entry: DataSet, image: ImageConfig, rows: int, patients: int, positive: int
) -> None:
    (file,) = entry.files
    table = ArraySource(
        "a", data_dir / entry.folder / file, load_schema(entry.name), image=image
    ).read()
    assert len(table) == rows
    assert len(np.unique(table.patient_id)) == patients
    assert (table.label > 0).sum() == positive
    assert table.arrays["image"].shape == (rows, *image.size)


@pytest.mark.parametrize("name", [name for name, entry in DATA_SETS.items() if entry.by_hand])
def test_a_set_that_nobody_may_download_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("FEDWARD_DATA_DIR", str(tmp_path))
    entry = DATA_SETS[name]
    with pytest.raises(ConfigError, match=entry.folder) as fetched:
        fetch(name)
    with pytest.raises(ConfigError, match=entry.folder) as resolved:
        resolve_root(name, tmp_path)
    for caught in (fetched, resolved):
        assert "run: fedward data fetch" not in str(caught.value)
        assert next(iter(entry.files)) in str(caught.value)


def test_an_array_that_claims_more_than_memory_holds_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    header = {"descr": "<i2", "fortran_order": False, "shape": (1 << 50, 8, 8)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)

    with pytest.raises(SiteDataError, match="cannot be read as arrays"):
        ArraySource("a", path, NODULE).read()


def test_a_code_below_zero_is_no_name_of_a_site(tmp_path: Path) -> None:
    codes = np.array([0, 0, 0, 1, 1, -1], np.int8)
    path = write(tmp_path, site=codes, site_names=np.array(["north", "south"]))

    frame, _ = read_arrays(path, NODULE)

    assert frame["site"].tolist() == codes.tolist()
