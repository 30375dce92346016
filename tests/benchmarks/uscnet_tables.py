"""The tables 1 to 5 of USCNet's paper as configurations of our own run, on CT phantoms.

    python -m tests.benchmarks.uscnet_tables [--table 1 2 3 4 5] [--rows NAME ...] [--labels both]
        [--seeds 3] [--patients 400] [--epochs 15]

Each row is `fedward simulate uscnet_phantom` with these keys, at the size of the preset `smoke`
(32^3 voxels, 4 layers of 96, about 0.5 to 1.5 million parameters):

    all rows of USCNet      --set model.preset=smoke
    tables 2 to 5           --set model.guide=false     (see below)
    1  resnet34, resnet50   --set 'model={name: resnet3d, depth: 34, width: 8}'      (depth: 50)
       nnunet               --set 'model={name: nnunet, filters: 8}' --set loss.segmentation=dice-ce
       unetr                --set 'model={name: unetr, hidden: 96, layers: 4, heads: 4,
                                mlp_dim: 192, patch: 8, feature_size: 4}'
       tmss                 --set 'model={name: tmss, hidden: 96, layers: 4, heads: 4,
                                mlp_dim: 192, patch: 8, feature_size: 4}'
       hymnet               --set 'model={name: concat-fusion, width: 8, hidden: 64,
                                feature_size: 4}'
    2  ehr                  --set data.modalities=[table]
       ct                   that of unetr: its branch for masks is a UNETR, and learns masks only
       without CEA or SMA   --set model.cea=false, --set model.sma=false
       without DW           --set loss.weights=fixed --set loss.class_weight=0.5
    3  z3, z6, z9, z12      --set model.sma_layers=[1]      ([2], [3], [4]; several: [1, 2])
    4  bce+dice             --set loss.classification=[bce]
       focal+dice           --set loss.classification=[focal]
    5  0.1/0.9 ...          --set loss.weights=fixed --set loss.class_weight=0.1      (0.3 ... 0.9)

What differs from the paper: phantoms, not its patients; a network with 4 layers instead of 12, so
that Z3, Z6, Z9 and Z12 are its layers 1, 2, 3 and 4, at the same quarters of the depth; our repair
of the fusion (`fedward.common.models.attention`), since nothing could be ablated in a class that
does not see the CT. `guide`, ours, tells the class the grey under the mask past CEA and SMA: it is
on in table 1, as shipped, and off in tables 2 to 5, where it would hide what is ablated. The HD95
of masks that found nothing is the diagonal of the region.

Regions are cut round the true stones, also those of test patients, as in the paper: figures are of
stones that somebody has found, and say nothing of finding them in a whole scan.

The paper's figures stand below ours as context: no target, and another cohort. Its AUC equals the
mean of sensitivity and specificity wherever its counts can be told (not for TMSS), so it stands
there; it names no AUROC. Rows that repeat another are trained once.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fedward.common.intervals import mean_interval
from fedward.common.quiet import quiet_third_parties
from tests.benchmarks.ct_arms import SMOKE, Labels, Result, configured, make_cohort, shown, trained

Changes = tuple[str, ...]
VIT = "hidden: 96, layers: 4, heads: 4, mlp_dim: 192, patch: 8, feature_size: 4"
UNETR: Changes = (f"model={{name: unetr, {VIT}}}",)
FULL: Changes = (SMOKE, "model.guide=false")
NO_CEA, NO_SMA = "model.cea=false", "model.sma=false"
LAYER_OF = {"z3": 1, "z6": 2, "z9": 3, "z12": 4}

COLUMNS = {
    "AUROC": "auroc",
    "balanced acc.": "balanced_accuracy",
    "accuracy": "accuracy",
    "F1": "f1",
    "recall": "sensitivity",
    "precision": "precision",
    "Dice": "dice",
    "IoU": "iou",
    "HD95 mm": "hd95_mm",
}
IN_PAPER = (
    "accuracy", "f1", "sensitivity", "precision", "balanced_accuracy", "dice", "iou", "hd95_mm",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a table: the keys that make it, and what the paper reports."""

    name: str
    changes: Changes | None
    """None: not built."""
    paper: str
    """Acc, F1, Rec, Pre, AUC, Dice and IoU in percent, HD95 in mm; `-` where there is none."""
    why_not: str = ""

    @property
    def reported(self) -> dict[str, float]:
        """The paper's figures as fractions and mm, by the names of ours."""
        found = {}
        for name, text in zip(IN_PAPER, self.paper.split(), strict=True):
            if text != "-":
                found[name] = float(text) / (1 if name == "hd95_mm" else 100)
        return found


def _resnet(depth: int) -> Changes:
    return (f"model={{name: resnet3d, depth: {depth}, width: 8}}",)


def _fixed(class_weight: float) -> Changes:
    return (*FULL, "loss.weights=fixed", f"loss.class_weight={class_weight}")


def _taps(name: str) -> Changes:
    layers = [LAYER_OF[tap] for tap in name.split("+")]
    return FULL if layers == [4] else (*FULL, f"model.sma_layers={layers}")


TABLE_1 = (
    Row("resnet34", _resnet(34), "56.25 10.43 5.50 44.90 52.75 - - -"),
    Row("resnet50", _resnet(50), "62.13 28.96 19.26 58.33 55.03 - - -"),
    Row(
        "resnet101", None, "63.97 38.75 28.44 60.47 58.05 - - -",
        "our resnet3d goes to 50 layers",
    ),
    Row(
        "stonenet", None, "59.93 57.22 49.69 40.07 50.04 - - -",
        "a MobileNet of 2D slices with BatchNorm, which couples the patients of a batch",
    ),
    Row(
        "segprompt", None, "61.27 46.94 42.20 52.87 58.52 - - -",
        "it fine-tunes pretrained 2D weights, and nothing is fetched here",
    ),
    Row(
        "nnunet", ("model={name: nnunet, filters: 8}", "loss.segmentation=dice-ce"),
        "- - - - - 86.35 75.68 3.50",
    ),
    Row("unetr", UNETR, "- - - - - 82.27 69.18 3.88"),
    Row(
        "resganet", None, "62.50 47.17 44.31 46.96 56.37 83.85 72.08 4.80",
        "its group attention blocks are not among MONAI's, of which our networks are made",
    ),
    Row(
        "tmss", (f"model={{name: tmss, {VIT}}}",),
        "74.63 57.67 43.12 87.04 81.54 79.13 65.43 6.20",
    ),
    Row(
        "hymnet", ("model={name: concat-fusion, width: 8, hidden: 64, feature_size: 4}",),
        "85.66 82.81 86.23 79.66 85.76 77.14 62.67 5.50",
    ),
    Row("uscnet", (SMOKE,), "91.91 90.00 90.83 89.19 91.73 83.98 72.12 3.73"),
)  # fmt: skip
TABLE_2 = (
    Row(
        "ehr", (*FULL, "data.modalities=[table]"),
        "63.97 59.17 65.14 54.20 64.16 - - -",
    ),
    Row("ct", UNETR, "- - - - - 82.27 69.18 3.88"),
    Row("ct+ehr", (*_fixed(0.5), NO_CEA, NO_SMA), "70.56 66.90 74.33 60.90 70.16 78.33 64.30 7.42"),
    Row("+cea", (*_fixed(0.5), NO_SMA), "89.71 87.16 87.16 87.16 89.28 82.19 69.54 4.31"),
    Row("+cea+sma", _fixed(0.5), "89.34 86.64 86.24 87.04 88.82 81.44 68.34 4.03"),
    Row("+cea+sma+dw", FULL, "91.91 90.00 90.83 89.19 91.73 83.98 72.12 3.73"),
)  # fmt: skip
TABLE_3 = tuple(
    Row(name, _taps(name), paper)
    for name, paper in {
        "z12": "91.91 90.00 90.83 89.19 91.73 83.98 72.12 3.73",
        "z9": "90.44 88.29 89.91 86.73 90.35 81.93 69.49 4.66",
        "z6": "90.07 87.78 88.99 86.61 89.89 82.29 69.71 4.18",
        "z3": "87.87 84.93 85.32 84.55 87.45 79.98 66.67 5.33",
        "z3+z6": "89.71 87.39 88.99 85.84 89.59 82.05 69.47 4.59",
        "z3+z9": "89.71 87.27 88.07 86.49 89.44 82.24 69.58 4.40",
        "z3+z12": "90.07 87.78 88.99 86.61 89.89 82.32 69.83 4.10",
        "z6+z9": "89.34 87.00 88.99 85.09 89.28 82.45 69.91 4.40",
        "z6+z12": "89.71 87.16 87.16 87.16 89.28 81.61 68.73 4.77",
        "z9+z12": "90.44 88.39 90.83 86.09 90.50 82.60 70.22 4.20",
        "z3+z6+z9": "89.71 87.27 88.07 86.49 89.44 80.80 67.43 4.32",
        "z3+z6+z12": "90.44 88.29 89.91 86.73 90.35 82.34 69.85 4.12",
        "z3+z9+z12": "89.34 86.76 87.16 86.36 88.98 82.31 69.85 4.18",
        "z6+z9+z12": "89.71 87.27 88.07 86.49 89.44 81.28 68.12 4.61",
        "z3+z6+z9+z12": "89.71 87.16 87.16 87.16 89.28 81.90 69.17 4.30",
    }.items()
)
TABLE_4 = (
    Row(
        "bce+dice", (*FULL, "loss.classification=[bce]"),
        "91.54 89.50 89.91 89.09 91.27 82.43 70.11 4.19",
    ),
    Row(
        "focal+dice", (*FULL, "loss.classification=[focal]"),
        "91.18 88.68 86.24 91.26 90.36 83.02 70.96 4.02",
    ),
    Row("bce+focal+dice", FULL, "91.91 90.00 90.83 89.19 91.73 83.98 72.12 3.73"),
)  # fmt: skip
TABLE_5 = (
    Row("0.1/0.9", _fixed(0.1), "82.35 77.14 74.31 80.20 81.02 78.86 66.67 5.66"),
    Row("0.3/0.7", _fixed(0.3), "86.40 83.41 85.32 81.58 86.22 81.96 69.00 4.38"),
    Row("0.5/0.5", _fixed(0.5), "89.34 86.64 86.24 87.04 88.82 81.44 68.34 4.03"),
    Row("0.7/0.3", _fixed(0.7), "89.71 87.27 88.07 86.49 89.44 82.04 69.25 4.18"),
    Row("0.9/0.1", _fixed(0.9), "90.44 88.39 90.83 86.09 90.50 82.11 69.47 4.78"),
    Row("auto", FULL, "91.91 90.00 90.83 89.19 91.73 83.98 72.12 3.73"),
)
TABLES = {1: TABLE_1, 2: TABLE_2, 3: TABLE_3, 4: TABLE_4, 5: TABLE_5}
TITLES = {
    1: "other methods",
    2: "what is fused, and how",
    3: "layers that SMA asks with; Z3, Z6, Z9, Z12 are layers 1, 2, 3, 4 of 4",
    4: "terms of the loss",
    5: "weights of class / masks",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the rows that are asked for and print each table."""
    names = list(dict.fromkeys(row.name for rows in TABLES.values() for row in rows))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", nargs="+", type=int, choices=TABLES, default=list(TABLES))
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help="default: all")
    parser.add_argument("--labels", choices=["both", "ct", "ehr", "none"], default="both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=400, help="at four sites together")
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args(arguments)
    quiet_third_parties()
    labels: Labels = args.labels
    print(f"labels depend on {labels}; {args.patients} patients, {args.epochs} epochs", flush=True)
    make_cohort(labels, args.patients)
    done: dict[tuple[Changes, int], Result] = {}
    for number in args.table:
        rows = [row for row in TABLES[number] if not args.rows or row.name in args.rows]
        jobs = [(row, seed) for seed in range(1, args.seeds + 1) for row in rows]
        for row, seed in jobs:
            if row.changes is None or (row.changes, seed) in done:
                continue
            begun = time.process_time()
            config = configured(labels, args.patients, row.changes)
            done[row.changes, seed] = trained(config, seed, args.epochs)
            print(
                f"  seed {seed}  {row.name:14} {time.process_time() - begun:.0f} CPU s", flush=True
            )
        found = {
            row.name: [done[row.changes, seed] for seed in range(1, args.seeds + 1)]
            for row in rows
            if row.changes is not None
        }
        print(f"\nTable {number}: {TITLES[number]}\n")
        for line in table(rows, found):
            print(line, flush=True)


def table(rows: Sequence[Row], found: dict[str, list[Result]]) -> Iterator[str]:
    """Yield a table in Markdown, and below it what is not built."""
    yield f"| row | | {' | '.join(COLUMNS)} |"
    yield f"|---|---|{'---|' * len(COLUMNS)}"
    for row in rows:
        if row.name in found:
            figures = [figures_of(result) for result in found[row.name]]
            cells = [_cell(name, figures) for name in COLUMNS.values()]
            yield f"| {row.name} | here | {' | '.join(cells)} |"
        yield f"| {row.name} | paper | {' | '.join(_reported(row))} |"
    yield ""
    for row in rows:
        if row.why_not:
            yield f"{row.name} is not built: {row.why_not}."


def figures_of(result: Result) -> dict[str, float]:
    """Return what is defined of `COLUMNS`, of one seed."""
    found = dict(result.figures)
    if "sensitivity" in found and "specificity" in found:
        found["balanced_accuracy"] = (found["sensitivity"] + found["specificity"]) / 2
    return found


def _cell(name: str, figures: list[dict[str, float]]) -> str:
    """Return the mean over those seeds in which the figure is defined."""
    values = [own[name] for own in figures if name in own]
    if not values:
        return "-"
    fewer = f" [{len(values)} of {len(figures)} seeds]" if len(values) < len(figures) else ""
    return shown(mean_interval(values)) + fewer


def _reported(row: Row) -> list[str]:
    figures = row.reported
    return [f"{figures[name]:.3f}" if name in figures else "-" for name in COLUMNS.values()]


if __name__ == "__main__":
    main()
