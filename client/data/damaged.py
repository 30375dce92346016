"""What the libraries that read images raise on damaged files, as errors of a site's data."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from fedward.common.errors import SiteDataError


@contextmanager
def damage_as(what: str) -> Iterator[None]:
    """Yield; turn whatever is raised meanwhile into `what`, and let pass that the standard is bent.

    The library's own text is left out: it quotes values.

    Raises:
        SiteDataError: with `what` and the kind of error, unless it was one already.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # many a file breaks the standard where it does not matter
        try:
            yield
        except SiteDataError:
            raise
        except Exception as error:  # noqa: BLE001 - pydicom, nibabel and decoders raise many kinds
            raise SiteDataError(f"{what} ({type(error).__name__})") from None
