"""The hospital's own copies of trained models, in the site's database.

What arrives is kept as it was signed. When a model is used, its shared part is merged with what the
site kept to itself in the same training: normalisation layers (FedBN), a head of its own, or a
whole personal model (Ditto). The merged model never leaves.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict
from safetensors import SafetensorError
from torch import Tensor

from fedward.client.durable import Durable, now
from fedward.client.model_file import Parts, TrainedModel
from fedward.client.plugins import why_not_allowed
from fedward.client.store import SiteStore
from fedward.common.config.site import PluginConfig
from fedward.common.errors import ConfigError, RefusedError, StorageError, TrustError
from fedward.common.models.low_rank import state_hash
from fedward.common.registry import did_you_mean
from fedward.common.release import Release, verify_release
from fedward.common.study import Study
from fedward.common.tables.table import TableSource

_SCHEMA = """
CREATE TABLE IF NOT EXISTS models (
    run_key TEXT PRIMARY KEY, name TEXT NOT NULL, round INTEGER NOT NULL, received TEXT NOT NULL,
    request_hash TEXT NOT NULL, header TEXT NOT NULL, signature TEXT NOT NULL,
    parameters BLOB NOT NULL, statistics BLOB
)
"""


@dataclass(frozen=True)
class KeptModel:
    """One line of `fedward model list`."""

    name: str
    run_key: str
    round: int
    received: str
    """In UTC."""
    request_hash: str
    num_parameters: int


class Models:
    """The models that a site was given. It has no repr: some parts are the site's own.

    Args:
        database: the site's database.
        site: its name in the roster.
    """

    def __init__(self, database: Path, site: str) -> None:
        self._database = database
        self._site = site
        self._table = Durable(database, _SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._table.close()

    def receive(self, content: RecordDict, *, model_key: str) -> RecordDict:
        """Check a release that has arrived, keep it, and return the receipt for the coordinator.

        Raises:
            TrustError: it is malformed, or not signed with the roster's model key.
            RefusedError: the site has a later round of it.
            StorageError: it cannot be kept.
        """
        release, signature = Release.from_records(content)
        verify_release(release, signature, model_key)
        self.keep(release, signature)
        return RecordDict({"kept": ConfigRecord({"release": release.fingerprint})})

    def keep(self, release: Release, signature: str) -> None:
        """Keep a release whose signature was verified; a later round replaces an earlier one.

        Raises:
            RefusedError: the site has a later round of this training.
            StorageError: it cannot be written.
        """
        blobs = {
            "parameters": release.parameters.astype("<f4", copy=False),
            "statistics": None
            if release.statistics is None
            else release.statistics.astype("<f8", copy=False),
        }
        row = (
            release.run_key,
            release.name,
            release.round,
            now(),
            release.request_hash,
            release.header,
            signature,
            *(None if values is None else values.nbytes for values in blobs.values()),
        )
        with self._table.transaction() as connection:
            found = connection.execute(
                "SELECT round FROM models WHERE run_key = ?", (release.run_key,)
            ).fetchone()
            if found is not None and found[0] > release.round:
                raise RefusedError(
                    f"model {release.name}: the site has round {found[0]} already, and was sent "
                    f"round {release.round}"
                )
            # Room for the arrays first: given as values, SQLite would copy each of them twice.
            made = connection.execute(
                "INSERT OR REPLACE INTO models"
                " VALUES (?, ?, ?, ?, ?, ?, ?, zeroblob(?), iif(?9 IS NULL, NULL, zeroblob(?9)))",
                row,
            )
            assert made.lastrowid is not None
            for column, values in blobs.items():
                if values is not None:
                    with connection.blobopen("models", column, made.lastrowid) as blob:
                        blob.write(values.data)

    def entries(self) -> list[KeptModel]:
        """Return the models that were kept, the newest first."""
        with self._table.transaction() as connection:
            rows = connection.execute(
                "SELECT name, run_key, round, received, request_hash, length(parameters) / 4"
                " FROM models ORDER BY received DESC, rowid DESC"
            ).fetchall()
        return [KeptModel(*row) for row in rows]

    def load(self, name: str, *, plugins: Sequence[PluginConfig] = ()) -> TrainedModel:
        """Return a model, merged with what the site kept to itself.

        Args:
            name: of the run (its newest model), or its run key.
            plugins: packages of others whose networks the site allows.

        Raises:
            ConfigError: there is none of that name, or its network may not be used here.
            StorageError: it, or the site's part of it, cannot be read back.
        """
        release, signature = self._find(name)
        facts = TrainedModel(release.header, {}, release.statistics, "global", self._site)
        network = facts.study(own_models=True).config.model.name
        if ":" in network and (why := why_not_allowed(network, plugins)):
            raise ConfigError(f"model {release.name}: its network is {network}, {why}")
        study = self._study(facts, own_models=":" in network)
        model = study.new_model()
        shared = study.shared_of(model)
        if shared.manifest_hash != release.manifest_hash or shared.size != len(release.parameters):
            raise StorageError(
                f"model {release.name}: this fedward builds another network than the one that was "
                "trained; use the version that trained it"
            )
        model = study.finished(release.parameters)
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        missing = set() if shared.base else set(state) - set(shared.names)
        local, parts = self._own_parts(release, study.strategy.name, missing)
        for key, value in local.items():
            if key not in state or state[key].numel() != value.numel():
                raise StorageError(f"model {release.name}: the site's {key} has another form")
            state[key] = value.reshape(state[key].shape)  # a scalar is stored as a vector of one
        return TrainedModel(release.header, state, release.statistics, parts, self._site, signature)

    def weights_of(self, base: str) -> Mapping[str, Tensor] | None:
        """Return the network with this hash (`low_rank.state_hash`), if the site has it.

        Args:
            base: of the network below adapters.
        """
        for name in dict.fromkeys(entry.run_key for entry in self.entries()):
            try:
                release, _ = self._find(name)
                kept = TrainedModel(release.header, {}, None, "global")
                if kept.config.model.lora is not None:
                    continue  # it would ask for the network below its own adapters
                state = self.load(name).state
            except (ConfigError, StorageError):
                continue  # of another version, or one that needs what the site does not allow
            if state_hash(state) == base:
                return state
        return None

    def _study(self, model: TrainedModel, *, own_models: bool) -> Study:
        """Return what built the model in training, with the network below its adapters."""
        study = model.study(own_models=own_models)
        lora = model.config.model.lora
        if lora is None:
            return study
        keys = study.config.model.model_copy(update={"lora": lora})
        weights = None if lora.base is None else self.weights_of(lora.base)
        return replace(
            study, config=study.config.model_copy(update={"model": keys}), weights=weights
        )

    def _own_parts(
        self, release: Release, strategy: str, missing: set[str]
    ) -> tuple[Mapping[str, Tensor], Parts]:
        """Return the tensors that the site trained itself, as its evaluation took them."""
        if strategy == "ditto":
            own = self._remembered(release, "personal")
            if own is not None:
                return own, "personal"
        own = self._remembered(release, "local")
        if own is not None:
            return own, "site"
        if missing:
            raise StorageError(
                f"model {release.name}: {', '.join(sorted(missing)[:3])} stay at each site, and "
                f"{self._site} has none from round {release.round} or before; it took no part in "
                "this training, or its state was purged"
            )
        return {}, "global"

    def _remembered(self, release: Release, name: str) -> dict[str, Tensor] | None:
        store = SiteStore(self._database)
        after = release.round + 1
        try:
            found = store.get(release.run_key, self._site, name, before_round=after)
        except (sqlite3.Error, SafetensorError) as error:
            raise StorageError(f"site database {self._database}: {error}") from error
        finally:
            store.close()
        if found is None:
            return None
        return {key: torch.from_numpy(np.array(value)) for key, value in found.items()}

    def _find(self, name: str) -> tuple[Release, str]:
        with self._table.transaction() as connection:
            row = connection.execute(
                "SELECT header, signature, parameters, statistics FROM models"
                " WHERE name = ? OR run_key = ? ORDER BY received DESC, rowid DESC LIMIT 1",
                (name, name),
            ).fetchone()
        if row is None:
            known = [entry.name for entry in self.entries()]
            listed = ", ".join(dict.fromkeys(known)) or "none yet"
            raise ConfigError(f"no model {name!r}{did_you_mean(name, known)}; kept: {listed}")
        header, signature, parameters, sums = row
        try:
            release = Release.from_parts(
                header,
                np.frombuffer(parameters, dtype="<f4").astype(np.float32, copy=False),
                None if sums is None else np.frombuffer(sums, dtype="<f8").astype(np.float64),
            )
        except TrustError as error:
            raise StorageError(
                f"model {name} was changed in the site's database after it was kept ({error}); ask "
                "the coordinator to send it again"
            ) from error
        return release, str(signature)


def with_own_statistics(model: TrainedModel, source: TableSource) -> TrainedModel:
    """Return the model with the site's own preprocessing sums, where the run shares none.

    Args:
        model: as `load` returned it.
        source: the site's rows.

    Raises:
        SiteDataError: the site's file does not hold what the schema promises.
    """
    if model.statistics is not None:
        return model
    study = model.study()
    return model.with_statistics(study.task.local_statistics(source, study.split))
