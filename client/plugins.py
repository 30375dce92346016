"""Code of others at a site: only installed packages that the site names, with their exact content.

A package is pinned by the SHA-256 of its `RECORD`, the list of files and hashes that `pip` writes
at installation; every file that can be imported must still have the hash that is listed there.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution

from fedward.common.config.site import PluginConfig

CODE = frozenset({".py", ".so", ".pyd", ".pth"})


def plugin_hash(name: str) -> str:
    """Return what `plugins: hash` in site.yaml must say for an installed package.

    Raises:
        PackageNotFoundError: it is not installed, or has no RECORD.
    """
    return _hash(distribution(name))


def why_not_allowed(model: str, plugins: Sequence[PluginConfig]) -> str | None:
    """Return why a model of somebody's own may not be used at this site; None where it may.

    Args:
        model: `my_package.module:MyNet`.
        plugins: what the site names. Nothing is imported to find out.
    """
    package = model.partition(":")[0].partition(".")[0]
    for plugin in plugins:
        try:
            found = distribution(plugin.name)
            if not _provides(found, package):
                continue
            if _hash(found) != plugin.hash:
                return f"the installed {plugin.name} is not the one that site.yaml names by hash"
        except PackageNotFoundError:
            continue
        changed = _changed_file(found)
        return f"{changed} of {plugin.name} was changed after installation" if changed else None
    return f"no plug-in of this site provides {package} (site.yaml: plugins)"


def _hash(found: Distribution) -> str:
    listed = [path for path in found.files or () if path.name == "RECORD"]
    own = [path for path in listed if path.parent.suffix == ".dist-info" and len(path.parts) == 2]
    if not own:
        raise PackageNotFoundError(found.name)
    return hashlib.sha256(own[0].read_binary()).hexdigest()


def _provides(found: Distribution, package: str) -> bool:
    # Asked of the files that are listed: an editable installation lists none of its code.
    names = {f"{package}.py", f"{package}/__init__.py"}
    return any(str(path) in names for path in found.files or ())


def _changed_file(found: Distribution) -> str | None:
    """Return the first file of code that is not as it was installed."""
    return next((str(p) for p in found.files or () if p.suffix in CODE and _is_changed(p)), None)


def _is_changed(path: PackagePath) -> bool:
    if path.hash is None or path.hash.mode != "sha256":
        return True
    try:
        content = path.read_binary()
    except OSError:
        return True
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
    return digest.decode() != path.hash.value
