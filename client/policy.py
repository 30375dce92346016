"""What a site lets a run ask of it. The site's value always wins, whoever signed the request."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from fedward.client.plugins import why_not_allowed
from fedward.client.releases import why_no_rows
from fedward.common.config.loader import run_config_from_dict
from fedward.common.config.run import RunConfig
from fedward.common.config.site import LimitsConfig, SiteConfig
from fedward.common.errors import ConfigError, RefusedError
from fedward.common.request import RunRequest
from fedward.common.tables.schema import TableSchema, load_schema


def check_request(  # noqa: PLR0913 - the request, the rules, and four facts of the site
    request: RunRequest,
    site: SiteConfig,
    *,
    num_patients: int,
    payload_bytes: int,
    schema: TableSchema | None = None,
    rows_released: int = 0,
) -> None:
    """Refuse a run that asks for more than the site allows. Reads no patient.

    Args:
        request: signed by an operator of the pinned roster; the caller has checked that.
        site: the site's own rules.
        num_patients: training patients of the site, to count steps as epochs.
        payload_bytes: size of the shared model, which one answer carries.
        schema: the site's own; None: the shipped one that site.yaml names.
        rows_released: synthetic rows that left the site before, in other runs.

    Raises:
        RefusedError: names every rule that is broken, with both values; its text may leave.
        ConfigError: the site's own schema cannot be read.
    """
    try:
        asked = run_config_from_dict(request.config)
    except ConfigError as error:
        raise RefusedError(f"the run's configuration cannot be used: {error}") from None
    own = schema or load_schema(site.data.schema_name)
    limits = site.limits
    broken = [
        *_local_work(asked, limits, num_patients),
        *_sizes(asked, limits, payload_bytes),
        *_privacy(*_budget(request.config, asked), limits),
        *_who_adds_noise(asked, limits),
        *_synthesis(asked, limits, rows_released),
        *_model(asked, site),
        *_schema(request.schema, own),
    ]
    if broken:
        raise RefusedError(f"site {site.site} refuses the run: {'; '.join(broken)}")


def local_epochs(config: RunConfig, num_patients: int) -> float:
    """Return how often one round passes over a site's training patients."""
    local = config.local
    if local.epochs is not None:
        return local.epochs
    assert local.steps is not None
    return local.steps * local.batch_size / max(num_patients, 1)


def _local_work(asked: RunConfig, limits: LimitsConfig, num_patients: int) -> Iterator[str]:
    if local_epochs(asked, num_patients) <= limits.epochs:
        return
    if asked.local.epochs is not None:
        yield _rule("local.epochs", asked.local.epochs, "limits.epochs", limits.epochs)
        return
    # Steps per epoch would tell how many patients there are.
    work = f"{asked.local.steps} steps of {asked.local.batch_size} patients"
    yield (
        f"local.steps: the run asks for {work}, which is more than the {limits.epochs} epochs a "
        "round that the site allows (limits.epochs)"
    )


def _sizes(asked: RunConfig, limits: LimitsConfig, payload_bytes: int) -> Iterator[str]:
    if limits.rounds is not None and asked.rounds > limits.rounds:
        yield _rule("rounds", asked.rounds, "limits.rounds", limits.rounds)
    if limits.payload_bytes is not None and payload_bytes > limits.payload_bytes:
        yield _rule(
            "bytes of the model", payload_bytes, "limits.payload_bytes", limits.payload_bytes
        )
    replies = asked.sampling.min_replies
    if replies < limits.min_replies:
        yield (
            f"sampling.min_replies: the run averages {replies} updates or more, the site demands "
            f"{limits.min_replies} (limits.min_replies)"
        )


def _budget(config: Mapping[str, Any], asked: RunConfig) -> tuple[str, object]:
    """Return the section that says what a run costs in privacy: its name, and what it holds."""
    if asked.synthesis is not None and asked.synthesis.is_private:
        return "synthesis", config["synthesis"]
    return "privacy", config.get("privacy")


def _privacy(name_of: str, section: object, limits: LimitsConfig) -> Iterator[str]:
    # Whatever steers a run beside the gradients is paid for out of this budget as well: sums for
    # preprocessing, and the loss on validation patients that may end a run.
    bounds = {"epsilon": limits.epsilon, "delta": limits.delta}
    for name, bound in bounds.items():
        if bound is None:
            continue
        asked = section.get(name) if isinstance(section, Mapping) else None
        if isinstance(asked, bool) or not isinstance(asked, int | float):
            yield (
                f"{name_of}.{name}: the run does not say, the site demands at most {bound:g} "
                f"(limits.{name})"
            )
        elif not 0 <= asked <= bound:
            yield _rule(f"{name_of}.{name}", asked, f"limits.{name}", bound)


def _who_adds_noise(asked: RunConfig, limits: LimitsConfig) -> Iterator[str]:
    is_central = asked.privacy is not None and asked.privacy.mode == "central"
    if is_central and limits.epsilon is not None:
        yield (
            "privacy.mode: in central the coordinator adds the noise, and it sees the site's "
            "updates without any; the site keeps a budget of its patients itself "
            "(limits.epsilon): use dp-sgd or local"
        )


def _synthesis(asked: RunConfig, limits: LimitsConfig, rows_released: int) -> Iterator[str]:
    synthesis = asked.synthesis
    if synthesis is None:
        return
    if not synthesis.asks_for_rows:
        if not limits.synthetic_sums:
            yield (
                f"synthesis.method: {synthesis.method} asks for histograms and correlations, and "
                "the site lets none out (limits.synthetic_sums)"
            )
        return
    why = why_no_rows(synthesis.rows_per_site, released=rows_released, limit=limits.synthetic_rows)
    if why is not None:
        yield why


def _model(asked: RunConfig, site: SiteConfig) -> Iterator[str]:
    name = (asked.models or {}).get(site.site, asked.model).name
    if ":" in name and (why := why_not_allowed(name, site.plugins)):
        yield f"model.name: the run asks for {name}, {why}"


def _schema(asked: Mapping[str, Any], own: TableSchema) -> Iterator[str]:
    try:
        theirs = TableSchema.model_validate(asked)
    except ValidationError:
        yield "schema: the run's cannot be read"
        return
    differing = [
        key for key in TableSchema.model_fields if getattr(theirs, key) != getattr(own, key)
    ]
    if differing:
        yield (
            f"schema: the run's {theirs.name} and the site's {own.name} differ in "
            f"{', '.join(differing)}"
        )


def _rule(what: str, asked: float, limit: str, allowed: float) -> str:
    return f"{what}: the run asks for {_plain(asked)}, the site allows {_plain(allowed)} ({limit})"


def _plain(value: float) -> str:
    """Return 4180010 in full, and 0.001 short."""
    return str(value) if isinstance(value, int) else f"{value:g}"
