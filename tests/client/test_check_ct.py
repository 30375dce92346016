"""`fedward check` and `fedward data scan` on folders of scans."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedward.client.check_data import check_data
from fedward.client.data.source import site_source
from fedward.client.findings import Finding
from fedward.common.config.image import ImageConfig
from fedward.common.config.site import LoadedSite, load_site_config
from fedward.common.config.yaml_lines import dump_yaml
from fedward.common.errors import ConfigError
from fedward.common.keys import write_private
from fedward.deploy.cli import main
from tests.client.ct_folder import STONES, mask, scan, write_nifti, write_patient, write_table

SITE = """\
version: 1
site: west
data:
  path: scans
  format: ct
  cache: kept
  schema: stones.yaml
min_cohort: {least}
limits: {{epochs: 5}}
"""
IMAGE = ImageConfig(size=(16, 16, 16), window=(-400, 2000))


def site(folder: Path, *, least: int = 2, **changed: Any) -> LoadedSite:
    schema = STONES.model_copy(update=changed).model_dump(mode="json", exclude_defaults=True)
    (folder / "stones.yaml").write_text(dump_yaml({"version": 1, **schema}), encoding="utf-8")
    (folder / "site.yaml").write_text(SITE.format(least=least), encoding="utf-8")
    return load_site_config(folder / "site.yaml")


def found(loaded: LoadedSite) -> dict[str, Finding]:
    return {one.name: one for one in check_data(loaded)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a site's folder: four patients with scans and rows, one with a row only."""
    names = ["ann", "bob", "cat", "dan"]
    for name in names:
        write_patient(tmp_path / "scans", name, masked=name != "dan")
    write_table(tmp_path / "scans", [*names, "eve"])
    return tmp_path


def test_a_folder_of_scans_is_looked_at_with_its_table(folder: Path) -> None:
    findings = found(site(folder))
    assert {name: one.status for name, one in findings.items()} == {
        "data.values": "ok",
        "data.columns": "ok",
        "data.labels": "ok",
        "data.scans": "ok",
        "data.masks": "warn",
        "data.join": "ok",
        "data.patients": "ok",
        "data.voxels": "ok",
    }
    assert findings["data.masks"].text == "series with a mask: 3 of 4"
    assert findings["data.patients"].text == "5 patients"
    assert not (folder / "kept").exists()


def test_small_cells_of_the_join_are_not_shown(folder: Path) -> None:
    text = found(site(folder, least=3))["data.join"].text
    assert text == ("patients with scan and table: 4; scan only: 0; table only: fewer than 3")


def test_all_that_is_wrong_with_a_table_is_said_at_once(folder: Path) -> None:
    frame = write_table(folder / "scans", ["ann", "ann", "cat"])
    frame.assign(age=5000, sex="x").to_csv(folder / "scans" / "patients.csv", index=False)
    texts = [one.text for one in check_data(site(folder)) if one.status == "fail"]
    assert len(texts) == 3
    assert "another unit" in texts[0]
    assert "categories F, M" in texts[1]
    assert "one row per patient" in texts[2]


def test_ids_that_never_meet_are_a_failure(folder: Path) -> None:
    write_table(folder / "scans", ["x1", "x2"])
    assert found(site(folder))["data.join"].status == "fail"


def test_a_file_that_is_not_used_is_counted_by_its_reason(folder: Path) -> None:
    (folder / "scans" / "ann" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM\x02")
    finding = found(site(folder))["data.quarantine"]
    assert finding.status == "warn"
    assert finding.text.startswith("files that are not used: 1 x ")
    assert "ann" not in finding.text


def test_a_folder_without_scans_and_one_that_is_not_there_fail(folder: Path) -> None:
    loaded = site(folder)
    for path in (folder / "scans").rglob("*.nii.gz"):
        path.unlink()
    assert found(loaded)["data.scans"].status == "fail"
    (folder / "scans").rename(folder / "elsewhere")
    assert "no such folder" in found(loaded)["data.scans"].text


def test_a_cache_among_the_scans_fails_before_anything_is_read(folder: Path) -> None:
    loaded = site(folder)
    text = (folder / "site.yaml").read_text(encoding="utf-8")
    (folder / "site.yaml").write_text(text.replace("kept", "scans/kept"), encoding="utf-8")
    assert list(found(load_site_config(loaded.path))) == ["config.cache"]


def test_a_site_reads_its_scans_as_the_run_wants_them(folder: Path) -> None:
    loaded = site(folder)
    source = site_source(loaded, image=IMAGE)
    assert source.read().arrays["image"].shape[1:] == IMAGE.size
    assert source.patient_ids() == ["ann", "bob", "cat", "dan", "eve"]
    assert (folder / "kept" / "quarantine.csv").is_file()
    with pytest.raises(ConfigError, match=r"site.yaml:5: data.format: .*data.image"):
        site_source(loaded)


def test_with_the_sites_salt_the_cache_has_no_key_of_its_own(folder: Path) -> None:
    loaded = site(folder)
    write_private(folder / "id-salt", bytes(range(32)))
    site_source(loaded, image=IMAGE).read()
    assert not (folder / "kept" / "key").exists()


def test_withdrawn_patients_are_excluded_from_scans_and_table(folder: Path) -> None:
    loaded = site(folder)
    (folder / "gone.txt").write_text("ann\neve\n", encoding="utf-8")
    text = (folder / "site.yaml").read_text(encoding="utf-8")
    text = text.replace("  schema:", "  exclude: gone.txt\n  schema:")
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    loaded = load_site_config(loaded.path)
    assert site_source(loaded, image=IMAGE).patient_ids() == ["bob", "cat", "dan"]
    assert "2 ids on the list" in found(loaded)["data.exclude"].text


def test_scan_tells_what_a_folder_holds_and_whether_a_schema_fits(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = site(folder)
    (folder / "scans" / "note.bin").write_bytes(b"no image")
    arguments = ["data", "scan", str(folder / "scans"), "--schema", str(folder / "stones.yaml")]
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)

    assert shown["patients"] == 4
    assert shown["series"] == {"nifti": 4}
    assert shown["masks"] == {"nifti": 3}
    assert [entry["file"] for entry in shown["quarantined"]] == ["note.bin"]
    assert {one["name"] for one in shown["findings"]} >= {"data.scans", "data.join"}

    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "patients: 4" in text
    assert "note.bin: " in text
    assert not any(name in text for name in ("ann", "bob", "cat"))

    write_table(folder / "scans", ["x1"])
    assert main(arguments) == 3
    assert loaded.config.data.format == "ct"


@pytest.mark.slow
def test_a_table_needs_none_of_the_packages_for_scans(tmp_path: Path) -> None:
    code = (
        "import sys, fedward.client.check_data, fedward.client.data.catalogue, "
        "fedward.client.hospital\n"
        "print([n for n in ('pydicom', 'nibabel', 'monai', 'skimage') if n in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert shown.stdout.strip() == "[]"


def test_without_the_packages_the_command_that_installs_them_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = site(folder)
    monkeypatch.setattr("fedward.client.data.source.CT_PACKAGES", ("no_such_package",))
    finding = found(loaded)["config.packages"]
    assert finding.status == "fail"
    assert "pip install 'fedward[ct]'" in finding.text


def test_arrays_are_looked_at_as_a_table_is(tmp_path: Path) -> None:
    import numpy as np

    names = np.array(["ann", "bob", "cat"])
    np.savez(
        tmp_path / "scans.npz", images=np.stack([scan()[20]] * 3), patient=names,
        masks=np.stack([mask()[20]] * 3), age=np.array([40.0, 50, 60]),
        sex=np.array(["F", "M", "F"]), infection=np.array([0, 1, 0]),
    )  # fmt: skip
    loaded = site(tmp_path, least=1)
    text = SITE.format(least=1).replace("format: ct", "format: table")
    text = text.replace("path: scans", "path: scans.npz")
    (tmp_path / "site.yaml").write_text(text, encoding="utf-8")
    loaded = load_site_config(loaded.path)
    assert found(loaded)["data.patients"].text == "3 patients, 3 rows"
    image = ImageConfig(size=(16, 16), rows="slice", window=(0, 1))
    assert site_source(loaded, image=image).read().arrays["image"].shape == (3, 16, 16)


def test_masks_alone_need_neither_label_nor_table(folder: Path) -> None:
    loaded = site(folder, label=None, fields=(), subgroups=(), drop=(), patient_id=None, least=2)
    findings = found(loaded)
    assert set(findings) == {"data.scans", "data.masks", "data.patients", "data.voxels"}
    assert findings["data.patients"].text == "4 patients"
    write_nifti(folder / "scans" / "eve" / "ct.nii.gz", scan())
    assert site_source(loaded, image=IMAGE).patient_ids() == ["ann", "bob", "cat"]
