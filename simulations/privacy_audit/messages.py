"""A site of chosen patients, and a server's message to it, for attacks on the real trainer."""

from fedward.client.site import Site
from fedward.client.store import SiteStore
from fedward.common.errors import SiteDataError
from fedward.common.parameters import ParameterSet
from fedward.common.records import PARAMETERS, Binding, Instruction
from fedward.common.study import Study
from fedward.common.task import SiteData, Statistics
from fedward.common.vectors import Vector


def site_with(name: str, data: SiteData) -> Site:
    """Return a site that has these patients and remembers nothing yet."""

    def no_sums() -> Statistics:
        raise SiteDataError(f"{name}: an attacked site gives no statistics of its patients")

    return Site(name, lambda statistics: data, no_sums, SiteStore(None))


def instruction_of(study: Study, shared: ParameterSet, sent: Vector, *, number: int) -> Instruction:
    """Return the message that asks a site to train what is sent.

    Args:
        study: the attacked run.
        shared: what travels.
        sent: its values.
        number: of the message, from 1; it is sent as that of the round after. In a first round a
            site warns where noise drowns its weights, of which the most are the attack's own here.
    """
    number += 1
    binding = Binding(study.run_key, number, f"attack-{number}", "", shared.manifest_hash)
    return Instruction(binding, {PARAMETERS: sent})
