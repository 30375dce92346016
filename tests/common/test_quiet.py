import os
import subprocess
import sys

QUIET = ("FLWR_", "RAY_")


def python(code: str, **variables: str) -> str:
    """Return what `code` prints (both streams) in a fresh process without our settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(QUIET)}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return (result.stdout + result.stderr).strip()


CALL = "from fedward.common.quiet import quiet_third_parties; quiet_third_parties(); "
TELL = "import flwr.supercore.telemetry as t; print(t.FLWR_TELEMETRY_ENABLED)"


def test_flower_sends_telemetry_unless_it_is_quieted_first() -> None:
    assert python(TELL) == "1", "the switch is gone or renamed: look again"
    assert python(CALL + TELL) == "0"


def test_flower_is_quieted_even_if_it_was_imported_before() -> None:
    code = f"import flwr.supercore.telemetry as t; {CALL} print(t.FLWR_TELEMETRY_ENABLED)"
    assert python(code) == "0"


def test_a_choice_of_the_user_wins() -> None:
    assert python(CALL + TELL, FLWR_TELEMETRY_ENABLED="1") == "1"


def test_flower_logs_warnings_only() -> None:
    code = (
        "from logging import INFO, WARNING\nfrom flwr.common.logger import log\n"
        "log(INFO, 'chatter')\nlog(WARNING, 'matters')"
    )
    said = python(f"{CALL}\n{code}")
    assert "matters" in said
    assert "chatter" not in said


def test_quieting_does_not_import_what_it_quiets() -> None:
    code = CALL + "import sys; print({'flwr', 'ray', 'torch'} & set(sys.modules))"
    assert python(code) == "set()"


def test_an_import_that_gives_the_root_logger_a_handler_leaves_none() -> None:
    spends = (
        "import logging; from fedward.common.privacy.accounting import Segment, epsilon_of;"
        "epsilon_of([Segment(2.0, 0.1, 5)], 1e-5);"
    )
    assert python(f"{spends} print(logging.getLogger().handlers)") == "[]"
    alone = "import logging; import opacus; print(len(logging.getLogger().handlers))"
    assert python(alone) == "1", "opacus adds one: it is kept out"
