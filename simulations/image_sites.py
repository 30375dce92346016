"""Sites of a simulation that have images: files of them, and phantoms that are made first."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedward.client.data.source import FileSource
from fedward.common.config.image import ImageConfig, PhantomConfig, PicturesConfig
from fedward.common.config.run import DataConfig
from fedward.common.errors import ConfigError
from fedward.common.tables.schema import TableSchema
from fedward.common.tables.table import TableSource

CACHE_DIR = "FEDWARD_CACHE_DIR"
TENTHS = 10


def cache_dir() -> Path:
    """Return where scans are kept as rows, and phantoms as files: `FEDWARD_CACHE_DIR`, or in ~."""
    chosen = os.environ.get(CACHE_DIR)
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache" / "fedward"


def open_source(
    site: str, path: Path, schema: TableSchema, image: ImageConfig | None
) -> TableSource:
    """Return where a site's rows come from: its table, or its folder of scans; nothing is read yet.

    Args:
        site: its name.
        path: a file, or a folder where the schema speaks of images.
        schema: what the columns and images mean.
        image: how the run wants its images.

    Raises:
        ConfigError: the run has no `data.image` where the schema has images.
    """
    if schema.image is None:
        return FileSource(site, path, schema)
    if image is None:
        raise ConfigError("data.image: missing; the schema has images, and a run says their size")
    # pydicom, MONAI and others belong to an extra, and take seconds.
    from fedward.client.data.array_source import ARRAY_SUFFIX, ArraySource
    from fedward.client.data.ct_source import CtSource

    if path.suffix == ARRAY_SUFFIX:
        return ArraySource(site, path, schema, image=image)
    return CtSource(site, path, schema, image, cache=cache_dir() / "scans" / site)


def phantom_sources(data: DataConfig, schema: TableSchema) -> dict[str, Callable[[], TableSource]]:
    """Return how to open each site of a cohort of phantoms, which is made if it is not there."""
    assert data.to_make is not None
    folder = make_phantoms(data.to_make)
    # A site of CT is a folder of scans, a site of pictures one file of arrays.
    suffix = ".npz" if isinstance(data.to_make, PicturesConfig) else ""
    return {
        site: partial(open_source, site, folder / f"{site}{suffix}", schema, data.image)
        for site in data.to_make.patients
    }


def make_phantoms(
    config: PhantomConfig | PicturesConfig, *, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Return the folder of a cohort of phantoms, which is made once.

    Args:
        config: what it is made of.
        say: told what is done, a line at a time.
    """
    total = sum(config.patients.values())
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if done * TENTHS // total > told:
            told = done * TENTHS // total
            say(f"{what}: {done} of {total}")

    # What draws them takes seconds to import.
    if isinstance(config, PicturesConfig):
        from fedward.synth.pictures.cohort import make_pictures, pictures_key

        what, key, make = "patients' pictures", pictures_key(config), partial(make_pictures, config)
    else:
        from fedward.synth.phantom.cohort import cohort_key, make_cohort

        what, key, make = "CT phantoms", cohort_key(config), partial(make_cohort, config)
    folder = cache_dir() / "phantoms" / key
    if not folder.exists():
        say(f"making {total} {what} in {folder} (once)")
    return make(folder, progress=progress)
