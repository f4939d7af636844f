# Copyright: dbmem.mshare contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An authority of the tests' own, and certificates that it signs, all in PEM."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtensionOID, NameOID

_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_text(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_text(self, password: str | None = None) -> str:
        locked = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked).decode()


def authority(name: str, *, strict: bool = True) -> Pair:
    """`strict` is as RFC 5280 has it, and as Python wants it by default since 3.13; else without identifiers
    of keys, as many a private authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Pair(_signed(name, key, None, key, strict=strict), key)


def issued(name: str, by: Pair, address: str | None = None) -> Pair:
    """For a client, or for a server at an address."""
    key = ec.generate_private_key(ec.SECP256R1())
    strict = any(each.oid == ExtensionOID.SUBJECT_KEY_IDENTIFIER for each in by.certificate.extensions)
    return Pair(_signed(name, key, by.certificate, by.key, address, strict=strict), key)


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    address: str | None = None,
    *,
    strict: bool,
) -> x509.Certificate:
    """A certificate; without an issuer it is an authority's."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder(subject if issuer is None else issuer.subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if address is not None:
        names = [x509.IPAddress(ip_address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if strict:
        signed_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        builder = builder.add_extension(signed_by, critical=False).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    if strict and issuer is None:
        builder = builder.add_extension(_SIGNS, critical=True)
    return builder.sign(issuer_key, hashes.SHA256())
