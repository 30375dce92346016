"""The public data sets that the shipped configurations use: where they live, and how they arrive.

`fedward data fetch` downloads from the public home, converts, verifies the parsed content against
what was published, and only then puts it in place. A copy in `FEDWARD_DATA_DIR` is used as it is.
"""

import hashlib
import http.client
import io
import os
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedward.client.data.convert import heart_disease_table, sepsis_first_hours
from fedward.client.data.read import read_frame, table_from_frame
from fedward.client.data.source import ARRAYS
from fedward.common.errors import ConfigError, NetworkError, SiteDataError, StorageError
from fedward.common.registry import did_you_mean
from fedward.common.tables.schema import TableSchema, load_schema

DATA_DIR = "FEDWARD_DATA_DIR"
TIMEOUT_S = 60
Say = Callable[[str], None]


@dataclass(frozen=True)
class DataSet:
    """One public data set. The shipped schema of the same name says what is in it."""

    name: str
    folder: str
    title: str
    licence: str
    citation: str
    home: str
    files: Mapping[str, tuple[int, int]]
    """Rows and positive rows of each converted file."""
    label: str
    sha256: str
    """Of the parsed tables or arrays, as `content_hash` returns it."""
    by_hand: str = ""
    """Why it cannot be fetched, and what to do; empty where it can."""

    @property
    def local_path(self) -> Path | None:
        """Where a complete copy is, if there is one."""
        path = data_dir() / self.folder
        return path if all((path / file).is_file() for file in self.files) else None

    def as_dict(self) -> dict[str, object]:
        """Return what `fedward data list --json` prints."""
        path = self.local_path
        return {**asdict(self), "local_path": None if path is None else str(path)}


HEART = DataSet(
    name="heart-disease",
    folder="uci_heart_disease",
    title="UCI Heart Disease: 920 patients of four hospitals",
    licence="CC BY 4.0",
    citation="Janosi, Steinbrunn, Pfisterer, Detrano 1988, UCI Machine Learning Repository, id 45",
    home="https://archive.ics.uci.edu/static/public/45/heart+disease.zip",
    files={"heart_disease_4sites.csv": (920, 509)},
    label="num",
    sha256="7756d6082d9e505b696ba80329f35c88ea047dfbb940018285b5dc6b1172225a",
)
SEPSIS = DataSet(
    name="sepsis",
    folder="physionet2019_sepsis",
    title="PhysioNet/CinC Challenge 2019: first hours of 40,336 intensive care patients, A and B",
    licence="CC BY 4.0 (see physionet.org/content/challenge-2019 before passing it on)",
    citation="Reyna et al. 2020, Crit Care Med 48:210-217, doi:10.13026/v64v-d857",
    home="https://physionet.org/static/published-projects/challenge-2019/"
    "early-prediction-of-sepsis-from-clinical-data-the-physionetcomputing-in-cardiology-challenge"
    "-2019-1.0.0.zip",
    files={
        "hospital_A_first9h.csv.gz": (20336, 1790),
        "hospital_B_first9h.csv.gz": (20000, 1142),
    },
    label="sepsis",
    sha256="a922e791e847b52c2271bd96e99f928389b2bae78b487570913e6c1787344fd9",
)
KIDNEY_STONES = DataSet(
    name="kidney-stone-slices",
    folder="kssd2025_kidney_stone",
    title="KSSD2025: 838 axial CT slices with masks of kidney stones, 8 bits, without spacing",
    licence="unclear: the repository states none, the parent set is said to be CC BY 4.0; use it "
    "for experiments of your own, and publish no picture of it",
    citation="KSSD2025 (Kaggle, murillobouzon/kssd2025-kidney-stone-segmentation-dataset), from "
    "the CT KIDNEY DATASET, Islam et al. 2022",
    home="https://github.com/p-art-dheev/kidney-stone-segmentation",
    files={"kssd2025_256.npz": (838, 0)},
    label="",
    sha256="4006b52ed5c319c14da2a5af7010acc9ff354603ff09a6397e24e326d945fb80",
    by_hand="its licence is unclear, so fedward does not download it; average the 512 x 512 slices "
    "to 256 x 256, and write `images`, `masks`, `ids`, `stone_px_512` and `series_guess` with "
    "numpy.savez_compressed",
)
NODULES = DataSet(
    name="lidc-nodules",
    folder="lidc_nodules_2d",
    title="LIDC-IDRI: 2,680 lung nodules in their largest slice, HU, four scanner vendors",
    licence="CC BY 3.0 (the images, TCIA)",
    citation="Armato et al. 2011, Med Phys 38:915-931, doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    home="https://github.com/mtzig/LIDC_GDRO",
    files={"lidc_nodules_2d_71.npz": (2680, 702)},
    label="malignancy_mean",
    sha256="dd7c1e759c0c0428bc7febffaf7f38a16ae82f3b8348719d13cd8597de489b8e",
    by_hand="its home holds text files of crops and contours, and no archive of this form; write "
    "`images` (int16 HU), `masks` (packed bits), `mask_shape` and a value per nodule of each "
    "column of the schema with numpy.savez_compressed",
)
NODULES_3D = DataSet(
    name="lidc-nodules-3d",
    folder="lidc_nodules_3d_51",
    title="134 lung nodules in crops of 51 x 51 x 51 voxels with masks, 8 bits, without spacing",
    licence="none in the repository: for experiments of your own, and publish no picture of it",
    citation="Pessanha, github.com/franciscapessanha/Pulmonary-nodules-analysis; ratings as in "
    "LIDC-IDRI, Armato et al. 2011",
    home="https://github.com/franciscapessanha/Pulmonary-nodules-analysis",
    files={"lidc_nodules_51.npz": (134, 67)},
    label="malignancy",
    sha256="e09e56a8e8735099147cf090c19bc42706b33ac234cf883139b8a143b111c57a",
    by_hand="it has no licence, so fedward does not download it; write `images` (uint8), `masks` "
    "(packed bits), `mask_shape`, `patient`, `ids` and the ratings with numpy.savez_compressed",
)
BRAIN_TUMOURS = DataSet(
    name="brain-tumor-mri",
    folder="brain_tumor_mri",
    title="3,264 MR slices of brains with glioma, meningioma, pituitary tumour or none, 8 bits",
    licence="none in the repository: for experiments of your own, and publish no picture of it",
    citation="Bhuvaji, Kadam, Bhumkar, Dedge, Kanchan 2020, Brain Tumor Classification (MRI), "
    "Kaggle, doi:10.34740/KAGGLE/DSV/1183165",
    home="https://github.com/SartajBhuvaji/Brain-Tumor-Classification-DataSet",
    files={"brain_tumor_mri_128.npz": (3264, 2338)},
    label="labels",
    sha256="9add1b4c2b92dec00ca62d726f326e9a952b7df219ef6a5ccdf36cde0b67812c",
    by_hand="it has no licence, so fedward does not download it; make the pictures grey and 128 x "
    "128 (Lanczos), and write `images` (uint8), `labels` (0 glioma, 1 meningioma, 2 none, 3 "
    "pituitary), `split`, `dup_group` (the first image with the same pixels), `files`, `sha256` "
    "and `classes` with numpy.savez_compressed",
)
DATA_SETS = {
    entry.name: entry
    for entry in (HEART, SEPSIS, KIDNEY_STONES, NODULES, NODULES_3D, BRAIN_TUMOURS)
}


def data_dir() -> Path:
    """Return the folder of local copies: `FEDWARD_DATA_DIR`, or `~/.cache/fedward`."""
    chosen = os.environ.get(DATA_DIR)
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "fedward"


def list_data_sets() -> list[DataSet]:
    """Return all known data sets."""
    return list(DATA_SETS.values())


def resolve_root(root: str, base_dir: Path) -> Path:
    """Return the folder that `data.root` means.

    Args:
        root: a data set's name or folder name, which wins over a path of that name (`./sepsis` is
            always the path), or a path.
        base_dir: where relative paths start.

    Raises:
        ConfigError: it is not here; for a known data set, with the command that fetches it.
    """
    by_folder = {entry.folder: entry.name for entry in DATA_SETS.values()}
    name = by_folder.get(root, root.replace("_", "-").lower())
    if name in DATA_SETS:
        found = DATA_SETS[name].local_path
        if found is None and DATA_SETS[name].by_hand:
            raise ConfigError(
                f"data.root: {root} is not in {data_dir()}; {_bring(DATA_SETS[name])}"
            )
        if found is None:
            raise ConfigError(
                f"data.root: {root} is not in {data_dir()}; run: fedward data fetch {name}\n"
                f"(or set {DATA_DIR} to the folder that holds {DATA_SETS[name].folder})"
            )
        return found
    path = base_dir / Path(root).expanduser()
    if not path.is_dir():
        raise ConfigError(
            f"data.root: there is no folder {path}{did_you_mean(name, DATA_SETS)}; "
            f"data sets that can be fetched: {', '.join(DATA_SETS)} (fedward data fetch NAME)"
        )
    return path


def fetch(name: str, *, to: Path | None = None, progress: Say = lambda text: None) -> Path:
    """Download, convert and verify a data set, and return its folder.

    Args:
        name: as `list_data_sets` shows it.
        to: the folder that holds data sets; default: `data_dir()`.
        progress: called with what is being done.

    Raises:
        ConfigError: no such data set.
        NetworkError: its home cannot be reached.
        SiteDataError: what arrived is not what was published.
        StorageError: it cannot be put in place.
    """
    if name not in DATA_SETS:
        raise ConfigError(
            f"no data set {name!r}{did_you_mean(name, DATA_SETS)}; known: {', '.join(DATA_SETS)}"
        )
    entry = DATA_SETS[name]
    target = (to or data_dir()) / entry.folder
    progress(f"{entry.title}\nlicence: {entry.licence}\ncite: {entry.citation}")
    if all((target / file).is_file() for file in entry.files):
        progress("already here; checking it")
        try:
            verify(entry, target)
        except SiteDataError as error:
            raise SiteDataError(f"{error}; delete {target} and fetch it again") from error
        return target
    if entry.by_hand:
        raise ConfigError(f"{name} must be brought by hand: {_bring(entry)}")
    archive = _download(entry.home, progress)
    progress("converting")
    _put_in_place(_convert(entry, archive), entry, target)
    progress(f"verified, {content_hash(target, entry)[:16]}")
    return target


def _bring(entry: DataSet) -> str:
    return (
        f"{entry.by_hand}; put {', '.join(entry.files)} into a folder {entry.folder} there, or set "
        f"{DATA_DIR} to where that folder is (home: {entry.home})"
    )


def _convert(entry: DataSet, archive: bytes) -> dict[str, pd.DataFrame]:
    try:
        return CONVERTERS[entry.name](zipfile.ZipFile(io.BytesIO(archive)))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise SiteDataError(
            f"{entry.home}: not the archive that was published ({type(error).__name__}); "
            "fetch it again"
        ) from error


def _put_in_place(tables: Mapping[str, pd.DataFrame], entry: DataSet, target: Path) -> None:
    """Write, verify, and only then move the files to `target`."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target) as scratch:
            for file, table in tables.items():
                table.to_csv(Path(scratch) / file, index=False)
            verify(entry, Path(scratch))
            for file in tables:
                (Path(scratch) / file).replace(target / file)
    except OSError as error:
        raise StorageError(f"{target}: cannot be written ({error.strerror})") from error


def verify(entry: DataSet, folder: Path) -> None:
    """Check each file against its schema, and rows, positives and every cell as published.

    Raises:
        SiteDataError: they differ.
    """
    schema = load_schema(entry.name)
    for file, (num_rows, num_positive) in entry.files.items():
        frame = _frame(folder / file, schema)
        table = table_from_frame(frame, schema, place=f"{entry.name}, {file}")
        # A rule that drops rows is our own: what was published is counted with them.
        positive = (frame[entry.label] > 0) if schema.image is None else table.label > 0
        found = (len(frame), int(positive.sum()))
        if found != (num_rows, num_positive):
            raise SiteDataError(
                f"{entry.name}, {file}: {found[0]} rows, {found[1]} positive; published are "
                f"{num_rows} and {num_positive}"
            )
    if content_hash(folder, entry) != entry.sha256:
        raise SiteDataError(
            f"{entry.name}: rows and positives are those that were published, other cells differ"
        )


def _frame(path: Path, schema: TableSchema) -> pd.DataFrame:
    if schema.image is None:
        return read_frame(path)
    from fedward.client.data.array_source import read_arrays  # torch: seconds; a list needs none

    return read_arrays(path, schema)[0]


def content_hash(folder: Path, entry: DataSet) -> str:
    """Return the SHA-256 of the parsed tables, or of the arrays.

    It depends on names and values (as float32), not on how they are written, nor on the order of
    rows and columns, nor on the version of pandas.
    """
    digest = hashlib.sha256()
    for file in sorted(entry.files):
        if file.endswith(ARRAYS):
            _hash_arrays(folder / file, digest)
            continue
        table = pd.read_csv(folder / file)
        names = sorted(map(str, table.columns))
        table = table.sort_values(names, kind="stable")
        for name in names:
            column = table[name]
            if pd.api.types.is_numeric_dtype(column):
                # Adding 0 turns -0 into 0; all missing values become the same one.
                values = column.to_numpy(np.float32, na_value=np.nan) + np.float32(0)
                content = np.where(np.isnan(values), np.float32(np.nan), values)
                digest.update(name.encode() + b"=" + content.astype("<f4").tobytes())
            else:
                digest.update(name.encode() + b"=" + "\n".join(map(str, column)).encode())
    return digest.hexdigest()


def _hash_arrays(path: Path, digest: "hashlib._Hash") -> None:
    with np.load(path, allow_pickle=False) as stored:
        for name in sorted(stored.files):
            array = stored[name]
            digest.update(f"{name}={array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())


def _download(url: str, progress: Say) -> bytes:
    progress(f"downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - https
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NetworkError(
            f"cannot reach {url} ({reason}); download it elsewhere, and set {DATA_DIR} to the "
            "folder that holds the converted files"
        ) from error
    return content


CONVERTERS: dict[str, Callable[[zipfile.ZipFile], dict[str, pd.DataFrame]]] = {
    "heart-disease": heart_disease_table,
    "sepsis": sepsis_first_hours,
}
