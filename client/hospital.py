"""A hospital as its worker sees it: every message is checked, done, and let out through the gate.

In this order: the roster that a person here has confirmed; the operator's signature under the
request; the site's approval; the site's limits; a durable note that work begins; the work; the
gate. Whatever fails, fails before a patient is read if it can.
"""

import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from pydantic import ValidationError

from fedward.client.app import make_client_app
from fedward.client.approvals import Approvals, RosterPins
from fedward.client.audit import AuditTrail
from fedward.client.cohort import hash_patients, read_salt, record_cohort
from fedward.client.data.source import HospitalSource, site_source
from fedward.client.database import maps_folder
from fedward.client.egress import EgressRules, Gate
from fedward.client.keyed_source import KeyedSource
from fedward.client.messages import MessageLedger
from fedward.client.models import Models
from fedward.client.policy import check_request
from fedward.client.privacy.update_clipping import protected
from fedward.client.releases import ReleaseLedger
from fedward.client.retention import purge_old, tidy_scans
from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.client.suppression import families_of
from fedward.client.trainer import LocalTrainer, TrainerSettings
from fedward.common.config.image import ImageConfig
from fedward.common.config.site import LoadedSite, load_site_config
from fedward.common.deployment import at_site, study_of
from fedward.common.errors import ConfigError, FedwardError, RefusedError, TrustError
from fedward.common.kit import Kit, load_kit
from fedward.common.records import ANCHOR, CONSENT_QUERY, LACKS, read_binding
from fedward.common.release import RELEASE_QUERY
from fedward.common.request import RunRequest, read_request
from fedward.common.study import Kind, Study
from fedward.common.tables.schema import TableSchema, load_schema
from fedward.common.tables.table import Table
from fedward.common.task import SiteData, Statistics
from fedward.common.tasks.ehr_classification import EhrClassification

if TYPE_CHECKING:
    from fedward.client.privacy.account import SiteAccount
    from fedward.client.synthesis import Synthesis

KINDS: tuple[Kind, ...] = ("federated", "local")
KEPT_DESKS = 2
"""Of the run that goes on, and of its baseline: a large model takes gigabytes."""
KEPT_SOURCES = 1
"""A site's images take gigabytes; they are cached on disk besides."""
log = logging.getLogger("fedward.hospital")


@dataclass(frozen=True)
class Desk:
    """What the site has prepared for one study of one request."""

    study: Study
    app: ClientApp
    num_parameters: int


def open_hospital(site: Path, kit: Path) -> "Hospital":
    """Return the hospital of a `site.yaml` and the kit that the coordinator made for it.

    Raises:
        ConfigError: one of them cannot be used.
        TrustError: the kit is not of the consortium that the site has confirmed.
    """
    return Hospital(load_site_config(site), load_kit(kit, "site"))


class Hospital:
    """Answers messages from the patients of one site. It has no repr: it leads to patients.

    Args:
        site: the site's own configuration.
        kit: what the coordinator gave it.

    Raises:
        TrustError: the kit is another site's.
    """

    def __init__(self, site: LoadedSite, kit: Kit) -> None:
        config = site.config
        if kit.name != config.site:
            raise TrustError(f"{kit.folder}: this is the kit of {kit.name}, not of {config.site}")
        self.site = site
        self.kit = kit
        self.database = site.file(config.database)
        self.trail = AuditTrail(self.database)
        self._approvals = Approvals(self.database, config.approve)
        self._pins = RosterPins(self.database)
        self._messages = MessageLedger(self.database)
        self._models = Models(self.database, config.site)
        self._store = SiteStore(self.database)
        self._releases = ReleaseLedger(self.database)
        self._desks: dict[tuple[str, Kind], Desk] = {}
        self._sources: dict[ImageConfig | None, HospitalSource] = {}
        self._check_roster()
        self.device = _device(config.device)
        if config.retention_days is not None:
            purge_old(self.database, config.retention_days)
        tidy_scans(site)

    def answer(self, message: Message, run_config: Mapping[str, object]) -> RecordDict:
        """Return the records of the reply.

        Args:
            message: from the coordinator: nothing in it is trusted.
            run_config: of Flower's run; `request` is the signed request.

        Raises:
            RefusedError: the site does not allow it; the text may leave.
            FedwardError: it cannot be done; the text stays here.
        """
        self._check_roster()
        if message.metadata.message_type == RELEASE_QUERY:
            return self._receive_model(message)
        request = self._request(run_config)
        desk = self._desk_for(message, request)
        num_vectors = 2 if desk.study.strategy.name == "scaffold" else 1
        self._check(request, desk.study, payload_bytes=4 * desk.num_parameters * num_vectors)
        self._keep_anchor(message, is_private=desk.study.is_accounted)
        binding = read_binding(message)
        if message.metadata.message_type == CONSENT_QUERY:
            receipt = RecordDict({"receipt": binding.to_record()})
            if lacking := self._lacking(desk.study):
                receipt[LACKS] = ConfigRecord({"modalities": lacking})
            return receipt
        self._messages.begin(
            message.metadata.message_id,
            run_key=binding.run_key,
            round_number=binding.round_number,
            phase=message.metadata.message_type,
        )
        context = Context(
            run_id=message.metadata.run_id,
            node_id=message.metadata.dst_node_id,
            node_config={"site": self.site.config.site},
            state=RecordDict(),
            run_config={},
        )
        return desk.app(message, context).content

    def _lacking(self, study: Study) -> list[str]:
        """Return what no row of this site has, of all that the run's network looks at."""
        source = self._source(study.config.data.image)
        return sorted(study.task.lacking(source)) if study.task.modalities else []

    def _check_roster(self) -> None:
        """Refuse where the roster is over, or where a person here has confirmed another one."""
        roster = self.kit.roster
        self._pins.check_roster(roster)
        if roster.is_expired(datetime.datetime.now(datetime.UTC)):
            raise RefusedError(
                f"the roster ended on {roster.expires}; the site needs a new kit: fedward "
                "provision ... --renew, then fedward approve roster"
            )

    def _request(self, run_config: Mapping[str, object]) -> RunRequest:
        """Return the request if an operator signed it and this site agrees to it."""
        try:
            request = read_request(str(run_config.get("request", "")), self.kit.roster)
        except TrustError as error:
            self.trail.append("refused", why=str(error))
            raise RefusedError(str(error)) from error
        try:
            self._approvals.decide(request)
        except RefusedError as error:
            self._refuse(request, error)
        return request

    def _check(self, request: RunRequest, study: Study, *, payload_bytes: int) -> None:
        """Refuse what the site's limits do not allow."""
        # What this very run was given already is not asked of the budget a second time.
        site = self.site.config.site
        rows_released = self._releases.num_rows(site, except_run=study.run_key)
        try:
            check_request(
                request,
                self.site.config,
                num_patients=self._num_patients(request),
                payload_bytes=payload_bytes,
                schema=self._schema,
                rows_released=rows_released,
            )
        except RefusedError as error:
            self._refuse(request, error)

    def _refuse(self, request: RunRequest, error: RefusedError) -> None:
        self.trail.append(
            "refused", request=request.hash, operator=request.operator, why=str(error)
        )
        raise error

    def _desk_for(self, message: Message, request: RunRequest) -> Desk:
        """Return the prepared study that the message is about."""
        try:
            asked = read_binding(message).run_key
        except (ValueError, KeyError) as error:
            raise RefusedError("the message does not say which run it is about") from error
        for kind in KINDS:
            key = (request.hash, kind)
            desk = self._desks.get(key)
            study = desk.study if desk else self._study(request, kind)
            if study.run_key == asked:
                if desk is None:
                    desk = self._desks[key] = self._prepare(request, study)
                    while len(self._desks) > KEPT_DESKS:
                        del self._desks[next(iter(self._desks))]
                return desk
        raise RefusedError("the message is about another run than the request that came with it")

    def _study(self, request: RunRequest, kind: Kind) -> Study:
        schema = self._schema  # not below: an error about the site's own file stays here
        try:
            study = study_of(
                request, kind, schema=schema, own_models=bool(self.site.config.plugins)
            )
            return at_site(study.at(self.site.config.site), self._models.weights_of)
        except ConfigError as error:
            raise RefusedError(f"the run cannot be built here: {error}") from error
        except TrustError as error:
            raise RefusedError(str(error)) from error

    def _prepare(self, request: RunRequest, study: Study) -> Desk:
        """Build model, trainer and gate, and write down whose data the run uses."""
        self._check(request, study, payload_bytes=0)  # before a model of somebody's own is imported
        model = study.new_model()
        shared = study.shared_of(model)
        settings = TrainerSettings.of(study, maps=maps_folder(self.database) / study.run_key)
        place = self._place(study)
        source = self._source(study.config.data.image)
        hashes = hash_patients(source.patient_ids(), self._salt)
        account = self._account(study, hashes)
        trainer = LocalTrainer(study.task, model.to(self.device), shared, settings, account=account)
        gate = self._gate(study, account)
        answering = protected(trainer, study, account)
        app = make_client_app(lambda context: place, answering, gate, self._synthesis(study))
        record_cohort(self.database, study.run_key, hashes)
        self.trail.append(
            "run begins here",
            run_key=study.run_key,
            request=request.hash,
            operator=request.operator,
            submitted=request.submitted,
        )
        log.info("%s, asked for by %s", study.run_key, request.operator)
        return Desk(study, app, shared.size)

    def _place(self, study: Study) -> Site:
        source = self._source(study.config.data.image)

        def read(statistics: Statistics | None) -> SiteData:
            return study.task.datasets(source, study.split, statistics).to(self.device)

        def sums() -> Statistics:
            return study.task.local_statistics(source, study.split)

        def training() -> Table:
            assert isinstance(study.task, EhrClassification), "no other task makes rows"
            return study.task.training_rows(source, study.split)

        return Site(self.site.config.site, read, sums, self._store, training)

    def _account(self, study: Study, hashes: list[str]) -> "SiteAccount | None":
        """Return what a run pays from that has a privacy budget; None: it has none."""
        synthesis = study.config.synthesis
        if not study.is_accounted and (synthesis is None or not synthesis.is_private):
            return None
        from fedward.client.privacy.account import SiteAccount
        from fedward.client.privacy.data_set import DataSet
        from fedward.client.privacy.entries import Budget
        from fedward.client.privacy.ledger import PrivacyLedger

        config = self.site.config
        ledger = PrivacyLedger(
            self.database,
            site=config.site,
            budget=Budget(config.limits.epsilon, config.limits.delta),
            trail=self.trail,
        )
        data = DataSet.of(config.site, hashes, self._salt)
        after = study.origin.private_runs
        return SiteAccount(ledger, data, study=study.config.name, after=after)

    def _gate(self, study: Study, account: "SiteAccount | None") -> Gate:
        """Return the gate of a run: what it must have paid for leaves only then."""
        if account is None:
            return Gate(self._rules, self.trail, self._releases)
        from fedward.client.privacy.noised_release import pay_for

        pay = partial(pay_for, config=study.config, ledger=account.ledger, data=account.data)
        clear = account.release if study.is_accounted else None
        return Gate(self._rules, self.trail, self._releases, pay, clear)

    def _synthesis(self, study: Study) -> "Synthesis | None":
        """Return what answers for a run that makes synthetic rows."""
        if study.config.synthesis is None:
            return None
        if study.kind != "federated":
            raise RefusedError("a run that makes synthetic rows has no baselines")
        from fedward.client.synthesis import Synthesis  # scikit-learn: seconds

        try:
            return Synthesis(study, KeyedSource(self._salt), self.site.config.min_cohort)
        except ConfigError as error:
            raise RefusedError(f"the run's configuration cannot be used: {error}") from error

    def _keep_anchor(self, message: Message, *, is_private: bool) -> None:
        """Keep the head of our log that the coordinator has signed; a wrong one is written down.

        Raises:
            RefusedError: it is wrong, so that entries of the privacy ledger may be missing too.
        """
        record = message.content.get(ANCHOR)
        if not isinstance(record, ConfigRecord):
            return
        text, signature = record.get("text"), record.get("signature")
        if not isinstance(text, str) or not isinstance(signature, str):
            return
        try:
            self.trail.keep_anchor(
                text,
                signature,
                model_key=self.kit.roster.model_key,
                site=self.site.config.site,
            )
        except FedwardError as error:
            log.warning("%s", error)
            self.trail.append("anchor does not fit", why=str(error))
            if is_private:
                raise RefusedError(
                    "the site's log is not the one that the coordinator has signed; what was "
                    "spent on the patients is not known for sure, so nothing is trained with "
                    "differential privacy (fedward audit verify, at the site)"
                ) from error

    def _receive_model(self, message: Message) -> RecordDict:
        receipt = self._models.receive(message.content, model_key=self.kit.roster.model_key)
        kept = receipt["kept"]
        assert isinstance(kept, ConfigRecord)
        self.trail.append("model received", release=str(kept["release"]))
        return receipt

    @cached_property
    def _schema(self) -> TableSchema:
        data = self.site.config.data
        return load_schema(data.schema_name, self.site.path.parent)

    def _source(self, image: ImageConfig | None) -> HospitalSource:
        """Return the site's rows as a run wants them; those of the last runs are kept."""
        if image not in self._sources:
            self._sources[image] = site_source(self.site, self._schema, image)
            while len(self._sources) > KEPT_SOURCES:
                del self._sources[next(iter(self._sources))]
        return self._sources[image]

    def _num_patients(self, request: RunRequest) -> int:
        """Return how many patients a run would use: only steps are counted by it.

        Scans take minutes to hours to read for the first time; the limits are judged before.
        """
        local = request.config.get("local")
        if isinstance(local, dict) and local.get("steps") is None:
            return 1
        table = self._source(_image_of(request)).read()
        return len(set(table.patient_id.tolist()))

    @cached_property
    def _salt(self) -> bytes:
        return read_salt(self.site.file(self.site.config.id_salt_file))

    @cached_property
    def _rules(self) -> EgressRules:
        config = self.site.config
        return EgressRules(
            min_cohort=config.min_cohort,
            payload_bytes=config.limits.payload_bytes,
            update_norm=config.limits.update_norm,
            synthetic_rows=config.limits.synthetic_rows,
            show_metrics=config.show_metrics,
            telemetry=config.telemetry,
            families=families_of(self._schema),
        )


def _image_of(request: RunRequest) -> ImageConfig | None:
    """Return how a run wants its images.

    Raises:
        RefusedError: its `data.image` cannot be used.
    """
    data = request.config.get("data")
    image = data.get("image") if isinstance(data, dict) else None
    try:
        return None if image is None else ImageConfig.model_validate(image)
    except ValidationError:
        raise RefusedError("the run's configuration cannot be used: data.image") from None


def _device(name: str) -> torch.device:
    """Return what trains.

    Raises:
        ConfigError: a GPU was demanded, and torch finds none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ConfigError("device: cuda was demanded, and torch finds no GPU here; use auto or cpu")
    return torch.device("cuda" if found and name != "cpu" else "cpu")
