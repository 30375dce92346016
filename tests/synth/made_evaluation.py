"""Evaluations made by hand: every figure as a test wants it, without any learner or attack."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd

from fedward.common.task import Metric
from fedward.synth.evaluation.associations import associations
from fedward.synth.evaluation.copies import Copies
from fedward.synth.evaluation.evaluate import Evaluation, Sizes
from fedward.synth.evaluation.fidelity import ClassShare, Fidelity
from fedward.synth.evaluation.margins import margins
from fedward.synth.evaluation.mixing import SHARES_REAL, Mixing, MixingPoint
from fedward.synth.evaluation.plausibility import plausibility
from fedward.synth.evaluation.privacy import PrivacyReport
from fedward.synth.evaluation.resemblance import Resemblance, Spread
from fedward.synth.evaluation.risk import Risk
from fedward.synth.evaluation.tables import TestName
from fedward.synth.evaluation.utility import MEAN, Comparison, Utility
from fedward.synth.evaluation.verdict import Claim, Findings, verdict
from fedward.synth.tables.columns import Column, Columns
from fedward.synth.tables.constraints import Constraint

CLASSES = ("no sepsis", "sepsis")


def risk(name: str, group: str = "all", value: float = 0.52, half: float = 0.05) -> Risk:
    """Return a risk with a symmetric interval, on 200 patients."""
    baseline = 0.5 if name.endswith("_auc") else 0.01 if name.endswith("_tpr") else 0.0
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Risk(name, group, value, low, high, baseline, 200)


def report(*changed: Risk, resemblance: Resemblance | None = None) -> PrivacyReport:
    """Return attacks that find nothing, but for the figures in `changed`."""
    names = [f"{attack}_{figure}" for attack in ("density", "nearest") for figure in ("auc", "tpr")]
    values = {"auc": 0.52, "tpr": 0.01}
    membership = [
        risk(name, group, values[name[-3:]])
        for group in ("all", *CLASSES, "outliers")
        for name in names
    ]
    others = [
        risk(name, value=0.01, half=0.01)
        for name in ("singling_out_univariate", "singling_out_multivariate", "linkability")
    ]
    guesses = [risk("inference", group, 0.01, 0.01) for group in ("all", "crp", "sepsis")]
    new = {(one.name, one.group): one for one in changed}

    def taken(risks: list[Risk]) -> tuple[Risk, ...]:
        return tuple(new.get((one.name, one.group), one) for one in risks)

    first, second, linkability = taken(others)
    return PrivacyReport(
        200,
        200,
        100,
        300,
        taken(membership),
        (first, second),
        linkability,
        taken(guesses),
        resemblance or distances(4.9, 0.52),
        ("no reference was given: the attacker knows 100 patients of the holdout",),
    )


def distances(mean: float, share: float) -> Resemblance:
    """Return distances that are all `mean`, and a share of rows nearer to training patients."""
    spread = Spread(mean, mean, mean)
    return Resemblance(
        dcr=spread,
        nndr=spread,
        dcr_train=spread,
        dcr_holdout=spread,
        nndr_train=spread,
        nndr_holdout=spread,
        nearer_to_train=Metric(share, share - 0.04, min(1.0, share + 0.04), n=300),
        patients_to_patients=spread,
        num_each=200,
    )


def comparison(
    tstr: float | None, trtr: float | None, test: TestName = "internal", learner: str = MEAN
) -> Comparison:
    """Return figures with intervals of 0.03 to both sides; None: undefined."""

    def figure(value: float | None) -> Metric:
        if value is None:
            return Metric(None, n=180, reason="no row of class sepsis to train on")
        return Metric(value, max(0.0, value - 0.03), min(1.0, value + 0.03), n=180)

    gap = None if tstr is None or trtr is None else tstr - trtr
    difference = figure(None) if gap is None else Metric(gap, gap - 0.02, gap + 0.02, n=180)
    title = "Mean of the learners" if learner == MEAN else learner
    return Comparison(
        test,
        learner,
        title,
        figure(tstr),
        figure(trtr),
        figure(trtr),
        difference,
        difference,
        (tstr,),
        (trtr,),
    )


def utility(tstr: float | None = 0.74, trtr: float | None = 0.75) -> Utility:
    """Return one learner and the mean, at this hospital and at another one."""
    tests: tuple[TestName, ...] = ("internal", "external")
    each = [
        comparison(tstr, trtr, test, learner)
        for test in tests
        for learner in ("Random forest", MEAN)
    ]
    return Utility(tuple(each), 3, 200, 300)


def columns(crp: str = "crp", classes: tuple[str, ...] = CLASSES) -> Columns:
    """Return three columns of numbers, one of categories, a label and a rule."""
    return Columns(
        (
            Column("sbp", "continuous", low=30, high=300, unit="mmHg"),
            Column("dbp", "continuous", low=10, high=200, unit="mmHg"),
            Column(crp, "continuous", low=0, high=500),
            Column("ward", "categorical", categories=("medicine", "surgery")),
        ),
        label="sepsis",
        classes=(0, 1),
        class_names=classes,
        constraints=(Constraint.parse("sbp >= dbp"),),
    )


def rows(n: int, seed: int, crp: str = "crp") -> pd.DataFrame:
    """Return patients of `columns`."""
    rng = np.random.default_rng(seed)
    dbp = rng.normal(70, 8, n).clip(20, 150)
    return pd.DataFrame(
        {
            "sbp": dbp + rng.uniform(10, 60, n),
            "dbp": dbp,
            crp: np.where(rng.random(n) < 0.2, np.nan, rng.exponential(40, n).clip(0, 500)),
            "ward": rng.choice(["medicine", "surgery"], n),
            "sepsis": (np.arange(n) % 4 == 0).astype(int),
        }
    )


@cache
def _usual_fidelity() -> Fidelity:
    return fidelity(columns(), rows(300, 3))


def fidelity(table: Columns, synthetic: pd.DataFrame) -> Fidelity:
    """Return the fidelity of `synthetic`; of detection, some figure."""
    crp = table.names[2]
    train, holdout = rows(200, 1, crp), rows(200, 2, crp)
    found = margins(table, train, synthetic, holdout)
    return Fidelity(
        tuple(ClassShare(name, 0.25, 0.25) for name in table.class_names),
        found,
        0.05,
        0.06,
        associations(table, train, synthetic, holdout),
        plausibility(table, train, synthetic),
        Metric(0.7, 0.66, 0.74, n=400),
    )


def findings(
    *,
    privacy: PrivacyReport | None = None,
    use: Utility | None = None,
    synthetic: pd.DataFrame | None = None,
    detected: float = 0.7,
) -> Findings:
    """Return findings of a harmless and useful table, but for what is given."""
    truth = _usual_fidelity() if synthetic is None else fidelity(columns(), synthetic)
    return Findings(
        replace(truth, detection=replace(truth.detection, value=detected)),
        use or utility(),
        Copies(0, 300, 0, 200),
        privacy or report(),
    )


def evaluation(
    found: Findings | None = None, *, name: str = "Sepsis, copula", mixing: bool = True
) -> Evaluation:
    """Return the evaluation with these findings."""
    found = found or findings()
    tests: tuple[TestName, ...] = ("internal", "external")
    points = tuple(
        MixingPoint(share, test, Metric(0.7 + 0.05 * share, 0.66, 0.79, n=180), (0.7,))
        for test in tests
        for share in SHARES_REAL
    )
    return Evaluation(
        name=name,
        facts={"Synthesiser": "GaussianCopula", "Seed": 1},
        sizes=Sizes(300, 200, 200, 180, 4),
        mixing=Mixing("svm-rbf", "SVM, rbf kernel", 200, points) if mixing else None,
        verdict=verdict(found),
        **vars(found),
    )


def untested() -> Evaluation:
    """Return an evaluation without holdout and without a label."""
    found = findings(use=Utility((), 1, 0, 0, "the table has no label"))
    why = "no patients were kept aside (a holdout)"
    found = replace(found, privacy=None, no_privacy=why, copies=Copies(0, 300, None, 0))
    return replace(
        evaluation(replace(found, claim=Claim(1.0, 1e-5)), mixing=False),
        sizes=Sizes(300, 200, 0, 0, 4),
    )
