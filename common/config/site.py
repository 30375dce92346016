"""The keys of `site.yaml`: what a hospital lends to the consortium, and its limits.

The site's value always wins: a run that asks for more is refused before any patient is read.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from fedward.common.config.read import Origin, parse_key, read_config
from fedward.common.config.section import Section, Sha256, SiteName, Text

Telemetry = Literal["cme", "cme.log_mag", "cme.rho", "cme.map_cos", "cme.top1"]
_PROXY = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})/?")


class SiteDataConfig(Section):
    """Where the patients are."""

    path: Text
    """A file or folder of this site."""
    format: Literal["table", "ct"] = "table"
    """`table`: a file of rows; `ct`: a folder of DICOM or NIfTI scans with a clinical table."""
    cache: Text = "ct-cache"
    """Of `ct`: a folder for what was read; it holds images of patients, and stays here."""
    schema_name: Text = Field(alias="schema")
    """A schema that ships with fedward, or the path of a schema file."""
    exclude: Text | None = None
    """A file of patient ids, one per line, that are never read (such as withdrawn consent)."""


class LimitsConfig(Section):
    """The most that a run may ask of this site, and the least it must promise."""

    epochs: int = Field(ge=1)
    """Most passes over the patients in one round."""
    rounds: int | None = Field(default=None, ge=1)
    """Most rounds of one run; absent: no bound."""
    payload_bytes: int | None = Field(default=None, ge=1)
    """Most bytes that leave in one answer; absent: little more than the model."""
    min_replies: int = Field(default=2, ge=1)
    """Fewest sites whose updates are averaged; with 1 the average may be this site's alone."""
    epsilon: float | None = Field(default=None, gt=0)
    """Largest privacy budget of all runs together; when given, a run without one is refused."""
    delta: float | None = Field(default=None, gt=0, lt=1)
    """Largest delta of a run, and that of the budget; when given, a run without one is refused."""
    update_norm: float | None = Field(default=None, gt=0)
    """Largest L2 norm of an update that leaves; absent: no bound."""
    synthetic_rows: int = Field(default=0, ge=0)
    """Most synthetic rows that ever leave, over all runs and studies together; 0: none do."""
    synthetic_sums: bool = False
    """Whether histograms and correlations may leave, from which others draw synthetic rows."""


class PluginConfig(Section):
    """Code of others that may run at this site: an installed package, pinned."""

    name: Text
    """Of the package, as `pip list` shows it."""
    hash: Sha256
    """SHA-256 of the installed package's RECORD file."""


class SiteConfig(Section):
    """One site: the whole of `site.yaml`."""

    version: Literal[1]
    """Of this format."""
    site: SiteName
    """The site's name, as in the roster."""
    data: SiteDataConfig
    """Where the patients are."""
    key_file: Text = "site.key"
    """The site's private key; `fedward enroll` makes it."""
    id_salt_file: Text = "id-salt"
    """The secret with which patient ids are hashed; `fedward enroll` makes it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What trains; `auto`: a GPU where there is one."""
    database: Text = "site.sqlite"
    """What the site remembers: its log, approvals, local model parts."""
    approve: Literal["ask", "listed", "any"] = "ask"
    """Who starts a run here: a person each time, runs approved before, or any operator."""
    limits: LimitsConfig
    """The most that a run may ask."""
    min_cohort: int = Field(ge=1)
    """Figures about fewer patients than this never leave. There is no default."""
    telemetry: tuple[Telemetry, ...] = Field(default=(), strict=False)
    """Which figures of how weights move may leave, rounded (`cme`: all); empty: none."""
    show_metrics: bool = True
    """Whether figures such as AUROC leave; otherwise only the loss and the count do."""
    plugins: tuple[PluginConfig, ...] = Field(default=(), strict=False)
    """Packages whose models may be used; empty: only those of fedward."""
    proxy: Text | None = None
    """The way out, http://host:port; absent: a direct connection."""
    ca_file: Text | None = None
    """A further authority to trust (PEM), such as that of a proxy."""
    retention_days: int | None = Field(default=None, ge=1)
    """Days after which what a finished run left here is removed; absent: kept."""

    @field_validator("proxy")
    @classmethod
    def _proxy_is_an_address_without_a_secret(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if "@" in value:
            raise ValueError(
                "user and password do not belong in this file; let the proxy know this host by "
                "its address, expected http://host:port"
            )
        found = _PROXY.fullmatch(value)
        if found is None or not 0 < int(found[2]) < 1 << 16:
            raise ValueError("given text, expected http://host:port")
        return value


@dataclass(frozen=True)
class LoadedSite:
    """A site's configuration and the file that it stands in."""

    config: SiteConfig
    path: Path
    """Absolute."""
    origin: Origin = field(default_factory=Origin)

    def file(self, name: str) -> Path:
        """Return the path that a key of the file names: relative to the file's own folder."""
        return self.path.parent / Path(name).expanduser()

    def where(self, key: str) -> str:
        """Return where `key` (such as `data.path`) was written: `site.yaml:12`."""
        return self.origin.of(parse_key(key))


def load_site_config(path: str | Path) -> LoadedSite:
    """Return the site that the file at `path` describes.

    Raises:
        ConfigError: the file cannot be used; one line for each thing wrong.
    """
    config, origin = read_config(path, SiteConfig)
    return LoadedSite(config, Path(path).resolve(), origin)
