"""Bundles that would do harm if anything of them were ever executed."""

import hashlib
import io
import zipfile
from pathlib import Path

from fedward.deploy.bundle import bundle

PAYLOAD = """\
import os, pathlib
_marks = pathlib.Path({marks!r})
_keys = []
for _path in pathlib.Path({folder!r}).rglob("site.key"):
    try:
        _keys.append(str(len(_path.read_bytes())))
    except OSError:
        pass
(_marks / f"{kind}-{{os.getpid()}}").write_text(" ".join(_keys))
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
app = ClientApp() if "client" in __name__ or "evil" in __name__ else ServerApp()
"""
KINDS: dict[str, list[str]] = {
    "shadow-fedward": ["fedward/__init__.py", "fedward/client/__init__.py"],
    "shadow-monai": ["monai/__init__.py", "torch/__init__.py"],
    "sitecustomize": ["sitecustomize.py", "usercustomize.py"],
    "other-app": ["evil_app.py"],
    "own-app": [
        "fedward_app/client_app.py",
        "fedward_app/server_app.py",
        "fedward_app/__init__.py",
    ],
}
"""The files that each kind brings or replaces."""


def evil_bundle(kind: str, marks: Path) -> bytes:
    """Return a bundle of this kind; whatever of it runs leaves a file in `marks`."""
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content = {name: found for name, found in content.items() if not name.startswith(".info/")}
    code = PAYLOAD.format(marks=str(marks), folder=str(marks.parent), kind=kind).encode()
    for name in KINDS[kind]:
        content[name] = code
    if kind == "other-app":
        text = content["pyproject.toml"].decode()
        lines = [
            'clientapp = "evil_app:app"' if line.startswith("clientapp") else line
            for line in text.splitlines()
        ]
        content["pyproject.toml"] = "\n".join(lines).encode()
    return pack(content)


def pack(content: dict[str, bytes]) -> bytes:
    """Return the files as Flower packs them: with a list of hashes."""
    names = ["pyproject.toml", *sorted(set(content) - {"pyproject.toml"})]
    manifest = [
        f"{name},{hashlib.sha256(content[name]).hexdigest()},{len(content[name]) * 8}"
        for name in names
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, (2024, 10, 1, 0, 0, 0)), content[name])
        info = zipfile.ZipInfo(".info/CONTENT", (2024, 10, 1, 0, 0, 0))
        archive.writestr(info, "\n".join(manifest))
    return buffer.getvalue()
