import base64
import gzip
import zlib

import numpy as np
import pytest

from tests.faults.wiretap import leaks, requests_of

SECRET = "Margarethe Mustermann 1941-02-03"


def test_requests_are_cut_apart_and_a_half_one_is_left_out() -> None:
    stream = (
        b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"
        b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nxy\r\n0\r\n\r\n"
        b"POST /c HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"
    )
    assert [(one.path, one.body) for one in requests_of(stream)] == [("/a", b"abc"), ("/b", b"xy")]


@pytest.mark.parametrize("padding", [b"", b"1", b"12", b"123"])
def test_a_secret_is_found_in_every_disguise_that_is_looked_for(padding: bytes) -> None:
    plain = padding + SECRET.encode() + b" and more"
    for disguise in (
        plain,
        base64.b64encode(plain),
        gzip.compress(plain),
        zlib.compress(plain),
        base64.b64encode(gzip.compress(plain)),
        gzip.compress(base64.b64encode(plain)),
        plain.hex().encode(),
    ):
        assert leaks(b"before " + disguise + b" after", [SECRET]) == [SECRET]


def test_what_is_not_there_is_not_found() -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    assert leaks(noise + gzip.compress(noise), [SECRET, "another one"]) == []
