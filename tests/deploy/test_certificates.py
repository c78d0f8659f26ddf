"""Certificates that Python's own TLS accepts, for the names they are for, as long as they last, and no others."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from flwr.supercore.primitives.asymmetric import uses_nist_ec_curve

from fedha.deploy.certificates import (
    Authority,
    Issued,
    authority_pem,
    issue,
    make_authority,
    make_identity,
    read_authority,
)
from fedha.errors import FedhaError
from tests.deploy.federations import MADE

NOW = datetime.now(UTC).replace(microsecond=0)


def verify(authority: Authority, issued: Issued, name: x509.GeneralName, when: datetime) -> None:
    """Raise unless the certificate is good for the name at that time, by cryptography's reading of the web's rules."""
    store = Store([authority.certificate])
    policy = PolicyBuilder().store(store).time(when).build_server_verifier(name)  # type: ignore[arg-type]
    policy.verify(x509.load_pem_x509_certificate(issued.certificate), [])


def shake_hands(folder: Path, issued: Issued, trusted: Authority, name: str) -> str | None:
    """A real handshake, with Python's strictest settings: the protocol, or None where the client refuses."""
    (folder / "server.pem").write_bytes(issued.certificate + issued.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    client = ssl.create_default_context(cadata=authority_pem(trusted)[0].decode())
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=name) as connection:
            return connection.version()
    except ssl.SSLCertVerificationError:
        return None
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("name", ["superlink", "fed.example.org", "127.0.0.1", "::1"])
def test_a_certificate_is_good_for_each_of_its_names(tmp_path: Path, name: str) -> None:
    authority = make_authority(NOW)
    issued = issue(authority, ["superlink", "fed.example.org", "127.0.0.1", "::1"], NOW, 30)
    assert shake_hands(tmp_path, issued, authority, name) == "TLSv1.3"


def test_a_certificate_is_refused_under_another_name_or_another_authority(tmp_path: Path) -> None:
    authority = make_authority(NOW)
    issued = issue(authority, ["superlink"], NOW, 30)
    assert shake_hands(tmp_path, issued, authority, "superlink") is not None
    assert shake_hands(tmp_path, issued, authority, "proxy") is None
    assert shake_hands(tmp_path, issued, make_authority(NOW), "superlink") is None


def test_a_certificate_is_good_from_an_hour_before_it_was_made_until_its_end() -> None:
    authority, name = make_authority(MADE), x509.DNSName("superlink")
    issued = issue(authority, ["superlink"], MADE, 30)
    assert issued.ends == MADE + timedelta(days=30)
    verify(authority, issued, name, MADE - timedelta(minutes=59))
    verify(authority, issued, name, issued.ends - timedelta(seconds=1))
    for when in (MADE - timedelta(minutes=61), issued.ends + timedelta(seconds=1)):
        with pytest.raises(VerificationError):
            verify(authority, issued, name, when)


def test_no_certificate_outlives_its_authority() -> None:
    authority = make_authority(MADE, days=100)
    assert authority.ends == MADE + timedelta(days=100)
    assert issue(authority, ["a"], MADE + timedelta(days=50), 825).ends == authority.ends
    with pytest.raises(FedhaError, match="authority ended on 2026-06-09"):
        issue(authority, ["a"], authority.ends, 825)


def test_a_servers_certificate_can_neither_sign_others_nor_pass_for_a_client() -> None:
    authority = make_authority(MADE)
    certificate = x509.load_pem_x509_certificate(issue(authority, ["a"], MADE, 30).certificate)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_every_key_is_a_new_one() -> None:
    authority = make_authority(MADE)
    keys = [issue(authority, ["a"], MADE, 30).key for _ in range(2)] + [authority_pem(authority)[1]]
    keys += [make_identity("a").private for _ in range(2)]
    assert len(set(keys)) == len(keys)


def test_a_clients_key_pair_is_one_that_flower_takes() -> None:
    identity = make_identity("north")
    private, public = load_ssh_private_key(identity.private, None), load_ssh_public_key(identity.public)
    assert private.public_key() == public  # type: ignore[union-attr]
    assert uses_nist_ec_curve(public)  # type: ignore[arg-type]
    assert identity.public.endswith(b" north\n")


def test_an_authority_is_read_as_it_was_written(tmp_path: Path) -> None:
    authority = make_authority(MADE)
    files = [tmp_path / "ca.crt", tmp_path / "ca.key"]
    for file, content in zip(files, authority_pem(authority), strict=True):
        file.write_bytes(content)
    again = read_authority(*files)
    assert again.certificate == authority.certificate
    verify(authority, issue(again, ["a"], MADE, 1), x509.DNSName("a"), MADE)


def test_an_authority_that_is_none_is_refused(tmp_path: Path) -> None:
    certificate, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    certificate.write_bytes(authority_pem(make_authority(MADE))[0])
    with pytest.raises(FedhaError, match=r"cannot read .*ca\.key"):
        read_authority(certificate, key)
    key.write_bytes(authority_pem(make_authority(MADE))[1])
    with pytest.raises(FedhaError, match="is not the key of"):
        read_authority(certificate, key)
    key.write_bytes(b"nothing")
    with pytest.raises(FedhaError, match="are no certificate and key"):
        read_authority(certificate, key)
