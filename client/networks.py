"""One trainer for sites that train networks of their own: each is asked of whom it concerns."""

from collections.abc import Callable, Sequence

from fedward.client.site import Site
from fedward.client.trainer import Trainer
from fedward.common.records import Instruction, Update
from fedward.common.study import Study


def by_network(study: Study, make: Callable[[Study], Trainer]) -> Trainer:
    """Return what trains all sites of a study.

    Args:
        study: with `models` where sites have networks of their own.
        make: returns a trainer for the study of sites with the same network.
    """
    if not study.config.models:
        return make(study)
    return _ByNetwork(study, make)


class _ByNetwork:
    def __init__(self, study: Study, make: Callable[[Study], Trainer]) -> None:
        made: list[tuple[object, Trainer]] = []
        self._by_site: dict[str, Trainer] = {}
        for site in study.config.models or {}:
            own = study.at(site)
            known = (trainer for model, trainer in made if model == own.config.model)
            trainer = next(known, None) or make(own)
            made.append((own.config.model, trainer))
            self._by_site[site] = trainer
        self._others = make(study)

    def prefill(self, jobs: Sequence[tuple[Site, Instruction]]) -> None:
        for trainer in {id(t): t for t in (self._others, *self._by_site.values())}.values():
            own = [job for job in jobs if self._of(job[0]) is trainer]
            if own:
                trainer.prefill(own)

    def train(self, site: Site, instruction: Instruction) -> Update:
        return self._of(site).train(site, instruction)

    def evaluate(self, site: Site, instruction: Instruction) -> Update:
        return self._of(site).evaluate(site, instruction)

    def _of(self, site: Site) -> Trainer:
        return self._by_site.get(site.site_id, self._others)
