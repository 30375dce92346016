"""The errors that a user may see, and the exit code of each.

FedwardError                70  a bug, if nothing below fits
 ├── ConfigError             2  run.yaml or site.yaml cannot be used as written
 │    └── RefusedError       2  a run asks for more than a site allows
 ├── SiteDataError           3  a site's files do not hold what the schema promises
 │    ├── NoPatientsError    3  nothing left to train or test on
 │    └── ShortfallError     3  fewer synthetic rows can be had than were asked for
 ├── NetworkError            4  no connection
 │    └── TrustError         4  a key, signature or certificate is not trusted
 ├── QuorumLostError         5  too few sites answered, too often
 ├── BudgetSpentError        6  a site's privacy budget ends the run
 └── StorageError            7  a file cannot be written or read back

Messages say where, what and what next. They never hold a patient's value: only column, count, rule.
"""


class FedwardError(Exception):
    """Base of all errors that are shown to a user without a traceback."""

    exit_code = 70


class ConfigError(FedwardError):
    """A configuration cannot be used as written."""

    exit_code = 2


class RefusedError(ConfigError):
    """A run asks for more than a site allows; the text may be told to the coordinator."""


class SiteDataError(FedwardError):
    """A site's data do not hold what the schema promises."""

    exit_code = 3


class NoPatientsError(SiteDataError):
    """A site, or one part of its split, holds no usable patient."""


class ShortfallError(SiteDataError):
    """Fewer synthetic rows can be had than were asked for."""


class NetworkError(FedwardError):
    """A connection failed or was refused."""

    exit_code = 4


class TrustError(NetworkError):
    """A key, a signature or a certificate is not trusted."""


class QuorumLostError(FedwardError):
    """Too few sites answered for too many rounds."""

    exit_code = 5


class BudgetSpentError(FedwardError):
    """A site's privacy budget is spent and the run cannot go on."""

    exit_code = 6


class StorageError(FedwardError):
    """A file cannot be written or read back."""

    exit_code = 7
