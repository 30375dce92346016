"""Certificates of a consortium: its authority, and the server's, for TLS.

The authority is private to the consortium: no public one is asked, and none is trusted. EC P-384
throughout; a server's certificate may do nothing but be a server (RFC 5280, 4.2.1).
"""

import datetime
import ipaddress
from collections.abc import Iterable

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedward.common.keys import key_usage

AUTHORITY_DAYS = 3650
BACKDATED = datetime.timedelta(days=1)
"""A site whose clock is a little behind must not find a certificate of tomorrow."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The coordinator's own processes reach the server by these."""


def make_authority(
    consortium: str, key: ec.EllipticCurvePrivateKey, *, now: datetime.datetime
) -> x509.Certificate:
    """Return a certificate with which `key` may issue others, and nothing below those."""
    name = _name("fedward authority", consortium)
    public = key.public_key()
    return (
        _builder(now, now + datetime.timedelta(days=AUTHORITY_DAYS))
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA384())
    )


def issue_for_server(
    names: Iterable[str],
    public: ec.EllipticCurvePublicKey,
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    *,
    now: datetime.datetime,
    days: int,
) -> x509.Certificate:
    """Return the server's certificate for `names`, which ends no later than the authority's.

    Args:
        names: host names and IP addresses by which the server is reached.
        public: of the server's key.
        authority: its certificate and key.
        now: with a time zone.
        days: until it ends.
    """
    issuer, key = authority
    ends = min(now + datetime.timedelta(days=days), issuer.not_valid_after_utc)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    is_server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    alternative = x509.SubjectAlternativeName([_alternative(one) for one in names])
    organisation = issuer.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value
    return (
        _builder(now, ends)
        .subject_name(_name("fedward server", str(organisation)))
        .issuer_name(issuer.subject)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(is_authority=False), critical=True)
        .add_extension(is_server, critical=False)
        .add_extension(alternative, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issued_by, critical=False)
        .sign(key, hashes.SHA384())
    )


def names_of(certificate: x509.Certificate) -> set[str]:
    """Return the host names and addresses that a certificate is for."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(entry.value) for entry in found}


def to_pem(certificate: x509.Certificate) -> bytes:
    """Return `certificate` as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(now: datetime.datetime, ends: datetime.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(ends)
    )


def _name(common_name: str, organisation: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
