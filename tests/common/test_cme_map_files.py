"""Files of covariance maps: what comes back, who may read them, and what is damaged."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fedward.common.errors import StorageError
from fedward.common.monitoring.map_files import MAX_ROWS, list_maps, read_maps, write_maps
from fedward.common.monitoring.stream import CmeStream, LayerFigures, LayerRound


def layer_of(num_rows: int, seed: int = 0) -> LayerRound:
    generator = np.random.default_rng(seed)
    stream = CmeStream(generator.standard_normal((num_rows, 9)), name="layer")
    for _ in range(3):
        stream.add(generator.standard_normal((num_rows, 9)))
    return stream.finish()


def test_what_was_written_comes_back_in_the_order_of_the_model(tmp_path: Path) -> None:
    nothing = LayerRound(
        LayerFigures(), np.zeros((2, 2), dtype=np.float32), None, 0, is_sketched=False
    )
    layers = {"z.weight": layer_of(5), "a.weight": layer_of(MAX_ROWS, 1), "m": nothing}
    path = write_maps(tmp_path / "cme", "site-1", 12, layers)
    assert path == tmp_path / "cme" / "site-1" / "round-00012.safetensors"
    found = read_maps(path)
    assert list(found) == list(layers)
    for name, layer in layers.items():
        np.testing.assert_array_equal(found[name].map_PP, layer.map_PP)
        assert found[name].figures == layer.figures
        assert (found[name].acf, found[name].num_snapshots) == (layer.acf, layer.num_snapshots)
        assert found[name].is_sketched == layer.is_sketched


def test_only_its_own_user_can_read_it(tmp_path: Path) -> None:
    path = write_maps(tmp_path / "cme", "site-1", 1, {"w": layer_of(3)})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_a_round_that_is_done_again_replaces_its_file(tmp_path: Path) -> None:
    write_maps(tmp_path, "site-1", 1, {"w": layer_of(3)})
    path = write_maps(tmp_path, "site-1", 1, {"w": layer_of(4)})
    assert len(read_maps(path)["w"].map_PP) == 4
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("num_rows", [MAX_ROWS + 1, 300, 1500])
def test_a_large_map_is_kept_as_means_of_blocks(tmp_path: Path, num_rows: int) -> None:
    layer = layer_of(num_rows)
    path = write_maps(tmp_path, "site-1", 1, {"w": layer})
    found = read_maps(path)["w"]
    assert found.map_PP.shape == (MAX_ROWS, MAX_ROWS)
    assert found.is_sketched == layer.is_sketched == (num_rows == 1500)
    with safe_open(path, "numpy") as file:
        told = json.loads(file.metadata()["layers"])["w"]
    assert told["is_block_mean"] == (num_rows < 1500)
    if num_rows == 300:
        block = layer.map_PP[:2, 2:4]  # rows 0 and 1, 2 and 3; the fourth block has three
        assert found.map_PP[0, 1] == pytest.approx(float(block.mean()), rel=1e-5)
        sizes = np.diff(np.arange(MAX_ROWS + 1) * num_rows // MAX_ROWS)
        sums_BB = found.map_PP * np.outer(sizes, sizes)
        assert sums_BB.sum() == pytest.approx(layer.map_PP.sum(dtype=np.float64), rel=1e-4)


def test_files_are_listed_by_site_and_round(tmp_path: Path) -> None:
    for site, number in (("b", 10), ("b", 9), ("a", 100_000)):
        write_maps(tmp_path, site, number, {"w": layer_of(2)})
    (tmp_path / "b" / ".round-00011.safetensors.0123").touch()
    (tmp_path / "b" / "round-new.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    found = list_maps(tmp_path)
    assert [(site, list(files)) for site, files in found.items()] == [
        ("a", [100_000]),
        ("b", [9, 10]),
    ]
    assert found["b"][9] == tmp_path / "b" / "round-00009.safetensors"
    assert list_maps(tmp_path / "none") == {}


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = write_maps(tmp_path, "site-1", 1, {"w": layer_of(3)})
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(StorageError, match=r"round-00001.safetensors: is damaged"):
        read_maps(path)
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="is damaged"):
        read_maps(path)
    path.write_bytes(content.replace(b"num_snapshots", b"num_snapshotz"))
    with pytest.raises(StorageError, match="is damaged"):
        read_maps(path)
    path.unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        read_maps(path)


@pytest.mark.parametrize(
    ("array", "metadata"),
    [
        (np.zeros((3, 3), dtype=np.float32), None),
        (np.zeros((3, 3), dtype=np.float64), "right"),
        (np.zeros((3, 2), dtype=np.float32), "right"),
        (np.zeros((3, 3), dtype=np.float32), '{"w": {"rho": NaN}}'),
        (np.zeros((3, 3), dtype=np.float32), '{"other": 3}'),
    ],
)
def test_a_file_of_something_else_is_told(
    tmp_path: Path, array: np.ndarray, metadata: str | None
) -> None:
    right = {"num_snapshots": 1, "num_rows": 3, "is_sketched": False, "is_block_mean": False}
    text = json.dumps({"w": right}) if metadata == "right" else metadata
    path = tmp_path / "round-00001.safetensors"
    save_file({"w": array}, path, None if text is None else {"layers": text})
    with pytest.raises(StorageError, match="no file of covariance maps"):
        read_maps(path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_maps(tmp_path / "file", "site-1", 1, {"w": layer_of(2)})


@pytest.mark.parametrize("site", ["", "../else", "a/b", ".."])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, site: str) -> None:
    with pytest.raises(StorageError, match="name of a folder"):
        write_maps(tmp_path / "cme", site, 1, {"w": layer_of(2)})
    assert list(tmp_path.rglob("*.safetensors")) == []
