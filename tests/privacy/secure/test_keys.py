"""Two clients get one key and each use another; identities sign, rosters know them."""

import itertools

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fedha.errors import FedhaError
from fedha.privacy.secure.agreement import agree, expand, key_pair, new_key_pair
from fedha.privacy.secure.identity import Identity, Roster, new_identity, read_identity, read_public_key
from fedha.privacy.secure.packing import digest, statement
from fedha.privacy.secure.question import question

CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]
KEYS = [*(ec.generate_private_key(curve) for curve in CURVES), ed25519.Ed25519PrivateKey.generate()]


def test_both_ends_agree_and_nobody_else() -> None:
    one, other, third = new_key_pair(), new_key_pair(), new_key_pair()
    assert agree(one.private, other.public) == agree(other.private, one.public)
    assert agree(one.private, other.public) != agree(one.private, third.public)
    assert key_pair(one.private) == one


def test_agreement_is_that_of_rfc_7748() -> None:
    """The first vector of its section 5.2."""
    private = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    public = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert agree(private, public).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


def test_a_key_of_low_order_is_refused() -> None:
    for public in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(FedhaError, match=r"low order"):
            agree(new_key_pair().private, public)


def test_every_use_has_a_key_of_its_own() -> None:
    uses = itertools.product((b"s" * 32, b"t" * 32), ("one", "two"), (b"c" * 32, b"d" * 32), ((), (1,), (1, 2), (2, 1)))
    keys = [expand(secret, purpose, context, *places) for secret, purpose, context, places in uses]
    assert len(set(keys)) == len(keys) == 32
    assert {len(key) for key in keys} == {32}


def test_statements_differ_where_their_parts_do() -> None:
    parts = [(), ("1",), (1,), (b"1",), (1, 1), (11,), ("1", "1"), ("",), (b"",)]
    assert len({statement("x", *one) for one in parts} | {statement("y", *one) for one in parts}) == 2 * len(parts)
    assert len({digest("x", *one) for one in parts}) == len(parts)


def test_a_question_is_another_one_in_every_part_and_the_same_in_any_order() -> None:
    model = {"a": torch.zeros(2, 3), "b": torch.tensor(1.0, dtype=torch.bfloat16), "none": torch.zeros(0)}
    asked = question(model, "hgp", 3)
    assert len(asked) == 32
    assert asked == question(dict(reversed(model.items())), "hgp", 3)
    assert asked == question({**model, "a": torch.zeros(3, 2).T}, "hgp", 3)
    assert asked == question({**model, "a": torch.zeros(2, 3, requires_grad=True)}, "hgp", 3)
    changed = model["a"].clone()
    changed[1, 2] = 1e-45
    others = [
        question(model, "hgp", 4),
        question(model, "hgp"),
        question({**model, "a": changed}, "hgp", 3),
        question({**model, "a": -model["a"]}, "hgp", 3),
        question({**model, "a": torch.zeros(3, 2)}, "hgp", 3),
        question({**model, "a": torch.zeros(2, 3, dtype=torch.int32)}, "hgp", 3),
        question({**model, "c": torch.zeros(0)}, "hgp", 3),
        question({"a": model["b"], "b": model["a"], "none": model["none"]}, "hgp", 3),
        question({}, "hgp", 3),
    ]
    assert len({asked, *others}) == len(others) + 1


@pytest.mark.parametrize("key", KEYS, ids=lambda key: getattr(getattr(key, "curve", None), "name", "ed25519"))
def test_a_key_file_of_a_supernode_is_an_identity(key: ec.EllipticCurvePrivateKey) -> None:
    public = Identity(key).public
    for form in (PrivateFormat.OpenSSH, PrivateFormat.PKCS8):
        identity = read_identity(key.private_bytes(Encoding.PEM, form, NoEncryption()))
        assert identity.public == public
        Roster({7: public}).verify(7, b"said", identity.sign(b"said"), "the keys")
    forms = [
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b" site-0@hospital\n",
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public,
    ]
    assert {read_public_key(one) for one in forms} == {public}


def test_other_key_files_are_refused_without_a_word_of_them() -> None:
    locked = KEYS[0].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    other = rsa.generate_private_key(65537, 2048)
    rsa_file = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    short = ec.generate_private_key(ec.SECP224R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for text in (locked, rsa_file, short, b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense"):
        with pytest.raises(FedhaError, match=r"^the identity key cannot be used; give a private key file"):
            read_identity(text)
    for text in (b"", b"ssh-rsa AAAA", other.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)):
        with pytest.raises(FedhaError, match=r"^a public identity key cannot be used"):
            read_public_key(text)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: getattr(getattr(key, "curve", None), "name", "ed25519"))
def test_a_signature_is_of_one_client_and_one_statement(key: ec.EllipticCurvePrivateKey) -> None:
    identity, other = Identity(key), new_identity()
    roster = Roster({0: identity.public, 1: other.public})
    signature = identity.sign(b"said")
    roster.verify(0, b"said", signature, "the keys")
    for place, said, signed in [
        (1, b"said", signature),
        (0, b"said!", signature),
        (0, b"said", signature[:-1] + bytes([signature[-1] ^ 1])),
        (0, b"said", b""),
        (0, b"said", other.sign(b"said")),
    ]:
        with pytest.raises(FedhaError, match=rf"^the keys that should be client {place}'s do not carry its signature"):
            roster.verify(place, said, signed, "the keys")
    with pytest.raises(FedhaError, match=r"^client 2 is not in the roster"):
        roster.verify(2, b"said", signature, "the keys")


def test_a_roster_has_one_key_a_client() -> None:
    public = new_identity().public
    with pytest.raises(FedhaError, match=r"^clients 3 and 5 have one key"):
        Roster({3: public, 5: public})
    pem = KEYS[1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(FedhaError, match=r"^the roster's key of client 4 is not DER; read it with read_public_key"):
        Roster({4: pem})
    assert Roster({4: read_public_key(pem)}).keys


def test_secrets_do_not_show_when_printed() -> None:
    pair, identity = new_key_pair(), new_identity()
    assert "private" not in repr(pair)
    assert repr(identity) == "Identity()"
