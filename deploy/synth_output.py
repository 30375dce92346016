"""Synthetic rows as files: the rows, and beside them what may be known about how they were made.

The seed is not in it, on purpose: who has seed, method and rows can take the noise off.
"""

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fedward.client.data.patient_frame import file_hash
from fedward.client.data.read import TABLE_SUFFIXES
from fedward.common.errors import ConfigError, StorageError
from fedward.deploy.progress import progress_bar

if TYPE_CHECKING:
    from fedward.synth.tables.base import Sampling, Synthesiser

CHUNK_ROWS = 65_536


def release(sampling: "Sampling", model: "Synthesiser", path: Path) -> dict[str, Any]:
    """Write the rows to `path` and what is known about them to `path`.json, and return that.

    Rows are written as they are made, so that memory does not grow with their number.

    Raises:
        ConfigError: the file is there already, or has another ending than tables have.
        StorageError: it cannot be written.
    """
    if not path.name.endswith(TABLE_SUFFIXES):
        raise ConfigError(f"--out {path}: expected a file ending in {', '.join(TABLE_SUFFIXES)}")
    if path.exists():
        raise ConfigError(f"--out {path}: there is one already; rows are never replaced")
    draft = path.with_name(f".part-{path.name}")
    try:
        with progress_bar("rows") as progress:
            chunks = sampling.chunks(chunk_rows=CHUNK_ROWS, progress=progress)
            _write(map(model.encoder_.written, chunks), draft)
        facts = _facts(sampling, model, draft)
        path.with_name(f"{path.name}.json").write_text(json.dumps(facts, indent=1) + "\n")
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)
    return facts


def _write(chunks: Iterator[pd.DataFrame], path: Path) -> None:
    if path.suffix != ".parquet":
        for place, chunk in enumerate(chunks):
            # Parts of a gzip file may follow each other.
            chunk.to_csv(path, mode="a", header=place == 0, index=False)
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(chunks)
    schema = pa.Schema.from_pandas(first, preserve_index=False)
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(pa.Table.from_pandas(first, schema, preserve_index=False))
        for chunk in chunks:
            writer.write_table(pa.Table.from_pandas(chunk, schema, preserve_index=False))


def _facts(sampling: "Sampling", model: "Synthesiser", rows: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "rows": sum(sampling.counts.values()),
        "sha256": file_hash(rows),
        "method": type(model).__name__,
        "columns": _columns(model),
        "classes": {
            str(name): {
                "requested": one.requested,
                "returned": one.returned,
                "candidates": one.candidates,
                "acceptance": one.rate or 0.0,
                "filled": one.filled,
            }
            for name, one in sampling.acceptance.items()
        },
        "privacy": _privacy(model),
        "made_by": f"fedward {version('fedward')}",
    }


def _columns(model: "Synthesiser") -> dict[str, Any]:
    """Return the columns without bounds and categories that were read off the patients."""
    found = model.columns_.to_dict()
    for column in found["columns"]:
        if column["bounds"] == "observed":
            column.update(low=None, high=None, categories=[])
    return found


def _privacy(model: "Synthesiser") -> dict[str, Any]:
    claim: Callable[[], Any] | None = getattr(model, "privacy_claim", None)
    if claim is not None:
        found = claim()
        statement = (
            f"({found.epsilon:g}, {found.delta:g})-differential privacy; unit: {found.unit}; not "
            f"covered: {found.not_covered[0]} ({len(found.not_covered)} limits in the .json)"
        )
        return {"statement": statement, **found.to_dict()}
    return {
        "statement": "no guarantee: these rows tell something about the patients behind them, the "
        "more the more rows are given away. Measure it: fedward synth evaluate"
    }
