"""Pictures of a site's cases: which ones, what is drawn, and that they stay there."""

import argparse
import io
import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image
from torch import nn

from fedward.client.models import Models
from fedward.client.montage import Case, cases, montage
from fedward.common.config.loader import plain_values
from fedward.common.config.run import RunConfig
from fedward.common.config.yaml_lines import dump_yaml
from fedward.common.keys import public_text, write_private
from fedward.common.release import Release, sign_release
from fedward.common.study import Study
from fedward.common.task import Batch, PatientDataset, Split
from fedward.common.tasks.ct import CtTask
from fedward.deploy.commands import model
from fedward.simulations.cli import guarded
from tests.client.clinic_site import make_site, release, study
from tests.client.ct_folder import STONES, write_patient, write_table
from tests.common.ct_rows import SCHEMA, Balls, config

UNET = {"name": "basic-unet", "features": [4, 4, 8, 8, 8, 4], "norm": "group", "class_head": True}
SITE_YAML = """\
version: 1
site: west
data: {path: scans, format: ct, cache: kept, schema: stones.yaml}
min_cohort: 2
limits: {epochs: 5}
"""


class Known(nn.Module):
    """A network whose mask is the truth without its first `lost[row]` voxels."""

    def __init__(self, lost: list[int]) -> None:
        super().__init__()
        self.lost = lost

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        found = batch["mask"] > 0
        for row, number in enumerate(batch["number"].tolist()):
            places = torch.nonzero(found[row].flatten())[: self.lost[number], 0]
            found[row].view(-1)[places] = False
        return {"mask": found.unsqueeze(1).float() - 0.5}


def task_and_rows(num_rows: int, lacks: dict[str, list[int]] | None = None) -> tuple[CtTask, Any]:
    """Return a task and `num_rows` test rows that know their number."""
    run = config()
    task = CtTask(run.task, SCHEMA, run.data, model=run.model, loss=run.loss)
    table = Balls("a", 40, lacks=lacks or {}).read()
    source = Balls("a", 1)
    source._table = table.take(np.arange(len(table)) < 60)
    rows = task.datasets(source, Split(3, 0.5)).test.all_rows()
    rows = {key: values[:num_rows] for key, values in rows.items()}
    return task, rows | {"number": torch.arange(num_rows)}


def found_in(rows: Any, lost: list[int], task: CtTask) -> list[Case]:
    return cases(Known(lost), task, PatientDataset(rows))


def test_the_best_the_median_and_the_worst_case_are_taken() -> None:
    task, rows = task_and_rows(5)
    found = found_in(rows, [30, 0, 20, 40, 10], task)
    assert [case.rank for case in found] == ["best", "median", "worst"]
    sizes = (rows["mask"] > 0).flatten(1).sum(1).numpy()
    lost = np.array([30, 0, 20, 40, 10])
    by_hand = np.sort(2 * (sizes - lost) / (2 * sizes - lost))
    assert [case.dice for case in found] == pytest.approx([by_hand[-1], by_hand[2], by_hand[0]])


def test_chunks_of_a_pass_do_not_change_which_cases_are_taken() -> None:
    task, rows = task_and_rows(5)
    whole = [case.dice for case in found_in(rows, [30, 0, 20, 40, 10], task)]
    task.rows_per_pass = 2
    assert [case.dice for case in found_in(rows, [30, 0, 20, 40, 10], task)] == whole


@pytest.mark.parametrize(("num_rows", "ranks"), [(1, ["only"]), (2, ["best", "worst"])])
def test_few_cases_are_not_shown_twice(num_rows: int, ranks: list[str]) -> None:
    task, rows = task_and_rows(num_rows)
    assert [case.rank for case in found_in(rows, [0, 9], task)] == ranks


def test_the_slice_with_most_truth_is_shown_with_both_outlines() -> None:
    task, rows = task_and_rows(1)
    (case,) = found_in(rows, [3], task)
    truth_DHW = rows["mask"][0].numpy() > 0
    level = truth_DHW.sum(axis=(1, 2)).argmax()
    np.testing.assert_array_equal(case.truth_SHW[0], truth_DHW[level])
    np.testing.assert_array_equal(case.image_HW, rows["image"][0, 0, level].float().numpy())
    assert case.predicted_SHW.shape == case.truth_SHW.shape == (1, 16, 16)


def test_rows_without_image_mask_or_truth_are_no_cases() -> None:
    task, rows = task_and_rows(5)
    rows["mask.mask"][0] = False
    rows["mask.image"][1] = False
    rows["mask"][2] = 0
    assert len(found_in(rows, [0, 0, 0, 5, 9], task)) == 2
    rows["mask.mask"][:] = False
    assert found_in(rows, [0] * 5, task) == []


def test_a_network_without_masks_has_no_cases() -> None:
    class Classifier(nn.Module):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {"label": torch.zeros(len(batch["patient_id"]), 2)}

    task, rows = task_and_rows(3)
    assert cases(Classifier(), task, PatientDataset(rows)) == []


def test_the_picture_has_the_outlines_in_their_colours_and_says_what_it_shows() -> None:
    grey = np.full((32, 32), 0.5, dtype=np.float32)
    truth, found = (np.zeros((1, 32, 32), dtype=bool) for _ in range(2))
    truth[0, 4:14, 4:14], found[0, 18:28, 18:28] = True, True
    drawn = montage([Case("only", 0.0, grey, truth, found)], title="a$b$c")
    with Image.open(io.BytesIO(drawn)) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
        assert opened.info["Description"] == "only: Dice 0.00"
        assert "Software" not in opened.info
    for colour in ((0x1B, 0x9E, 0x3E), (0xFF, 0x5A, 0x5F)):
        assert (np.abs(pixels - colour).sum(axis=2) < 12).sum() > 50
    assert drawn == montage([Case("only", 0.0, grey, truth, found)], title="a$b$c")


def run_command(*words: object) -> int:
    parser = argparse.ArgumentParser()
    model.add(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    return guarded(lambda: int(args.command(args)))


def keep(folder: Path, given: Release) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    models = Models(folder / "site.sqlite", "west")
    models.receive(
        given.to_records(sign_release(given, key)), model_key=public_text(key.public_key())
    )
    models.close()


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Return the folder of a site with scans, that was sent a model."""
    names = ["ann", "bob", "cat", "dan", "eve", "fay"]
    for number, name in enumerate(names):
        write_patient(tmp_path / "scans", name, offset=10 * number)
    write_table(tmp_path / "scans", names)
    schema = STONES.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "stones.yaml").write_text(dump_yaml({"version": 1, **schema}), encoding="utf-8")
    (tmp_path / "site.yaml").write_text(SITE_YAML, encoding="utf-8")
    write_private(tmp_path / "id-salt", bytes(range(32)))
    image = {"size": [32, 32, 32], "window": [-400, 2000], "rows": "lesion"}
    run: RunConfig = config(
        name="stones", data={"schema": "stones.yaml", "image": image}, model=UNET,
        loss={"weights": "fixed"},
    )  # fmt: skip
    trained = Study(run, "federated", Split(run.seed), schema=STONES)
    shared, vector = trained.initial
    sums = np.abs(np.random.default_rng(1).normal(9.0, 1.0, trained.task.statistics_size))
    keep(
        tmp_path,
        Release(
            run_key=trained.run_key,
            request_hash="ab" * 32,
            name="stones",
            round=2,
            config=plain_values(run),
            schema=plain_values(STONES),
            parameters=vector,
            statistics=sums,
            manifest_hash=shared.manifest_hash,
        ),
    )
    return tmp_path


def test_a_site_draws_its_own_cases_for_its_own_eyes(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not STONES.image or not STONES.image.shown
    out = hospital / "cases.png"
    words = ("montage", "stones", "--site", hospital / "site.yaml", "--out", out)
    assert run_command("model", *words, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert {case["rank"] for case in said["cases"]} <= {"best", "median", "worst", "only"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with Image.open(out) as opened:
        assert opened.format == "PNG"
    assert not any(name in out.read_bytes() for name in (b"ann", b"bob", b"cat", b"dan", b"eve"))
    assert run_command("model", *words) == 0
    assert "keep it here" in capsys.readouterr().out


def test_a_name_that_is_no_picture_is_refused(
    hospital: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = hospital / "cases.pdf"
    assert (
        run_command("model", "montage", "stones", "--site", hospital / "site.yaml", "--out", out)
        == 2
    )
    assert "ends in .png" in capsys.readouterr().err


def test_a_model_of_tables_has_nothing_to_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_site(tmp_path)
    keep(tmp_path, release(study()))
    words = (
        "montage",
        "mortality",
        "--site",
        made.folder / "site.yaml",
        "--out",
        tmp_path / "a.png",
    )
    assert run_command("model", *words) == 2
    assert "it is of tables" in capsys.readouterr().err
