"""What a site's privacy budget is, and whether its ledger is whole."""

from fedward.client.audit import AuditTrail
from fedward.client.findings import Finding
from fedward.client.privacy.entries import Budget
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.privacy.statement import statements
from fedward.common.config.site import LoadedSite
from fedward.common.errors import ConfigError, StorageError

NAME = "config.privacy"


def check_privacy(site: LoadedSite) -> Finding:
    """Return what a run may spend here, and what was spent on the patients of the last one."""
    limits, database = site.config.limits, site.file(site.config.database)
    try:
        budget = Budget(limits.epsilon, limits.delta)
    except ConfigError as error:
        return Finding(NAME, "fail", str(error), "correct limits in site.yaml")
    if limits.epsilon is None:
        rule = "no budget: runs without differential privacy are allowed (limits.epsilon)"
    else:
        rule = f"runs within epsilon {limits.epsilon:g} at delta {limits.delta:g} only"
    if not database.exists():
        return Finding(NAME, "ok", rule)
    trail = AuditTrail(database)
    ledger = PrivacyLedger(database, site=site.config.site, budget=budget, trail=trail)
    try:
        book, known = ledger.read()
    except StorageError as error:
        return Finding("storage.privacy-ledger", "fail", str(error), "see deploy/docs/privacy.md")
    finally:
        ledger.close()
        trail.close()
    found = statements(book, known, budget, closing=False)
    if not found:
        return Finding(NAME, "ok", f"{rule}; nothing was spent")
    last = found[0]
    told = f"{rule}; epsilon {last.claim.epsilon:.3g} was spent on the patients of the last run"
    is_spent = last.rounds_left == 0
    advice = "no round like the last one fits any more: fedward privacy status" if is_spent else ""
    return Finding(NAME, "warn" if is_spent else "ok", told, advice)
