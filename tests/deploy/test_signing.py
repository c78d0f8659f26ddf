"""Who signs for which site: a key of the app, vouched for by the site's identity, in a roster that every site has."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from fedha.config import parse
from fedha.deploy import change
from fedha.deploy.certificates import Authority, make_authority, read_authority
from fedha.deploy.party import site_party
from fedha.deploy.signing import FILE, authority_of, roster_entries, signer_of
from fedha.errors import FedhaError
from fedha.flower.secure_wire import settings_mark
from fedha.privacy.secure.delegation import (
    Delegation,
    delegate,
    read_roster,
    read_unsigned_roster,
    roster_of,
    write_roster,
)
from fedha.privacy.secure.identity import new_identity, read_identity, read_public_key
from tests.deploy.federations import CLIENTS, MADE, US, make

LATER = MADE + timedelta(days=100)
SECURE, PLAIN = (parse({"privacy": {"secure_aggregation": on}}) for on in (True, False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "fed")
    return tmp_path / "fed"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEDHA_SIGNING_KEY", "FEDHA_ROSTER", "FEDHA_MINIMUM", "FEDHA_SECURE_ONLY"):
        monkeypatch.delenv(name, raising=False)


def authority(folder: Path) -> Authority:
    return read_authority(folder / "ca/ca.crt", folder / "ca/ca.key")


def known(folder: Path, path: Path) -> dict[int, Delegation]:
    return dict(roster_entries(path, authority(folder)))


def at_site(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder / "clients" / name
    monkeypatch.setenv("FEDHA_SIGNING_KEY", str(site / "secrets" / "signing.key"))
    monkeypatch.setenv("FEDHA_ROSTER", str(site / FILE))


# --- the files ---


def test_every_site_has_the_roster_and_a_key_that_its_identity_vouches_for(folder: Path) -> None:
    texts = {(folder / "clients" / name / FILE).read_bytes() for name in CLIENTS} | {(folder / FILE).read_bytes()}
    assert len(texts) == 1
    certificate = (folder / "clients/west/secrets/ca.crt").read_bytes()
    entries = read_roster(texts.pop(), authority_of(certificate))
    assert [(one.client_id, one.name) for one in entries] == list(enumerate(CLIENTS))
    for one in entries:
        signing = read_identity((folder / "clients" / one.name / "secrets/signing.key").read_bytes())
        assert one.key == signing.public
        registered = (folder / "server/clients" / f"{one.name}.pub").read_bytes()
        assert one.identity == read_public_key(registered)
        assert load_ssh_public_key(registered)


def test_a_new_site_is_known_to_all_and_the_others_keep_their_keys(folder: Path) -> None:
    before = known(folder, folder / FILE)
    change.add_client(folder, "east", LATER, US)
    for name in (*CLIENTS, "east"):
        after = known(folder, folder / "clients" / name / FILE)
        assert {place: after[place] for place in before} == before
        assert after[3].name == "east"


def test_a_site_with_new_keys_is_known_by_them(folder: Path) -> None:
    before = known(folder, folder / FILE)
    change.rotate_client(folder, "south", LATER, US)
    after = known(folder, folder / "clients/north" / FILE)
    assert {place for place in before if after[place] != before[place]} == {1}
    assert after[1].key == read_identity((folder / "clients/south/secrets/signing.key").read_bytes()).public
    assert (folder / "clients" / "north" / FILE).stat().st_mode & 0o777 == 0o600


def test_a_federation_from_before_rosters_gets_one_site_after_site(folder: Path) -> None:
    for path in folder.rglob(FILE):
        path.unlink()
    for name in CLIENTS:
        change.rotate_client(folder, name, LATER, US)
    assert [one.name for one in known(folder, folder / "clients/west" / FILE).values()] == list(CLIENTS)


EARLIER = (  # as a federation's roster was written before the field was called client_id
    '["Delegations",{"entries":[{"place":0,"name":"north","identity":{"bytes":'
    '"MCowBQYDK2VwAyEAY4sSz6/D7FZ9hWTyMS+AX7XUQiiBOtzepcMfcB2SqHA="},"key":{"bytes":'
    '"MCowBQYDK2VwAyEA0PmfXgaIeRhdtgvK5pfZRmeRTpYJlaiGMAvKemlm2cY="},"signature":{"bytes":'
    '"nlmIAI1TBvldQrlXZ1shOC7VYEkXtt7YJImaNaSzouZqm2Wos25rGpeND0nbNH8DAaVzouSy0dzVPBASJKUyDw=="}}]}]\n'
)


def test_a_roster_of_an_earlier_version_is_signed_with_the_next_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = read_unsigned_roster(EARLIER.encode())
    assert [(one.client_id, one.name) for one in entries] == [(0, "north")]
    for path in (folder / FILE, folder / "clients/south" / FILE):
        path.write_text(EARLIER)
    at_site(folder, "south", monkeypatch)
    with pytest.raises(FedhaError, match=r"roster\.json: the roster is of an earlier version, in which no authority"):
        site_party(SECURE, folder)
    change.rotate_client(folder, "south", LATER, US)
    assert sorted(known(folder, folder / "clients/south" / FILE)) == [0, 1]
    assert site_party(SECURE, folder) is not None


# --- a roster that is not to be believed ---


SIGNER = new_identity()


def entries() -> list[Delegation]:
    return [delegate(new_identity(), place, name, new_identity().public) for place, name in enumerate(CLIENTS)]


def test_a_roster_is_read_as_it_was_written() -> None:
    made = entries()
    assert read_roster(write_roster(reversed(made), SIGNER), SIGNER.public) == tuple(made)
    assert roster_of(made).keys == {one.client_id: one.key for one in made}


@pytest.mark.parametrize("change", [{"key": new_identity().public}, {"client_id": 7}, {"name": "nord"}])
def test_words_that_the_identity_did_not_sign_are_refused(change: dict[str, object]) -> None:
    first, *rest = entries()
    with pytest.raises(
        FedhaError, match=r"the roster's words of no\w+ that should be client \d's do not carry its sign"
    ):
        read_roster(write_roster([replace(first, **change), *rest], SIGNER), SIGNER.public)  # type: ignore[arg-type]


def test_two_sites_in_one_place_are_refused() -> None:
    first, second, third = entries()
    with pytest.raises(FedhaError, match="two sites of the roster have one client id"):
        read_roster(write_roster([first, second, replace(third, client_id=0)], SIGNER), SIGNER.public)


def test_a_roster_that_another_authority_signed_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Friends of the server under the sites' names, each with an identity that vouches for its key."""
    at_site(folder, "south", monkeypatch)
    (folder / "clients/south" / FILE).write_bytes(write_roster(entries(), signer_of(make_authority(MADE))))
    with pytest.raises(FedhaError, match=r"cannot believe roster\.json: .* not signed by this federation's authority"):
        site_party(SECURE, folder)


def test_a_site_that_is_left_out_of_a_signed_roster_is_missed(folder: Path) -> None:
    """Every site's words are its own, but which sites there are is the authority's."""
    text = (folder / FILE).read_bytes()
    whole = authority_of((folder / "ca/ca.crt").read_bytes())
    kept = write_roster(read_roster(text, whole)[:2], SIGNER)
    with pytest.raises(FedhaError, match="not signed by this federation's authority"):
        read_roster(kept, whole)


def test_a_roster_that_is_none_is_a_sentence(folder: Path) -> None:
    (folder / FILE).write_text("north: 1\n")
    with pytest.raises(FedhaError, match=r"roster\.json is no roster: 9 bytes that should be a SignedRoster"):
        change.add_client(folder, "east", LATER, US)


# --- a site ---


def test_a_site_signs_with_its_key_and_believes_its_roster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_site(folder, "south", monkeypatch)
    party = site_party(SECURE, folder)
    assert party is not None
    assert party.minimum == 3
    assert party.settings == settings_mark(SECURE)
    roster = party.roster([0, 1, 2])
    assert set(roster.keys) == {0, 1, 2}
    roster.verify(1, b"said", party.identity(1).sign(b"said"), "the words")


def test_a_site_without_keys_takes_no_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_site(folder, "south", monkeypatch)
    (folder / "clients/south/secrets/signing.key").unlink()
    with pytest.raises(
        FedhaError, match=r"cannot read signing\.key: No such file.*fedha deploy rotate --client NAME"
    ) as caught:
        site_party(SECURE, folder)
    assert str(folder) not in str(caught.value)  # the sentence goes to the server
    assert site_party(PLAIN, folder) is None


def test_a_site_may_insist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_site(folder, "south", monkeypatch)
    monkeypatch.setenv("FEDHA_SECURE_ONLY", "1")
    monkeypatch.setenv("FEDHA_MINIMUM", "5")
    party = site_party(SECURE, folder)
    assert party is not None
    assert party.minimum == 5
    with pytest.raises(FedhaError, match="this site answers in secure sums alone"):
        site_party(PLAIN, folder)
    monkeypatch.setenv("FEDHA_MINIMUM", "1")
    with pytest.raises(FedhaError, match="FEDHA_MINIMUM is '1'; give a number of clients, 2 or more"):
        site_party(SECURE, folder)
