import base64
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fedward.common.errors import ConfigError, StorageError, TrustError
from fedward.common.keys import (
    fingerprint,
    load_key,
    loopback_certificate,
    make_key,
    private_pem,
    public_text,
    read_public,
    sign,
    verify,
    write_private,
)

KEYGEN = shutil.which("ssh-keygen")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_one_public_line_and_a_file_that_only_its_user_can_read(tmp_path: Path) -> None:
    text = make_key(tmp_path / "site.key")
    kind, blob = text.split(" ")
    assert kind == "ecdsa-sha2-nistp384"
    assert base64.b64decode(blob, validate=True)
    assert mode(tmp_path / "site.key") == 0o600
    assert public_text(load_key(tmp_path / "site.key")) == text
    assert [path.name for path in tmp_path.iterdir()] == ["site.key"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    first = make_key(path)
    with pytest.raises(ConfigError, match="never overwritten"):
        make_key(path)
    assert public_text(load_key(path)) == first
    assert [one.name for one in tmp_path.iterdir()] == ["site.key"]


@pytest.mark.skipif(KEYGEN is None, reason="ssh-keygen is not installed")
def test_openssh_reads_the_key_and_prints_the_same_fingerprint(tmp_path: Path) -> None:
    text = make_key(tmp_path / "site.key")
    for options in (["-l", "-f"], ["-y", "-f"]):
        command = [str(KEYGEN), *options, str(tmp_path / "site.key")]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert (fingerprint(text) if "-l" in options else text) in out


def test_flower_takes_the_key_as_that_of_a_node(tmp_path: Path) -> None:
    from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve

    make_key(tmp_path / "site.key")
    content = (tmp_path / "site.key").read_bytes()
    key = serialization.load_ssh_private_key(content, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert uses_nist_ec_curve(key.public_key())


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "site.key"
    make_key(path)
    path.chmod(bits)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        load_key(path)


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, *, secret: bool) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"pass") if secret else serialization.NoEncryption(),
    )


def test_what_is_no_key_of_the_one_kind_is_refused_with_the_reason(tmp_path: Path) -> None:
    p384 = ec.generate_private_key(ec.SECP384R1())
    cases = {
        "another kind": pem(ec.generate_private_key(ec.SECP256R1()), secret=False),
        "another kind of": pem(ed25519.Ed25519PrivateKey.generate(), secret=False),
        "passphrase": pem(p384, secret=True),
        "no private key": b"hello",
        "too large": b"x" * 100_000,
    }
    for number, (says, content) in enumerate(cases.items()):
        path = tmp_path / f"key{number}"
        write_private(path, content)
        with pytest.raises(ConfigError, match=says):
            load_key(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_key(tmp_path / "nothing")
    write_private(tmp_path / "pem", private_pem(p384))
    assert public_text(load_key(tmp_path / "pem")) == public_text(p384)


def test_a_public_key_is_read_without_its_comment_and_nothing_else_is() -> None:
    text = public_text(ec.generate_private_key(ec.SECP384R1()))
    assert public_text(read_public(f"{text} anna@laptop\n")) == text
    small = public_text(ec.generate_private_key(ec.SECP256R1()))
    for wrong in ("", "ecdsa-sha2-nistp384", text[:-8], small, "ssh-ed25519 AAAA", "\ud800"):
        with pytest.raises(TrustError, match="no public key of the expected kind"):
            read_public(wrong)


def test_a_signature_holds_for_one_key_and_one_content_only() -> None:
    key, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    signature = sign(key, b"round 7")
    verify(public_text(key), b"round 7", signature)
    bad = base64.b64encode(b"nothing").decode()
    for public, content, signed in (
        (public_text(key), b"round 8", signature),
        (public_text(other), b"round 7", signature),
        (public_text(key), b"round 7", bad),
        (public_text(key), b"round 7", "no base64!"),
        (public_text(key), b"round 7", ""),
        (public_text(key), b"round 7", "ä"),
    ):
        with pytest.raises(TrustError, match="does not fit"):
            verify(public, content, signed)


def test_a_signature_is_what_openssl_makes_of_it(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(tmp_path / "key.pem", private_pem(key))
    (tmp_path / "content").write_bytes(b"round 7")
    command = [openssl, "dgst", "-sha384", "-sign", "key.pem", "content"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    verify(public_text(key), b"round 7", base64.b64encode(made).decode())


def test_a_fingerprint_of_bytes_is_their_sha_256() -> None:
    # printf abc | sha256sum, in base64 without its padding
    assert fingerprint(b"abc") == "SHA256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0"


def test_a_secret_is_private_from_the_start_and_replaced_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "new" / "secret"
    write_private(path, b"one")
    path.chmod(0o644)
    with pytest.raises(FileExistsError):
        write_private(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    write_private(path, b"two")
    assert (path.read_bytes(), mode(path), mode(path.parent)) == (b"two", 0o600, 0o700)
    assert [one.name for one in path.parent.iterdir()] == ["secret"]
    with pytest.raises(StorageError, match="cannot be written"):
        write_private(path / "below-a-file", b"x")


def shake_hands(certificate: Path, key: Path, host: str) -> None:
    """Connect over TLS on the loopback interface, as strictly as Python can."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(certificate))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, server.wrap_socket(listener.accept()[0], server_side=True) as peer:
            peer.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with socket.create_connection(listener.getsockname()) as plain:
        with client.wrap_socket(plain, server_hostname=host) as wrapped:
            wrapped.sendall(b"x")
        thread.join()


@pytest.mark.network
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_processes_of_one_host_connect_with_the_loopback_certificate(
    tmp_path: Path, host: str
) -> None:
    shake_hands(*loopback_certificate(tmp_path), host)


def test_the_loopback_certificate_is_made_once_and_again_only_if_it_lost_its_key(
    tmp_path: Path,
) -> None:
    certificate, key = loopback_certificate(tmp_path)
    first = certificate.read_bytes()
    assert mode(key) == 0o600
    loopback_certificate(tmp_path)
    assert certificate.read_bytes() == first
    write_private(key, private_pem(ec.generate_private_key(ec.SECP384R1())))
    loopback_certificate(tmp_path)
    assert certificate.read_bytes() != first
