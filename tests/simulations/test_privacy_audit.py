"""The audit has power, never says more than the truth, and catches what is planted.

What is too small for it is caught by exact tests: noise of half the size and one skipped step in 30
by `test_a_fault_planted_in_the_noise_is_seen`, clipping by `test_a_clip_that_was_removed_is_seen`
(tests/client/test_dp_step.py), a ledger that forgets at a restart by
`test_an_accountant_that_is_reset_on_restart_would_be_seen` (tests/client/test_privacy_ledger.py).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedward.common.errors import ConfigError
from fedward.common.task import PatientDataset
from fedward.simulations.federation import Federation
from fedward.simulations.privacy_audit.canaries import FEATURES, LOUDNESS, Canaries
from fedward.simulations.privacy_audit.one_run import (
    SiteAudit,
    _attacked,
    _data,
    audit_run,
    best_bound,
    without_noise,
)
from tests.simulations.privacy_faults import (
    SITE,
    Plant,
    a_27th_of_the_noise,
    an_account_that_forgets,
    no_clipping,
    private_run,
)

SEEDS = (1, 2, 3)
MANY_ROUNDS = ("rounds=200", "local.steps=1", "local.epochs=null")


def audited(federation: Federation, seed: int = 1) -> SiteAudit:
    (found,) = audit_run(federation, seeds=[seed], sites=[SITE])
    return found


def test_without_noise_the_audit_sees_nearly_everything() -> None:
    assert audited(without_noise(private_run())).bound.epsilon_low >= 2.5


def test_with_little_noise_it_sees_a_part_and_not_more_than_was_claimed() -> None:
    found = audited(private_run(epsilon=10))
    assert 1.0 <= found.bound.epsilon_low <= found.claim
    assert found.claim == pytest.approx(10, rel=0.01)
    assert not found.is_refuted


def test_with_much_noise_it_sees_next_to_nothing() -> None:
    assert audited(private_run(epsilon=1)).bound.epsilon_low < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [1.0, 5.0, 10.0])
def test_no_bound_is_above_its_claim_at_any_site_for_three_seeds(epsilon: float) -> None:
    found = audit_run(private_run(epsilon=epsilon), seeds=SEEDS)
    assert len(found) == 15
    assert all(audit.bound.epsilon_low <= audit.claim <= epsilon for audit in found)
    if epsilon == 10.0:
        assert min(audit.bound.epsilon_low for audit in found) >= 1.0


@pytest.mark.slow
def test_without_noise_every_site_and_seed_is_seen_through() -> None:
    found = audit_run(without_noise(private_run()), seeds=SEEDS)
    assert min(audit.bound.epsilon_low for audit in found) >= 2.5


@pytest.mark.parametrize("plant", [a_27th_of_the_noise, no_clipping])
def test_a_fault_in_the_mechanism_is_caught(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    found = audited(private_run(epsilon=1))
    assert found.claim == pytest.approx(1, rel=0.01), "the fault is not in the account"
    assert found.is_refuted


@pytest.mark.parametrize("plant", [a_27th_of_the_noise, no_clipping])
def test_so_is_one_in_the_code_that_trains_many_sites_at_once(
    plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    found = audit_run(private_run("rounds=5", epsilon=1), seeds=[1], sites=["site-2", "site-4"])
    assert [audit.is_refuted for audit in found] == [True, True]


def test_an_account_that_forgets_the_rounds_before_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    an_account_that_forgets(monkeypatch)
    (found,) = audit_run(private_run(*MANY_ROUNDS), seeds=[1], sites=[SITE], num_canaries=500)
    assert found.claim < 1.5, "that of one round; all of them cost 10"
    assert found.is_refuted


@pytest.mark.slow
def test_one_that_remembers_them_is_not() -> None:
    (found,) = audit_run(private_run(*MANY_ROUNDS), seeds=[1], sites=[SITE], num_canaries=500)
    assert found.claim == pytest.approx(10, rel=0.01)
    assert not found.is_refuted


def test_the_confidence_is_shared_by_all_bounds() -> None:
    run, sites = private_run("rounds=2"), ["site-2", "site-4"]
    found = audit_run(run, seeds=[1, 2], sites=sites, num_canaries=40)
    assert [audit.bound.confidence for audit in found] == pytest.approx([1 - 0.05 / 4] * 4)
    assert [(audit.site, audit.seed) for audit in found] == [
        ("site-2", 1), ("site-4", 1), ("site-2", 2), ("site-4", 2),
    ]  # fmt: skip


def test_scores_of_other_coins_show_nothing() -> None:
    rng = np.random.default_rng(7)
    is_in = rng.random(500) < 0.5
    score = is_in + 0.1 * rng.standard_normal(500)
    assert best_bound(score, is_in, delta=1e-5, confidence=0.95).epsilon_low > 3
    others = rng.permutation(is_in)
    # It errs with at most 5 %; the seed is fixed.
    assert best_bound(score, others, delta=1e-5, confidence=0.95).epsilon_low == 0


@pytest.fixture(scope="module")
def small() -> tuple[Canaries, PatientDataset, Federation]:
    federation = private_run()
    attacked = _attacked(federation, 20)
    data = _data(federation, SITE).train
    canaries = Canaries.of(attacked, data.all_rows(), num_canaries=20, max_norm=1.0)
    return canaries, data, federation


def test_a_canary_is_loud_and_alone_in_its_column(
    small: tuple[Canaries, PatientDataset, Federation],
) -> None:
    canaries, data, _ = small
    own = canaries.rows[FEATURES][:, data.rows[FEATURES].shape[1] :]
    assert torch.equal(own != 0, torch.eye(20, dtype=torch.bool))
    assert (canaries.rows[FEATURES][:, : data.rows[FEATURES].shape[1]] == 0).all()
    assert canaries.loudness >= LOUDNESS
    # What a canary is judged by is most of its gradient.
    lengths = [np.linalg.norm(canaries.slope_P[canaries.owner_P == k]) for k in range(20)]
    assert min(lengths) > LOUDNESS / 2


def test_a_canary_scores_by_its_own_weights_alone(
    small: tuple[Canaries, PatientDataset, Federation],
) -> None:
    canaries, _, _ = small
    moved_P = np.where(canaries.owner_P == 3, canaries.slope_P, 0.0)
    score_M = canaries.scores(moved_P)
    assert score_M[3] > 0
    assert np.count_nonzero(score_M) == 1
    assert not canaries.scores(np.where(canaries.owner_P < 0, 1.0, 0.0)).any()


def test_only_canaries_that_came_up_heads_join_the_patients(
    small: tuple[Canaries, PatientDataset, Federation],
) -> None:
    canaries, data, _ = small
    is_in = np.arange(20) % 2 == 0
    joined = canaries.added_to(data, is_in)
    assert len(joined) == len(data) + 10
    width = data.rows[FEATURES].shape[1]
    assert torch.equal(joined.rows[FEATURES][: len(data), :width], data.rows[FEATURES])
    assert (joined.rows[FEATURES][: len(data), width:] == 0).all()
    assert torch.equal(joined.rows[FEATURES][len(data) :], canaries.rows[FEATURES][::2])
    assert len(joined.rows["patient_id"].unique()) == len(joined)


def test_patients_of_several_rows_keep_them(
    small: tuple[Canaries, PatientDataset, Federation],
) -> None:
    canaries, data, _ = small
    num_rows = len(data.rows["patient_id"])
    starts = torch.tensor([0, 3, num_rows])
    joined = canaries.added_to(PatientDataset(data.rows, starts), np.arange(20) < 2)
    assert len(joined) == 4
    assert joined.starts is not None
    assert joined.starts.tolist() == [0, 3, num_rows, num_rows + 1, num_rows + 2]


def test_a_run_that_promises_nothing_is_not_audited() -> None:
    federation = private_run()
    plain = federation.config.model_copy(update={"privacy": None})
    with pytest.raises(ConfigError, match=r"privacy\.mode: this run promises nothing"):
        audit_run(replace(federation, config=plain), seeds=[1])


@pytest.mark.parametrize(
    ("overrides", "keys", "named"),
    [
        ((), {"sites": ["site-9"]}, "--site: no site 'site-9'"),
        ((), {"num_canaries": 5}, "--canaries: given 5, expected 20"),
        (("privacy.delta=0.005",), {}, r"privacy\.delta: 0\.005 is too large"),
        (("shared=[head.*]",), {}, "shared: the weights of single columns do not travel"),
        (("privacy.max_grad_norm=1e9",), {}, r"privacy\.max_grad_norm: no canary's gradient"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    overrides: tuple[str, ...], keys: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        audit_run(private_run(*overrides), **{"seeds": [1], "sites": [SITE], **keys})  # type: ignore[arg-type]
