"""Each line of the verdict: on it passes, beyond it blocks, and what is not known never passes."""

from dataclasses import replace

import pandas as pd
import pytest

from fedward.synth.evaluation.copies import Copies, copies
from fedward.synth.evaluation.reason import Reason, counted, listed, percent, two
from fedward.synth.evaluation.risk import Risk, no_risk_known
from fedward.synth.evaluation.thresholds import MEMBERSHIP_AUC, RISK, TPR_ALL, TPR_GROUP
from fedward.synth.evaluation.utility import Utility
from fedward.synth.evaluation.verdict import Claim, Verdict, verdict
from tests.synth.made_evaluation import (
    CLASSES,
    columns,
    comparison,
    distances,
    findings,
    report,
    risk,
    rows,
    utility,
)

GROUPS = ("all", *CLASSES, "outliers")


def with_risks(*risks: Risk) -> Verdict:
    return verdict(findings(privacy=report(*risks)))


def reason(found: Verdict, code: str) -> Reason:
    return next(one for one in found.reasons if one.code == code)


def codes(found: Verdict) -> set[str]:
    return {one.code for one in found.blocking}


def test_a_harmless_useful_table_is_shareable_and_says_why() -> None:
    found = verdict(findings())
    assert found.shareable
    assert found.useful
    assert not found.blocking
    assert {one.topic for one in found.reasons} == {"privacy", "validity", "utility"}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("attack", ["density_auc", "nearest_auc"])
def test_an_attack_beyond_the_limit_on_any_group_blocks(attack: str, group: str) -> None:
    assert with_risks(risk(attack, group, MEMBERSHIP_AUC)).shareable
    found = with_risks(risk(attack, group, MEMBERSHIP_AUC + 0.01))
    assert codes(found) == {"membership"}


def test_the_worst_attack_is_told_with_figure_interval_and_n_and_the_others_are_named() -> None:
    found = with_risks(risk("density_auc", "sepsis", 0.81), risk("nearest_auc", "outliers", 0.7))
    sentence = reason(found, "membership").sentence
    assert "81 of 100 pairs" in sentence
    assert "AUROC 0.81 [0.76, 0.86]; patients of class sepsis, n = 200" in sentence
    assert "guessing gives 0.50, the limit is 0.60" in sentence
    assert "outliers 0.70" in sentence
    assert "chance" not in sentence


def test_a_large_figure_that_may_be_chance_blocks_and_says_so() -> None:
    found = with_risks(risk("density_auc", "outliers", 0.64, 0.2))
    assert codes(found) == {"membership"}
    assert "may be chance" in reason(found, "membership").sentence
    assert reason(found, "membership").short == "patients may be recognised"


def test_recognising_a_few_patients_for_certain_blocks_though_the_area_is_small() -> None:
    assert with_risks(risk("density_tpr", "all", TPR_ALL)).shareable
    assert codes(with_risks(risk("density_tpr", "all", TPR_ALL + 0.01))) == {"recognised"}
    assert with_risks(risk("density_tpr", "sepsis", TPR_GROUP)).shareable
    found = with_risks(risk("density_tpr", "sepsis", TPR_GROUP + 0.02, 0.01))
    assert codes(found) == {"recognised"}
    assert "12 % [11 %, 13 %] of patients of class sepsis" in reason(found, "recognised").sentence


@pytest.mark.parametrize(
    "name",
    ["singling_out_univariate", "singling_out_multivariate", "linkability", "inference"],
)
def test_a_risk_over_all_patients_blocks_where_its_interval_is_above_zero(name: str) -> None:
    assert with_risks(risk(name, value=RISK + 0.05, half=0.2)).shareable
    assert with_risks(risk(name, value=RISK, half=0.02)).shareable
    assert codes(with_risks(risk(name, value=RISK + 0.05, half=0.1))) == {"attributes"}


def test_one_secret_of_many_blocks_only_where_its_whole_interval_is_beyond() -> None:
    assert with_risks(risk("inference", "crp", RISK + 0.1, 0.11)).shareable
    found = with_risks(risk("inference", "crp", RISK + 0.1, 0.05))
    assert codes(found) == {"attributes"}
    assert reason(found, "attributes").sentence.startswith("Guessing crp succeeds more often")


def test_several_attacks_on_facts_are_counted() -> None:
    found = with_risks(risk("linkability", value=0.5), risk("inference", value=0.3))
    sentence = reason(found, "attributes").sentence
    assert sentence.startswith("Linking two halves of a record succeeds")
    assert "1 other attack" in sentence


def test_without_patients_kept_aside_nothing_is_shareable() -> None:
    found = verdict(replace(findings(), privacy=None, no_privacy="nobody was kept aside"))
    assert codes(found) == {"untested"}
    assert "nobody was kept aside" in reason(found, "untested").sentence


def test_an_attack_without_a_figure_has_not_passed() -> None:
    gone = [
        no_risk_known(f"{attack}_auc", "all", 0.5, 3, "3 members, fewer than 20")
        for attack in ("density", "nearest")
    ]
    found = with_risks(*gone)
    assert codes(found) == {"untested"}
    assert "3 members" in reason(found, "untested").sentence


def test_a_group_that_could_not_be_attacked_is_named_and_does_not_block() -> None:
    found = with_risks(
        *(
            no_risk_known(f"{attack}_auc", "outliers", 0.5, 3, "3 members, fewer than 20")
            for attack in ("density", "nearest")
        )
    )
    assert found.shareable
    assert "outliers (3 members, fewer than 20)" in reason(found, "untested-group").sentence


def test_impossible_values_and_broken_rules_block() -> None:
    made = rows(300, 3)
    made.loc[:2, "crp"] = -4.0
    found = verdict(findings(synthetic=made))
    assert codes(found) == {"impossible"}
    assert "3 rows of 300 (1 %)" in reason(found, "impossible").sentence
    assert "crp" in reason(found, "impossible").sentence
    made = rows(300, 3)
    made.loc[0, "sbp"] = made["dbp"][0] - 1
    found = verdict(findings(synthetic=made))
    assert codes(found) == {"constraints"}
    assert "1 row of 300" in reason(found, "constraints").sentence
    assert "sbp >= dbp (1)" in reason(found, "constraints").sentence


def test_distances_never_decide() -> None:
    touching = report(resemblance=distances(0.0, 1.0))
    assert verdict(findings(privacy=touching)) == verdict(findings())


def test_one_copy_blocks_where_no_two_patients_are_alike() -> None:
    found = verdict(replace(findings(), copies=Copies(1, 300, 0, 200)))
    assert codes(found) == {"copies"}
    assert "1 synthetic row of 300 equals a training patient's" in reason(found, "copies").sentence
    without = verdict(replace(findings(), copies=Copies(1, 300, None, 0)))
    assert codes(without) == {"copies"}


def test_copies_block_only_where_there_are_more_than_patients_who_are_alike() -> None:
    alike = verdict(replace(findings(), copies=Copies(90, 300, 60, 200)))
    assert alike.shareable
    assert reason(alike, "copies").weight == "caution"
    assert not verdict(replace(findings(), copies=Copies(150, 300, 60, 200))).shareable


def test_copies_are_found_by_value_whatever_their_type_and_with_their_gaps() -> None:
    train, holdout = rows(50, 1), rows(50, 2)
    made = rows(50, 3)
    train.loc[0, "crp"] = None
    copied = train.iloc[:4].astype({"sepsis": float})
    assert copied["crp"].isna().any()
    found = copies(columns(), train, pd.concat([made, copied], ignore_index=True), holdout)
    assert (found.num_copies, found.num_rows) == (4, 54)
    assert (found.num_alike, found.num_holdout) == (0, 50)
    other_label = train.assign(sepsis=1 - train["sepsis"])
    assert copies(columns(), train, other_label, None).num_copies == 0


def test_rows_that_train_to_chance_are_of_no_use_and_still_shareable() -> None:
    found = verdict(findings(use=utility(0.52, 0.75)))
    assert found.shareable
    assert found.useful is False
    sentence = reason(found, "useless").sentence
    assert "no better than guessing: AUROC 0.52 [0.49, 0.55]" in sentence
    assert "0.75 [0.72, 0.78] when trained on the patients" in sentence


def test_where_patients_train_to_chance_too_the_rows_are_not_blamed() -> None:
    assert verdict(findings(use=utility(0.51, 0.52))).useful
    # Just clear of guessing, and no clear difference: the line runs between two equal models.
    assert verdict(findings(use=utility(0.525, 0.54))).useful


def test_a_class_that_the_rows_lack_makes_them_useless() -> None:
    found = verdict(findings(use=utility(None, 0.75)))
    assert found.useful is False
    assert "no row of class sepsis" in reason(found, "useless").sentence


def test_a_loss_is_named_from_three_points() -> None:
    found = verdict(findings(use=utility(0.70, 0.75)))
    assert found.useful
    assert reason(found, "loss").weight == "caution"
    assert "difference \N{MINUS SIGN}0.05 [\N{MINUS SIGN}0.07, \N{MINUS SIGN}0.03]" in (
        reason(found, "loss").sentence
    )
    assert reason(verdict(findings(use=utility(0.73, 0.75))), "useful").weight == "supports"


def test_one_hospital_where_the_rows_fail_is_enough_to_call_them_useless() -> None:
    use = Utility((comparison(0.75, 0.75), comparison(0.5, 0.75, "external")), 3, 200, 300)
    assert verdict(findings(use=use)).useful is False


def test_use_that_was_not_tested_is_unknown() -> None:
    found = verdict(findings(use=Utility((), 1, 0, 0, "the table has no label")))
    assert found.useful is None
    assert "no label" in reason(found, "no-utility").sentence
    assert verdict(findings(use=utility(None, None))).useful is None


def test_rows_that_are_easily_told_from_patients_are_a_caution_only() -> None:
    found = verdict(findings(detected=0.96))
    assert found.shareable
    assert reason(found, "detection").weight == "caution"
    assert "detection" not in {one.code for one in verdict(findings()).reasons}


def test_a_claim_of_differential_privacy_is_repeated_and_changes_nothing() -> None:
    leaking = findings(privacy=report(risk("density_auc", "all", 0.9)))
    found = verdict(replace(leaking, claim=Claim(0.5, 1e-6)))
    assert not found.shareable
    claim = reason(found, "claim")
    assert claim.weight == "states"
    assert "(0.5, 1e-06)-differentially private" in claim.sentence
    assert "not verified" in claim.sentence


def test_what_blocks_comes_first() -> None:
    made = rows(300, 3).assign(crp=-1.0)
    found = verdict(findings(privacy=report(risk("density_auc", "all", 0.9)), synthetic=made))
    assert [one.weight for one in found.reasons[:2]] == ["blocks", "blocks"]
    assert [one.code for one in found.blocking] == ["membership", "impossible"]


def test_figures_are_written_as_people_read_them() -> None:
    assert (two(-0.001), two(0.995), two(-0.25)) == ("0.00", "0.99", "\N{MINUS SIGN}0.25")
    assert [percent(s) for s in (0.0, 0.0004, 0.012, 0.5, 1.0)] == [
        "0 %",
        "under 0.1 %",
        "1.2 %",
        "50 %",
        "100 %",
    ]
    assert (counted(1, "row"), counted(1080, "row")) == ("1 row", "1,080 rows")
    assert listed(["a", "b", "c"]) == "a, b and c"
