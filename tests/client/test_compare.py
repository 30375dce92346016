"""Two files of predictions against one table, as `fedward compare` reads them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedward.client.compare import Question, compare
from fedward.common.delong import delong_test
from fedward.common.errors import ConfigError, NoPatientsError, SiteDataError
from fedward.deploy.cli import main

NUM_PATIENTS = 120


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return A.csv, B.csv and the table; A is the better model."""
    generator = np.random.default_rng(2)
    ill = generator.random(NUM_PATIENTS) < 0.4
    ids = [f"p{number:03d}" for number in generator.permutation(NUM_PATIENTS)]
    table = pd.DataFrame(
        {
            "patient": ids,
            "sex": generator.choice(["F", "M"], NUM_PATIENTS),
            "age": generator.uniform(20, 90, NUM_PATIENTS).round(1),
            "infection": np.where(ill, "infectious", "non-infectious"),
        }
    )
    table.loc[0, "infection"] = None
    table.to_csv(tmp_path / "T.csv", index=False)
    for name, gain in (("A", 2.0), ("B", 0.3)):
        p = 1 / (1 + np.exp(-(gain * (ill - 0.5) + generator.normal(size=NUM_PATIENTS))))
        found = pd.DataFrame({"row": np.arange(1, NUM_PATIENTS + 1), "patient": ids})
        found["probability_non-infectious"], found["probability_infectious"] = 1 - p, p
        found.loc[1, ["probability_non-infectious", "probability_infectious"]] = np.nan
        order = generator.permutation(NUM_PATIENTS)
        found.iloc[order].to_csv(tmp_path / f"{name}.csv", index=False)
    return tmp_path / "A.csv", tmp_path / "B.csv", tmp_path / "T.csv"


def rewrite(path: Path, **columns: Any) -> None:
    """Write the file again with other columns."""
    pd.read_csv(path).assign(**columns).to_csv(path, index=False)


def test_rows_go_together_by_their_number_whatever_their_order(
    files: tuple[Path, Path, Path],
) -> None:
    found = compare(*files, Question())
    a, b = (pd.read_csv(path).sort_values("row") for path in files[:2])
    truth = pd.read_csv(files[2])
    keep = np.arange(2, NUM_PATIENTS)  # the first lacks an outcome, the second its predictions
    want = delong_test(
        (truth["infection"] == "infectious").to_numpy()[keep],
        a["probability_infectious"].to_numpy()[keep],
        b["probability_infectious"].to_numpy()[keep],
    )
    assert found.test == want
    assert (found.num_rows, found.num_without) == (NUM_PATIENTS - 2, 2)
    assert (found.label, found.positive) == ("infection", "infectious")
    assert want.p_value is not None
    assert want.p_value < 0.01


def test_several_rows_of_a_patient_are_one_draw(files: tuple[Path, Path, Path]) -> None:
    ids = [f"p{number // 3}" for number in range(NUM_PATIENTS)]
    for path in files[:2]:
        rows = pd.read_csv(path)["row"].to_numpy() - 1
        rewrite(path, patient=[ids[row] for row in rows])
    rewrite(files[2], patient=ids)
    assert compare(*files, Question()).test.difference.n == NUM_PATIENTS // 3


def test_the_table_may_hold_numbers_of_classes(files: tuple[Path, Path, Path]) -> None:
    named = compare(*files, Question())
    text = pd.read_csv(files[2])["infection"]
    rewrite(files[2], infection=text.map({"infectious": 1, "non-infectious": 0}))
    assert compare(*files, Question(label="infection")).test == named.test
    with pytest.raises(ConfigError, match="--label"):
        compare(*files, Question())


def test_subgroups_have_n_and_interval_or_a_reason(files: tuple[Path, Path, Path]) -> None:
    found = compare(*files, Question(subgroups=("sex", "age")))
    rows = {(row.group, row.level): row for row in found.subgroups}
    assert ("age", "50 to 60") in rows
    assert sum(row.num_patients for row in found.subgroups if row.group == "sex") == 118
    for row in found.subgroups:
        assert row.metric.n == row.num_patients
        assert (row.metric.low is None) == (row.metric.reason is not None)


def test_small_subgroups_have_no_figure(files: tuple[Path, Path, Path]) -> None:
    sex = pd.read_csv(files[2])["sex"]
    sex[5:8] = "X"
    rewrite(files[2], sex=sex)
    found = compare(*files, Question(subgroups=("sex",)))
    assert found.subgroups[-1].metric.reason == "fewer than 5 patients"


def test_files_of_other_patients_are_refused_without_naming_them(
    files: tuple[Path, Path, Path],
) -> None:
    ids = pd.read_csv(files[1])["patient"]
    ids[3] = "p999"
    rewrite(files[1], patient=ids)
    with pytest.raises(SiteDataError, match="1 rows have another patient") as error:
        compare(*files, Question())
    assert "p999" not in str(error.value)


def test_wrong_questions_say_what_next(files: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'infectious'"):
        compare(*files, Question(positive="infectous"))
    with pytest.raises(ConfigError, match="--by: no column 'sexx'"):
        compare(*files, Question(subgroups=("sexx",)))
    with pytest.raises(ConfigError, match="--label: no column"):
        compare(*files, Question(label="outcome"))
    with pytest.raises(SiteDataError, match="no column `row`"):
        compare(files[2], files[1], files[2], Question())
    rewrite(files[1], row=np.arange(1000, 1000 + NUM_PATIENTS))
    with pytest.raises(SiteDataError, match="rows that the table lacks"):
        compare(*files, Question())


def test_a_table_without_outcomes_compares_nothing(files: tuple[Path, Path, Path]) -> None:
    rewrite(files[2], infection=None)
    with pytest.raises(NoPatientsError):
        compare(*files, Question(label="infection"))


def test_the_command_prints_both_and_answers_scripts(
    files: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(files[0]), str(files[1]), "--truth", str(files[2]), "--by", "sex"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "A - B" in text
    assert "p = " in text
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test"]["difference"]["n"] == 118
    assert found["subgroups"][0]["level"] == "F"
    assert main([*words[:-1], "nothing"]) == 2
