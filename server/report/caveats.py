"""What the figures of a run do not say: sentences for the report and the model card."""

from collections.abc import Sequence

from fedward.server.report.monitoring import Monitoring
from fedward.server.report.record import RunRecord, SiteResult
from fedward.server.report.verdict import Comparison

UNPROTECTED = (
    "Unprotected telemetry: the monitor's figures are computed from unprotected weights, rounded."
)
CHOSEN_BY_TRUTH = {
    "lesion": (
        "Where there are masks, the images are regions cut round the lesions of the truth, in "
        "training and in testing: figures say how lesions are outlined and classified once "
        "somebody has found them, not whether a model finds them in a whole scan."
    ),
    "slice": (
        "Only slices that hold a structure in truth are used of a scan with masks, in training "
        "and in testing: figures say nothing of what a model sees in the other slices."
    ),
}
"""By `data.image.rows`."""


def caveats(
    run: RunRecord, comparisons: Sequence[Comparison], monitoring: Monitoring | None = None
) -> list[str]:
    """Return one sentence or two on each thing that a reader could take for granted wrongly."""
    said = [
        "Each hospital's figures are those of the last round's model on its own held-out "
        "patients; n is their number. Small n means wide intervals, not bad models.",
        _on_repetition(run),
    ]
    if any(c.gain.value is not None for c in comparisons):
        said.append(_on_differences(run, comparisons))
    if run.federated.overall:
        said.append(
            "The mean over sites counts every hospital once, whatever its size, and takes these "
            "hospitals as given. It does not say how the model does at another hospital."
        )
    if "pooled" in run.baselines:
        said.append(
            "Pooled training puts all patients in one place. It is a yardstick that only a "
            "simulation has; it is not something that the hospitals could choose."
        )
    if {"f1", "sensitivity", "specificity", "accuracy"} & set(run.metric_names):
        said.append(
            "F1, sensitivity, specificity, precision and accuracy take a probability of 0.5 and "
            "above as positive. No threshold was chosen for use in a clinic."
        )
    if "ece" in run.metric_names:
        said.append(
            "The calibration error of even a perfect model is above 0 by chance, the more so the "
            "fewer patients; the lower end of its interval allows for that."
        )
    said += _on_images(run)
    said += _on_monitoring(monitoring)
    said += [privacy(run), "fedward is research software. The model is not a medical device."]
    return said


def privacy(run: RunRecord) -> str:
    """Return what the run's summary says about privacy, and no more."""
    spent = [s.epsilon for s in run.federated.sites.values() if s.epsilon is not None]
    if spent:
        claim = run.facts.get("privacy", {})
        unit = str(claim.get("unit", "patient")).split(":")[0]
        return (
            f"Sites accounted for differential privacy up to epsilon {max(spent):.2f}; the unit is "
            f"the {unit}. The claim in full is in summary.json, under privacy."
        )
    return (
        "Privacy: none is claimed. Patients' rows stayed at their sites, but updates and figures "
        "went to the coordinator without differential privacy, and an update can reveal "
        "something about the patients behind it."
    )


def _on_repetition(run: RunRecord) -> str:
    count = len(run.repeats)
    if count < 2:
        return (
            "This is one run with one seed and one split. The intervals cover chance among the "
            "test patients; they do not cover another seed, another split or another year."
        )
    return (
        f"Means and intervals are over {count} repetitions on the same patients. They cover the "
        "choice of seed and split, not new patients; as the repetitions share training patients, "
        "they are somewhat too narrow (Nadeau and Bengio 2003)."
    )


def _on_images(run: RunRecord) -> list[str]:
    said = []
    if run.has_masks:
        said.append(
            "Dice, IoU and HD95 are means over patients, and rows without a structure in truth "
            "count in none of them; where a model finds nothing, Dice is 0 and HD95 the diagonal "
            "of the image. HD95 in pixels cannot be compared across scanners."
        )
    if run.image_rows in CHOSEN_BY_TRUTH:
        said.append(CHOSEN_BY_TRUTH[run.image_rows])
    sites = (run.repeats[0].federated if run.repeats else run.federated).sites.values()
    if any(_counts_rows(site) for site in sites):
        said.append(
            "Labels belong to lesions or slices here, of which a patient may have several. Figures "
            "of classes count each as independent, so their intervals are somewhat too narrow; "
            "those of masks take a patient as the unit."
        )
    return said


def _on_monitoring(monitoring: Monitoring | None) -> list[str]:
    if monitoring is None:
        return []
    said = []
    if monitoring.has("influence"):
        said.append(
            "Influence says who moved the model, not who made it better: a site with wrong labels "
            "may have the most, and a site whose patients the model already knows has little."
        )
    if monitoring.has("log_mag") or monitoring.has("rho"):
        said.append(
            "Saturation is advice: the watched weights hardly moved any more. It says nothing of "
            "the model's quality, and thresholds were calibrated on small problems with a known "
            "answer."
        )
    if monitoring.is_quantised:
        said.append(UNPROTECTED)
    return said


def _counts_rows(site: SiteResult) -> bool:
    """Return whether labels are not those of patients: more have one than there are patients."""
    labelled = site.metrics.get("accuracy")
    if site.num_test is None or labelled is None:
        return False
    return (labelled.n or 0) > site.num_test


def _on_differences(run: RunRecord, comparisons: Sequence[Comparison]) -> str:
    how = (
        "A gain's interval takes the two models' figures as independent. They were tested on the "
        "same patients, so the true interval is narrower: a clear gain is clear, and 'no clear "
        "difference' does not mean 'no difference'."
        if len(run.repeats) < 2
        else "A gain's interval is paired: both models have the same patients in each repetition."
    )
    judged = sum(c.answer != "unknown" for c in comparisons)
    if judged < 5:
        return how
    chance = (1 - 0.95) * judged
    return f"{how} Of {judged:,} comparisons, chance alone may make up to {chance:.0f} look clear."
