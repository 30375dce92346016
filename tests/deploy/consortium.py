"""A small consortium on disk, for tests that need keys and kits."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from fedward.common.config.consortium import LoadedConsortium, load_consortium
from fedward.deploy.enroll import Enrolled, enroll_operator, enroll_site

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SITE = """\
version: 1
site: {name}
data: {{path: cohort.csv, schema: heart-disease}}
limits: {{epochs: 5}}
min_cohort: 10
"""


def enroll(folder: Path, site: str) -> Enrolled:
    """Return the public side of a new site, which lives in `folder/SITE`."""
    (folder / site).mkdir(exist_ok=True)
    path = folder / site / "site.yaml"
    path.write_text(SITE.format(name=site), encoding="utf-8")
    return enroll_site(path)


def found(folder: Path, *sites: str, text: str = "") -> LoadedConsortium:
    """Return a consortium of operator anna and the named sites, each newly enrolled if needed."""
    anna = enroll_operator("anna", folder / "anna.key")
    keys = {site: enroll(folder, site).public_key for site in sites}
    return write(folder, anna.public_key, keys, text=text)


def write(
    folder: Path, operator_key: str, site_keys: Mapping[str, str], *, text: str = ""
) -> LoadedConsortium:
    """Return the consortium with these keys, from `folder/consortium.yaml`."""
    lines = [
        "version: 1",
        "name: Heart North",
        "server: {address: 'federation.example.org:8443', names: [10.0.0.7]}",
        "operators:",
        f"  - {{name: anna, public_key: {operator_key}}}",
        "sites:",
        *(
            f"  - {{name: {name}, public_key: {key}, cohort_bound: 500}}"
            for name, key in site_keys.items()
        ),
        text,
    ]
    path = folder / "consortium.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return load_consortium(path)
