"""A small file beside a site's database that says how far its privacy ledger had come.

Somebody who removes the database, or puts an old copy of it back, would otherwise get the budget
back with it. The name does not begin with the database's, so that `rm site.sqlite*` leaves it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from fedward.common.chain import Anchor, read_anchor
from fedward.common.errors import StorageError
from fedward.common.keys import write_private

KIND = "fedward privacy ledger 1"


@dataclass(frozen=True)
class AnchorFile:
    """The file of one site.

    Args:
        database: the site's, in whose folder the file is.
        site: whose.
    """

    database: Path
    site: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.database.parent / f"privacy-{self.site}.head"

    def read(self) -> Anchor | None:
        """Return what the file says; None where there is none.

        Raises:
            StorageError: it cannot be read, or is another site's.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{self.path}: cannot be read ({type(error).__name__})") from error
        anchor = read_anchor(text, KIND)
        if anchor is None:
            raise StorageError(f"{self.path}: is not what was written there")
        return anchor

    def write(self, seq: int, last_hash: str) -> None:
        """Say that the ledger has `seq` entries; on disk when it returns.

        Raises:
            StorageError: the file cannot be written.
        """
        facts = {"kind": KIND, "site": self.site, "seq": seq, "hash": last_hash}
        write_private(self.path, (json.dumps(facts) + "\n").encode())
