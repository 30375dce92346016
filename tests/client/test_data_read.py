from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedward.client.data.convert import first_hours, heart_disease_site
from fedward.client.data.read import read_frame, spelled, table_from_frame
from fedward.client.data.source import FileSource
from fedward.common.errors import NoPatientsError, SiteDataError
from fedward.common.tables.schema import load_schema
from tests.client.clinic import CLINIC, clinic_frame

PLANTED = "731.3077"
"""A value that no message may show."""


def table(frame: pd.DataFrame, **keys: Any) -> Any:
    return table_from_frame(frame, CLINIC, place="clinic.csv", **keys)


def with_cell(column: str, value: Any, num_cells: int = 2) -> pd.DataFrame:
    frame = clinic_frame()
    frame[column] = frame[column].astype(object)
    frame.loc[: num_cells - 1, column] = value
    return frame


def refusal(frame: pd.DataFrame) -> str:
    with pytest.raises(SiteDataError) as caught:
        table(frame)
    assert str(caught.value).startswith("clinic.csv: ")
    assert PLANTED not in str(caught.value)
    return str(caught.value)


def test_good_rows_become_numbers() -> None:
    frame = clinic_frame()
    read = table(frame)
    assert len(read) == 20
    np.testing.assert_array_equal(read.columns["age"], frame["age"])
    names = np.array(["never", "former", "current"])
    assert (names[read.columns["smoker"].astype(int)] == frame["smoker"]).all()
    np.testing.assert_array_equal(read.columns["stage"], frame["stage"] - 1)
    np.testing.assert_array_equal(read.label, frame["died"])
    np.testing.assert_array_equal(read.subgroups["old"], frame["age"] >= 65)
    np.testing.assert_array_equal(read.subgroups["smokers"], frame["smoker"] == "current")
    assert "ward" not in read.columns


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_every_kind_of_file_gives_the_same_table(tmp_path: Path, suffix: str) -> None:
    frame, path = clinic_frame(), tmp_path / f"clinic{suffix}"
    frame.loc[3:5, ["age", "smoker"]] = np.nan
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    read, direct = FileSource("a", path, CLINIC).read(), table(frame)
    for name in direct.columns:
        np.testing.assert_array_equal(read.columns[name], direct.columns[name])
    np.testing.assert_array_equal(read.patient_id, direct.patient_id)


def test_a_missing_column_is_named_with_the_nearest_that_is_there() -> None:
    message = refusal(clinic_frame().rename(columns={"creatinine": "creatinin", "died": "x"}))
    assert "no column 'creatinine', did you mean 'creatinin'?" in message
    assert "'died'" in message


def test_an_unknown_column_is_refused_and_an_excluded_one_is_not() -> None:
    frame = clinic_frame()
    assert "does not know: diagnosis" in refusal(frame.assign(diagnosis=1))
    assert len(table(frame.drop(columns="ward"))) == len(table(frame)) == 20


def test_another_unit_is_found_by_its_range_and_told_without_values() -> None:
    frame = clinic_frame()
    frame["creatinine"] /= 88.42  # mg/dl
    message = refusal(frame)
    assert "column 'creatinine': 20 of 20 values are outside 10 to 3000 umol/l" in message
    assert "another unit" in message


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("age", f"about {PLANTED}", "column 'age': 2 cells are not numbers"),
        ("age", "61,5", "column 'age': 2 cells are not numbers"),
        ("age", np.inf, "column 'age': 2 cells are infinite"),
        ("age", "-inf", "column 'age': 2 cells are infinite"),
        ("age", float(PLANTED), "column 'age': 2 of 20 values are outside 0 to 120 years"),
        ("smoker", PLANTED, "column 'smoker': 2 cells are none of the categories never, former"),
        ("smoker", "Never", "column 'smoker': 2 cells are none of the categories"),
        ("stage", 2.5, "column 'stage': 2 cells are none of the categories 1, 2, 3"),
        ("died", np.nan, "label 'died': 2 rows have none"),
        ("died", 2, "label 'died': 2 rows are not a class from 0 to 1"),
        ("died", 0.5, "label 'died': 2 rows are not a class"),
        ("died", PLANTED, "label 'died': 2 rows are not a class"),
        ("died", f"x{PLANTED}", "column 'died': 2 cells are not numbers"),
        ("mrn", np.nan, "column 'mrn': 2 rows have none"),
        ("hour_of_death", f"x{PLANTED}", "column 'hour_of_death': 2 cells are not numbers"),
    ],
)
def test_a_bad_cell_is_told_by_column_count_and_rule(column: str, value: object, says: str) -> None:
    assert says in refusal(with_cell(column, value))


@pytest.mark.parametrize("code", [0, 0.0, "0", "refused", np.nan])
def test_a_missing_code_is_missing(code: object) -> None:
    missing = np.isnan(table(with_cell("chol", code, 3)).columns["chol"])
    assert missing.tolist() == [True] * 3 + [False] * 17


def test_a_categorys_missing_code_is_missing_and_the_answer_none_is_no_empty_cell(
    tmp_path: Path,
) -> None:
    assert np.isnan(table(with_cell("smoker", "not asked")).columns["smoker"][:2]).all()
    with_cell("smoker", "None").to_csv(tmp_path / "clinic.csv", index=False)
    message = refusal(read_frame(tmp_path / "clinic.csv"))
    assert "2 cells are none of the categories" in message


@pytest.mark.parametrize("spelled", [1, 1.0, "1", "1.0", " 1 "])
def test_a_category_is_the_same_however_its_number_is_spelled(spelled: object) -> None:
    assert table(with_cell("stage", spelled)).columns["stage"][:2].tolist() == [0.0, 0.0]


def test_a_missing_value_belongs_to_no_subgroup() -> None:
    read = table(with_cell("age", np.nan, 4))
    assert not read.subgroups["old"][:4].any()
    assert not read.subgroups["young"][:4].any()
    assert (read.subgroups["old"] | read.subgroups["young"])[4:].all()


def test_the_drop_rule_takes_the_rows_and_leaves_those_without_a_value() -> None:
    frame = clinic_frame()
    frame["hour_of_death"] = [5.0, 9.0, 10.0, *[np.nan] * 17]
    assert table(frame).columns["age"].tolist() == frame["age"][2:].tolist()


@pytest.mark.parametrize("excluded", [[1003, 1007], ["1003", "1007"], [1003.0, "01007", "9"]])
def test_excluded_patients_are_gone_however_their_number_is_spelled(excluded: list[Any]) -> None:
    frame = clinic_frame()
    kept = frame[~frame["mrn"].isin([1003, 1007])]
    assert table(frame, excluded=excluded).columns["age"].tolist() == kept["age"].tolist()
    as_text = frame.assign(mrn=frame["mrn"].astype(str))
    assert len(table(as_text, excluded=excluded)) == 18


def test_excluding_a_patient_spares_one_whose_long_number_is_nearly_the_same() -> None:
    frame = clinic_frame()
    frame["mrn"] = 9_007_199_254_740_993 + np.arange(20)
    assert len(table(frame, excluded=[9_007_199_254_740_993])) == 19


def test_an_excluded_patients_bad_cells_are_never_looked_at() -> None:
    assert len(table(with_cell("age", "unknown", 1), excluded=[1000])) == 19


def test_exclusion_needs_a_column_that_names_patients() -> None:
    schema = CLINIC.model_copy(update={"patient_id": None})
    frame = clinic_frame().drop(columns="mrn")
    with pytest.raises(SiteDataError, match="names no patient_id"):
        table_from_frame(frame, schema, place="clinic.csv", excluded=[1])


def test_several_rows_of_a_patient_keep_one_number() -> None:
    frame = clinic_frame().assign(mrn=[f"p{row // 4}" for row in range(20)])
    assert table(frame).patient_id.tolist() == [row // 4 for row in range(20)]


def test_the_minimum_cohort_counts_patients_not_rows_and_its_size_is_not_told() -> None:
    frame = clinic_frame(3)
    message = refusal(pd.concat([frame] * 10))
    assert "fewer patients than the minimum cohort of 4" in message
    assert "3" not in message
    assert len(table(clinic_frame(4))) == 4


def test_a_table_without_rows_has_no_patient_left() -> None:
    with pytest.raises(NoPatientsError, match="no patient is left"):
        table(clinic_frame(0))
    with pytest.raises(NoPatientsError, match="no patient is left"):
        table(clinic_frame().assign(hour_of_death=1))


def test_a_site_with_one_class_is_read() -> None:
    assert not table(clinic_frame().assign(died=0)).label.any()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"", "the file is empty; expected a header and rows"),
        ("a.csv", b"mrn;age\n1;2\n", "is it separated by commas?"),
        ("a.csv", b"a,b\n1,2\n3,731.3077,5\n", "cannot be read as a table (ParserError, line 3)"),
        ("a.csv", b"a,b\n1,2,3\n4,5,6\n", "rows have more cells than the header has names"),
        ("a.csv", b"\xff\xfe\x00\x81", "cannot be read as a table"),
        ("a.csv.gz", b"mrn,age\n", "cannot be read as a table"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00\x00", "cannot be read as a table"),
        ("a.parquet", b"PAR1nonsense", "cannot be read as a table"),
        ("a.xlsx", b"PK", "expected a file ending in .csv, .csv.gz, .parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SiteDataError) as caught:
        FileSource("a", tmp_path / name, CLINIC).read()
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert PLANTED not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SiteDataError, match=r"gone\.csv: there is no such file"):
        FileSource("a", tmp_path / "gone.csv", CLINIC).read()


def test_a_source_is_opened_once_and_never_printed(tmp_path: Path) -> None:
    path = tmp_path / "clinic.csv"
    clinic_frame().to_csv(path, index=False)
    source = FileSource("a", path, CLINIC, excluded=[1000])
    first = source.read()
    path.unlink()
    assert source.read() is first
    assert "1000" not in repr(source)


def test_a_column_of_many_categories_is_read_in_one_pass() -> None:
    categories = [f"code {number}" for number in range(2000)]
    field = {"name": "code", "kind": "categorical", "categories": categories}
    schema = CLINIC.model_validate(
        {"version": 1, "name": "codes", "label": {"column": "died"}, "fields": [field]}
    )
    frame = pd.DataFrame({"code": categories * 20, "died": 0})

    calls = 0

    class Counted(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            nonlocal calls
            calls += 1
            return super().__eq__(other)

        __hash__ = str.__hash__

    frame["code"] = pd.Series([Counted(code) for code in frame["code"]], dtype=object)
    read = table_from_frame(frame, schema, place="codes.csv")
    np.testing.assert_array_equal(read.columns["code"], np.tile(np.arange(2000.0), 20))
    # One comparison per category and row would be 80 million.
    assert calls < 1_000_000


def test_heart_disease_holds_the_four_hospitals_and_zero_cholesterol_is_missing(
    data_dir: Path,
) -> None:
    frame = read_frame(data_dir / "uci_heart_disease" / "heart_disease_4sites.csv")
    schema = load_schema("heart-disease")
    # Rows, positives, zeros of cholesterol and of blood pressure: the data set's own page.
    published = {
        "cleveland": (303, 139, 0, 0),
        "hungarian": (294, 106, 0, 0),
        "switzerland": (123, 115, 123, 0),
        "va": (200, 149, 49, 1),
    }
    for site, (num_rows, num_positive, no_chol, no_pressure) in published.items():
        own = frame[frame["site"] == site]
        read = table_from_frame(own, schema, place=site)
        assert (len(read), int(read.label.sum())) == (num_rows, num_positive)
        for column, zeros in (("chol", no_chol), ("trestbps", no_pressure)):
            missing = int(np.isnan(read.columns[column]).sum())
            assert missing == int(own[column].isna().sum()) + zeros


@pytest.mark.parametrize(("hospital", "num_rows"), [("A", 19840), ("B", 19635)])
def test_the_sepsis_schema_takes_every_patient_but_those_septic_in_the_first_hours(
    data_dir: Path, hospital: str, num_rows: int
) -> None:
    path = data_dir / "physionet2019_sepsis" / f"hospital_{hospital}_first9h.csv.gz"
    read = FileSource("a", path, load_schema("sepsis")).read()
    assert len(read) == len(np.unique(read.patient_id)) == num_rows
    assert not {"first_hour", "last_hour", "label_onset_hour", "sepsis"} & set(read.columns)


def test_flambys_schema_takes_every_patient(data_dir: Path) -> None:
    frame = read_frame(data_dir / "uci_heart_disease" / "heart_disease_4sites.csv")
    read = table_from_frame(frame, load_schema("heart-disease-flamby"), place="all")
    assert len(read) == 920
    assert (read.columns["chol"] == 0).sum() == 172


def test_the_converted_files_of_heart_disease_are_the_table(data_dir: Path) -> None:
    folder = data_dir / "uci_heart_disease"
    expected = pd.read_csv(folder / "heart_disease_4sites.csv")
    for site in expected["site"].unique():
        text = (folder / f"processed.{site}.data").read_text(encoding="latin-1")
        own = expected[expected["site"] == site].reset_index(drop=True)
        pd.testing.assert_frame_equal(heart_disease_site(text, site)[list(own.columns)], own)


def test_the_first_hours_of_the_hourly_series_are_the_table(data_dir: Path) -> None:
    folder = data_dir / "physionet2019_sepsis"
    expected = pd.read_csv(folder / "hospital_A_first9h.csv.gz")
    hourly = pd.read_parquet(folder / "hospital_A_hourly.parquet")
    hourly["patient_id"] = hourly["patient_id"].map("p{:06d}".format)
    # The series is stored as 32-bit floats.
    pd.testing.assert_frame_equal(
        first_hours(hourly), expected, check_dtype=False, rtol=1e-6, atol=1e-6
    )


def test_a_file_without_a_header_is_refused_and_its_first_patient_is_not_quoted(
    tmp_path: Path,
) -> None:
    (tmp_path / "clinic.csv").write_text("agee,Doe,1948\n47,Roe,1950\n")
    message = refusal(read_frame(tmp_path / "clinic.csv"))
    assert "line of column names" in message
    assert not any(cell in message for cell in ("agee", "Doe", "1948"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1_1", "11"),
        ("1234567890123456789012345678901", "1234567890123456789012345678902"),
        ("5e-12345678", "0"),
        ("5e12345678", "5e12345679"),
    ],
)
def test_texts_that_are_no_one_number_are_different_patients(one: str, other: str) -> None:
    assert spelled(one) != spelled(other)
