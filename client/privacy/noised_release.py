"""Pays for a noised sum out of the patients' privacy budget: all runs and studies together.

A sum over all patients is a step of the Gaussian mechanism in which everybody takes part. What is
released again (the same message after a crash, with the same noise) is not asked here.
"""

from fedward.client.privacy.data_set import DataSet
from fedward.client.privacy.entries import Planned
from fedward.client.privacy.ledger import PrivacyLedger
from fedward.client.releases import Release
from fedward.common.config.run import RunConfig
from fedward.common.errors import BudgetSpentError, ConfigError, RefusedError
from fedward.common.privacy.accounting import Segment
from fedward.common.records import Binding


def pay_for(
    release: Release, binding: Binding, *, config: RunConfig, ledger: PrivacyLedger, data: DataSet
) -> None:
    """Write down what a release costs, before it leaves; one without noise is not in the account.

    Args:
        release: ready to leave, for the first time.
        binding: of the query.
        config: of the run, with its section `synthesis`.
        ledger: of the site.
        data: whose patients.

    Raises:
        RefusedError: the budget is spent, or the run's delta promises nothing; may leave.
        StorageError: it cannot be written; then nothing may leave.
    """
    if release.noise_multiplier is None:
        return
    assert config.synthesis is not None
    assert config.synthesis.delta is not None
    try:
        planned = Planned(
            message_id=release.name,
            run_key=binding.run_key,
            study=config.name,
            round_number=binding.round_number,
            segments=(Segment(release.noise_multiplier, 1.0, 1),),
            delta=config.synthesis.delta,
            purpose=f"synthesis: {release.what}",
        )
        ledger.reserve(planned, data)
    except (BudgetSpentError, ConfigError) as error:
        raise RefusedError(f"synthesis: {error}") from error
    ledger.release(release.name)
