"""The cases of `python -m tests.faults` as tests; the campaign in a short form."""

import pytest

from tests.faults import cases_disk, netns
from tests.faults.__main__ import MODULES
from tests.faults.campaign import campaign
from tests.faults.figures import CASES, Figure

assert MODULES  # importing them has entered their cases
pytestmark = [pytest.mark.network, pytest.mark.slow]
NEEDS = {
    "egress": netns.why_not,
    "disk-full-server": cases_disk.why_not,
    "disk-full-site": cases_disk.why_not,
}


def check(figures: list[Figure]) -> None:
    broken = [figure.line() for figure in figures if not figure.holds]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("name", CASES)
def test_the_federation_stands_what_is_done_to_it(name: str) -> None:
    missing = NEEDS[name]() if name in NEEDS else None
    if missing:
        pytest.skip(missing)
    check(CASES[name]())


def test_four_minutes_of_random_faults_leave_the_run_whole() -> None:
    check(campaign(seed=1, minutes=4))
