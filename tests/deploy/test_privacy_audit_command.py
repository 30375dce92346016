"""`fedward privacy audit` and `fedward privacy inversion` as a person types them."""

import argparse
import json
import re
from pathlib import Path

import pytest

from fedward.common.errors import ConfigError
from fedward.deploy.commands import privacy
from fedward.simulations.privacy_audit import gradient_search
from tests.simulations.privacy_faults import PRIVATE, a_27th_of_the_noise

QUICK = [part for key in (*PRIVATE, "rounds=3", "privacy.epsilon=1") for part in ("--set", key)]


def fedward(*argv: object) -> int:
    parser = argparse.ArgumentParser()
    privacy.add(parser.add_subparsers())
    args = parser.parse_args([str(part) for part in argv])
    return int(args.command(args))


def audit(*argv: object) -> int:
    return fedward("privacy", "audit", "quickstart", "--site", "site-2", *QUICK, *argv)


def test_people_are_told_bound_claim_verdict_and_what_cannot_be_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit("--shadows", 0, "--canaries", 100) == 0
    out = capsys.readouterr().out
    assert "quickstart: 100 canaries at each site" in out
    (line,) = [line for line in out.splitlines() if line.startswith("site-2")]
    site, seed, patients, bound, claim, without_noise, *verdict = line.split()
    assert (site, seed, patients) == ("site-2", "23", "46"), "of 67, three tenths held out"
    assert float(bound) < float(claim) <= 1 < 2.5 < float(without_noise)
    assert " ".join(verdict) == "below its claim"
    assert "epsilon at delta 1e-05; the bounds of a column hold together with 95% confidence" in out
    assert "not shown       a bound below its claim does not prove the claim" in out
    assert "who was trained on?" not in out


def test_a_claim_that_no_audit_of_so_many_canaries_could_refute_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit("--set", "privacy.epsilon=8", "--shadows", 0, "--canaries", 40) == 0
    assert "below its claim, which this audit cannot reach" in capsys.readouterr().out


def test_a_claim_that_is_refuted_is_shouted_and_ends_with_the_code_of_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_27th_of_the_noise(monkeypatch)
    assert audit("--shadows", 0, "--canaries", 100) == 70
    assert "ABOVE ITS CLAIM: the implementation is broken" in capsys.readouterr().out


@pytest.mark.slow
def test_the_attack_on_the_released_model_is_compared_with_training_without_privacy(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit("--shadows", 4, "--canaries", 40, "--seeds", 2) == 0
    out = capsys.readouterr().out
    told = re.search(r"who was trained on\? (\d+) members and (\d+) others", out)
    assert told is not None
    assert int(told[1]) + int(told[2]) == 569
    for name in ("as configured", "without privacy"):
        seeds = [line.split()[2] for line in out.splitlines() if line.startswith(name)]
        assert seeds == ["23", "24"]


@pytest.mark.slow
def test_scripts_get_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("--shadows", 4, "--canaries", 40, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    (found,) = told["audits"]
    assert found["bound"]["num_canaries"] == 40
    assert found["bound"]["confidence"] == pytest.approx(0.95)
    assert not found["is_refuted"]
    assert told["without_noise"][0]["bound"]["epsilon_low"] > found["bound"]["epsilon_low"]
    for name in ("membership", "membership_without_privacy"):
        (attack,) = told[name]
        assert attack["auc"]["low"] < attack["auc"]["value"] < attack["auc"]["high"]
    assert told["cannot_show"]


def test_an_audit_needs_a_seed() -> None:
    with pytest.raises(ConfigError, match="--seeds: given 0"):
        audit("--seeds", 0)


def test_a_run_that_promises_nothing_is_no_case_for_an_audit() -> None:
    with pytest.raises(ConfigError, match="promises nothing that could be audited"):
        fedward("privacy", "audit", "quickstart")


def test_a_picture_is_a_png(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--out: .*expected a name that ends in \.png"):
        fedward("privacy", "inversion", "private_phantom", "--out", tmp_path / "inversion.jpg")


def test_the_inversion_is_one_of_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task: the demonstration is one of images"):
        fedward("privacy", "inversion", "quickstart", *QUICK, "--out", tmp_path / "inversion.png")


@pytest.mark.slow
def test_the_picture_is_written_and_its_figures_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pydicom", reason="the phantoms are DICOM files: fedward[ct]")
    monkeypatch.setenv("FEDWARD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(gradient_search, "NUM_TRIES", 5)  # how well it searches is not asked here
    out = tmp_path / "inversion.png"
    small = ("--set", "data.phantom.patients={north: 12}", "--set", "sampling.min_replies=1")
    assert fedward("privacy", "inversion", "private_phantom", *small, "--out", out) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "linear layer, without privacy" in told
    assert "another patient of the site" in told
