"""Keys of sites, operators and the model: made, read, signed with and compared.

One kind only: EC keys on P-384 with ECDSA and SHA-384 (FIPS 186-5), in OpenSSH's files, which the
SuperNode, `ssh-keygen -l` and people in a hospital's IT already know. Private files are 0600 from
the moment they exist, and one that others may read is refused.

Whoever signs puts the kind of thing that is signed into the content: a signature under a roster
must be of no use under a run request.
"""

import base64
import contextlib
import datetime
import hashlib
import ipaddress
import os
import secrets
import stat
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedward.common.errors import ConfigError, StorageError, TrustError

LOOPBACK_DAYS = 3650
_LOOPBACK_MARGIN = datetime.timedelta(days=30)
_LARGEST_KEY_FILE = 64 << 10
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_key(path: Path) -> str:
    """Write a new private key to `path`, mode 0600, and return its public text.

    Raises:
        ConfigError: there is a file already; a key is never overwritten.
        StorageError: the file cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    try:
        write_private(path, content, replace=False)
    except FileExistsError:
        raise ConfigError(
            f"{path}: there is a file already, and a key is never overwritten; "
            "move it away if a new key is really wanted"
        ) from None
    return public_text(key)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key in `path`, in OpenSSH's or PEM form and without a passphrase.

    Raises:
        ConfigError: no such file, readable by others, not such a key, or with a passphrase.
    """
    content = read_private(path)
    is_openssh = b"BEGIN OPENSSH PRIVATE KEY" in content
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(content, password=None)
    except TypeError:
        raise ConfigError(
            f"{path}: the key has a passphrase; fedward starts unattended and needs a key without "
            "one, in a file that only its own user can read"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path}: no private key that can be read; make one with `fedward enroll`"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p384(key):
        raise ConfigError(
            f"{path}: another kind of key, expected EC P-384 as `fedward enroll` makes it"
        )
    return key


def public_text(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """Return the public half as one line, "ecdsa-sha2-nistp384 AAAA...", without a comment."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    content = public.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return content.decode("ascii")


def read_public(text: str) -> ec.EllipticCurvePublicKey:
    """Return the public key that `text` spells, with or without a comment behind it.

    Raises:
        TrustError: this is no public EC P-384 key in OpenSSH's form.
    """
    try:
        key = serialization.load_ssh_public_key(" ".join(text.split()).encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key):
        raise TrustError(
            "this is no public key of the expected kind; it is one line that begins with "
            "ecdsa-sha2-nistp384, as `fedward enroll` prints it"
        )
    return key


def fingerprint(public_or_text: str | bytes) -> str:
    """Return "SHA256:..." as `ssh-keygen -l` prints it for a public key; for bytes, of them.

    Raises:
        TrustError: text that is no public key.
    """
    if isinstance(public_or_text, str):
        blob = base64.b64decode(public_text(read_public(public_or_text)).split()[1])
    else:
        blob = public_or_text
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"


def sign(key: ec.EllipticCurvePrivateKey, content: bytes) -> str:
    """Return the signature of `content` in base64 (ECDSA with SHA-384, DER)."""
    return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA384()))).decode("ascii")


def verify(public_text: str, content: bytes, signature: str) -> None:
    """Return if `signature` was made over exactly `content` by the owner of the public key.

    Raises:
        TrustError: it was not, or one of the texts is malformed.
    """
    public = read_public(public_text)
    try:
        public.verify(
            base64.b64decode(signature, validate=True), content, ec.ECDSA(hashes.SHA384())
        )
    except (InvalidSignature, ValueError):  # binascii.Error is a ValueError
        raise TrustError(
            f"the signature does not fit the key {fingerprint(public_text)} and what it signs: "
            "one of them was changed, or someone else signed"
        ) from None


def read_private(path: Path) -> bytes:
    """Return the bytes of a file that only its own user may read.

    Raises:
        ConfigError: no such file, or others may read or write it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode  # of what is open, not of what took its name
            content = file.read(_LARGEST_KEY_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if mode & _OTHERS:
        raise ConfigError(
            f"{path}: other users can read or change this secret (mode {stat.S_IMODE(mode):04o}); "
            f"chmod 600 {path}"
        )
    if len(content) > _LARGEST_KEY_FILE:
        raise ConfigError(f"{path}: too large to be a key")
    return content


def write_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a secret to `path`: mode 0600 from its first moment, and whole or not at all.

    Args:
        path: its folder is made (0700) where there is none.
        content: the bytes.
        replace: take the place of an existing file; otherwise that is an error.

    Raises:
        FileExistsError: there is a file, and it was not to be replaced.
        StorageError: the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            part.replace(path)
        else:
            os.link(part, path)  # fails where there is a file, unlike a rename
        _sync_folder(path.parent)
    except OSError as error:
        if isinstance(error, FileExistsError) and not replace and path.exists():
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def loopback_certificate(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 and localhost, and its key, made in `folder` if needed.

    It is its own authority: processes of one host, which share the folder, trust it and no other.
    One that is nearly at its end, or that lost its key, is made anew.

    Raises:
        StorageError: the files cannot be written.
    """
    certificate, key_file = folder / "loopback.crt", folder / "loopback.key"
    if not _still_good(certificate, key_file):
        key = ec.generate_private_key(ec.SECP384R1())
        write_private(key_file, private_pem(key))
        write_private(certificate, _self_signed(key).public_bytes(serialization.Encoding.PEM))
    return certificate, key_file


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return `key` as PKCS #8 PEM, the form that TLS libraries read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedward loopback")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=LOOPBACK_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA384())
    )


def key_usage(*, is_authority: bool) -> x509.KeyUsage:
    """Return what a certificate's key may do: sign handshakes, and certificates for authorities."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _still_good(certificate: Path, key_file: Path) -> bool:
    """Return whether the two files belong together and will for some weeks."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        mine = load_key(key_file).public_key()
    except (OSError, ValueError, ConfigError):
        return False
    ends = found.not_valid_after_utc - _LOOPBACK_MARGIN
    theirs = cast("ec.EllipticCurvePublicKey", found.public_key())
    return theirs == mine and ends > datetime.datetime.now(datetime.UTC)


def _is_p384(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bool:
    return isinstance(key.curve, ec.SECP384R1)


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
