"""Certificates and keys: an authority of the federation's own, what it signs, and the clients' key pairs.

All keys are on the curve P-384, which Flower takes for the clients. Dates come from the caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedha.deploy.names import address
from fedha.errors import FedhaError

AUTHORITY_DAYS = 3650
_BACKDATED = timedelta(hours=1)  # the clock of another machine may be late


@dataclass(frozen=True)
class Authority:
    """Who vouches for the federation's servers.

    Attributes:
        certificate: What everybody trusts.
        key: What signs; it never leaves the folder it was made in.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def ends(self) -> datetime:
        """When its certificate ends, and with it all that it signed."""
        return self.certificate.not_valid_after_utc


@dataclass(frozen=True)
class Issued:
    """A server's certificate and its key, as PEM.

    Attributes:
        certificate: Public.
        key: Secret.
        ends: When the certificate ends.
    """

    certificate: bytes
    key: bytes
    ends: datetime


@dataclass(frozen=True)
class Identity:
    """A client's key pair, as OpenSSH writes it.

    Attributes:
        private: Secret; the client's own.
        public: What the server registers.
    """

    private: bytes
    public: bytes


def make_authority(now: datetime, days: int = AUTHORITY_DAYS) -> Authority:
    """A new authority that may sign servers' certificates and nothing else.

    Args:
        now: In UTC.
        days: From now.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name("fedha federation authority")
    builder = (
        _dated(name, name, key.public_key(), now, now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Authority(builder.sign(key, hashes.SHA384()), key)


def issue(authority: Authority, names: Sequence[str], now: datetime, days: int) -> Issued:
    """A server's certificate for these names, with a new key.

    Args:
        authority: Signs it.
        names: Host names and IP addresses, the first of which is its subject.
        now: In UTC.
        days: From now; it never outlives the authority.

    Raises:
        FedhaError: The authority has ended.
    """
    if authority.ends <= now:
        raise FedhaError(
            f"the federation's authority ended on {authority.ends:%Y-%m-%d}; make a new federation with "
            "`fedha deploy init`, and give every site its new folder"
        )
    key = ec.generate_private_key(ec.SECP384R1())
    ends = min(now + timedelta(days=days), authority.ends)
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _dated(_name(names[0]), authority.certificate.subject, key.public_key(), now, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    return Issued(certificate.public_bytes(Encoding.PEM), _pem(key), certificate.not_valid_after_utc)


def make_identity(name: str) -> Identity:
    """A new key pair for a client.

    Args:
        name: The client's, which ends the public key's line.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return Identity(private, public + f" {name}\n".encode())


def authority_pem(authority: Authority) -> tuple[bytes, bytes]:
    """The authority's certificate and key, as PEM."""
    return authority.certificate.public_bytes(Encoding.PEM), _pem(authority.key)


def read_authority(certificate: Path, key: Path) -> Authority:
    """The authority that was written to these files.

    Raises:
        FedhaError: They are missing, or not a certificate and its key.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        secret = load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise FedhaError(
            f"cannot read {error.filename}: {error.strerror}; this needs the folder that `fedha deploy init` made, "
            "with the authority's key"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FedhaError(
            f"{certificate} and {key} are no certificate and key ({error}); restore them from a backup"
        ) from error
    if not isinstance(secret, ec.EllipticCurvePrivateKey) or secret.public_key() != found.public_key():
        raise FedhaError(f"{key} is not the key of {certificate}; restore both from the same backup")
    return Authority(found, secret)


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - _BACKDATED).not_valid_after(ends)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _alternative(name: str) -> x509.GeneralName:
    found = address(name)
    return x509.DNSName(name) if found is None else x509.IPAddress(found)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
