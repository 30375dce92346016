"""The retry rules that our SuperNode program gives to Flower's."""

import ssl

import httpx
import pytest
from flwr.supernode import fleet_http_connection

from fedward.client.resident import supernode


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation"),
        httpx.ReadError("[SSL] record layer failure (_ssl.c:2580)"),
        httpx.ProxyError("502 Bad Gateway"),
    ],
)
def test_a_broken_line_is_tried_again(error: Exception) -> None:
    invoker = supernode.patient_invoker()
    assert isinstance(error, invoker.recoverable_exceptions)
    assert not invoker.should_giveup(error)


def test_a_wrong_certificate_is_not_tried_again() -> None:
    cause = ssl.SSLCertVerificationError("certificate verify failed")
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.__cause__ = cause
    assert supernode.patient_invoker().should_giveup(error)


def test_flower_still_asks_for_its_invoker_by_the_name_that_is_replaced() -> None:
    # Looked up in the module at each connection: else the program would change nothing.
    names = fleet_http_connection.http_request_response.__wrapped__.__code__.co_names  # type: ignore[attr-defined]
    assert supernode._MAKER in names
