"""The Flower bundle that carries a run to the sites: the same bytes for one version of fedward.

Flower ships code with each run. We ship a constant instead: what a run does is in its signed
request, and each side answers with the code that it has installed. Comparing the bundle's hash
tells both sides that they speak the same version, and gives foreign code no way in.
"""

import hashlib
import io
import zipfile
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

# As `flwr build` writes them, so that both give the same bytes.
_DATE = (2024, 10, 1, 0, 0, 0)
_FIRST = "pyproject.toml"
_MANIFEST = ".info/CONTENT"
_SKIPPED = "__pycache__"


@cache
def bundle() -> bytes:
    """Return the bundle's bytes.

    Stored, not compressed: another zlib would give other bytes, and sites would refuse the run.
    """
    found = dict(_files(files("fedward.deploy") / "flower_app", ""))
    names = [_FIRST, *sorted(set(found) - {_FIRST})]
    manifest = [
        f"{name},{hashlib.sha256(found[name]).hexdigest()},{len(found[name]) * 8}" for name in names
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(_entry(name), found[name])
        archive.writestr(_entry(_MANIFEST), "\n".join(manifest))
    return buffer.getvalue()


def bundle_hash() -> str:
    """Return the SHA-256 of the bundle, in hex, as the coordinator and the sites compare it."""
    return hashlib.sha256(bundle()).hexdigest()


def _files(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.name == _SKIPPED:
            continue
        if entry.is_dir():
            found += _files(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = 3  # Unix, wherever it is built
    return entry
