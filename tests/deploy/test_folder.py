"""The folder of a federation: made whole or not at all, never overwritten, and what changes is put aside."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from hypothesis import given
from hypothesis import strategies as st

from fedha import config
from fedha.data.export import read_domain
from fedha.deploy import change, compose, demo, inventory, locations, tree
from fedha.deploy.certificates import read_authority
from fedha.deploy.inventory import Client, Inventory
from fedha.deploy.locations import InitFolder
from fedha.deploy.signing import FILE as ROSTER
from fedha.deploy.signing import roster_entries
from fedha.deploy.tree import Owner
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from tests.deploy.federations import CLIENTS, MADE, US, contents, make

LATER = MADE + timedelta(days=100)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "fed")
    return tmp_path / "fed"


def names_of(certificate: Path) -> list[str]:
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    return [str(name.value) for name in found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value]


def belongs(private: Path, public: Path) -> bool:
    key = load_ssh_private_key(private.read_bytes(), None)
    return key.public_key() == load_ssh_public_key(public.read_bytes())  # type: ignore[union-attr]


def signed_by_authority(folder: Path, certificate: Path) -> bool:
    authority = read_authority(*InitFolder(folder).authority)
    found = x509.load_pem_x509_certificate(certificate.read_bytes())
    found.verify_directly_issued_by(authority.certificate)
    return True


def secrets_of(folder: Path) -> Iterator[Path]:
    yield from folder.glob("ca/*.key")
    yield from folder.glob("**/secrets/*")


# --- init ---


def test_nobody_else_may_read_anything(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_each_part_has_what_its_machine_needs_and_no_secret_of_another(folder: Path) -> None:
    site = {"ca.crt", "client.key", "node.crt", "node.key", "signing.key", "superexec.secret"}
    assert {path.name for path in (folder / "server/secrets").iterdir()} == {
        *("ca.crt", "server.crt", "server.key", "superexec.secret")
    }
    for name in CLIENTS:
        assert {path.name for path in (folder / "clients" / name / "secrets").iterdir()} == site
    assert {path.name for path in (folder / "ca").iterdir()} == {"ca.crt", "ca.key"}
    secret = [path.read_bytes() for path in secrets_of(folder) if path.name != "ca.crt"]
    assert len(set(secret)) == len(secret) == 1 + 3 + 5 * len(CLIENTS)
    everything_else = b"".join(
        path.read_bytes() for path in folder.rglob("*") if path.is_file() and path not in set(secrets_of(folder))
    )
    assert not any(one in everything_else for one in secret)


def test_certificates_name_every_way_to_their_server(folder: Path) -> None:
    ways = ["superlink", "proxy", "localhost", "127.0.0.1", "fed.example.org"]
    assert names_of(folder / "server/secrets/server.crt") == ways
    for name in CLIENTS:
        certificate = folder / "clients" / name / "secrets/node.crt"
        assert names_of(certificate) == [f"{name}-node", "localhost", "127.0.0.1"]
        assert signed_by_authority(folder, certificate)
    assert signed_by_authority(folder, folder / "server/secrets/server.crt")


def test_the_server_has_each_clients_public_key_and_nobody_elses(folder: Path) -> None:
    keys = {path.name: path for path in (folder / "server/clients").iterdir()}
    assert set(keys) == {f"{name}.pub" for name in CLIENTS}
    for name in CLIENTS:
        for other in CLIENTS:
            private = folder / "clients" / name / "secrets/client.key"
            assert belongs(private, keys[f"{other}.pub"]) == (name == other)


def test_the_record_says_when_certificates_end(folder: Path) -> None:
    record = locations.find(folder).inventory()
    certificates = {"authority": folder / "ca/ca.crt", "server": folder / "server/secrets/server.crt"}
    certificates |= {f"client {name}": folder / "clients" / name / "secrets/node.crt" for name in CLIENTS}
    read = {what: x509.load_pem_x509_certificate(path.read_bytes()) for what, path in certificates.items()}
    assert record.ends() == {what: certificate.not_valid_after_utc for what, certificate in read.items()}
    assert record.server_ends == MADE + timedelta(days=825)
    assert [client.partition_id for client in record.clients] == [0, 1, 2]
    assert (folder / inventory.FILE).read_bytes() == (folder / "server" / inventory.FILE).read_bytes()


def test_settings_tell_the_site_where_the_server_is_and_whom_to_run_as(folder: Path) -> None:
    written = (folder / "clients/north/.env").read_text()
    assert written == f"FEDHA_UID={US.uid}\nFEDHA_GID={US.gid}\nFEDHA_SERVER=fed.example.org:8443\nFEDHA_DATA=./data\n"


def test_nothing_is_ever_overwritten(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(FedhaError, match="is there already and nothing is ever overwritten"):
        make(folder)
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["fed"]


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert locations.find(tmp_path / "empty").init_folder == tmp_path / "empty"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FedhaError, match="is there already"):
        make(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("error", [FedhaError("no data"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_fails_on_the_way_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    def fail(beside: Path) -> None:
        assert (beside / "a" / "b").read_bytes() == b"content"  # it is almost done
        raise error

    kind = FedhaError if isinstance(error, OSError) else type(error)
    with pytest.raises(kind):
        tree.make(tmp_path / "fed", {"a/b": b"content"}, fail)
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"cannot make .*nowhere.*fed: No such file or directory"):
        make(tmp_path / "nowhere" / "fed")


def test_root_gives_the_parts_to_the_images_user_and_keeps_the_authority(tmp_path: Path) -> None:
    if US.uid != 0:
        pytest.skip("only root can give files away")
    from fedha.deploy.create import Wanted, create

    user = tree.owner()
    assert user == Owner(tree.CONTAINER_USER, tree.CONTAINER_USER, given=True)
    create(tmp_path / "fed", Wanted(CLIENTS, (), 8443, 825), MADE, user, {})
    change.add_client(tmp_path / "fed", "east", LATER, user)
    change.rotate_server(tmp_path / "fed", [], LATER, user)
    change.rotate_client(tmp_path / "fed", "north", LATER, user)
    for path in (tmp_path / "fed").rglob("*"):
        ours = path.relative_to(tmp_path / "fed").parts[0] in {"ca", compose.FILE, inventory.FILE, ".env", ROSTER}
        assert path.stat().st_uid == (0 if ours else user.uid), path


def test_demonstration_data_are_each_clients_own_domain_alone(tmp_path: Path) -> None:
    make(tmp_path / "fed")
    experiment = config.load(ROOT / "configs" / "deployment.yaml")
    demo.fill(InitFolder(tmp_path / "fed"), CLIENTS, experiment)
    for name, source in zip(CLIENTS, load_domains(experiment).sources, strict=True):
        (file,) = (tmp_path / "fed/clients" / name / "data").iterdir()
        domain, classes = read_domain(file)
        assert (domain.name, classes) == (source.name, 2)
        assert domain.train.inputs.equal(source.train.inputs)
        assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FedhaError, match="data are for 3 clients and 2 are named"):
        demo.fill(InitFolder(tmp_path / "fed"), CLIENTS[:2], experiment)


# --- add-client ---


def test_a_new_client_gets_the_next_place_and_the_others_keep_theirs(folder: Path) -> None:
    before = contents(folder)
    assert change.add_client(folder, "east", LATER, US) == []
    record = locations.find(folder).inventory()
    assert [(client.name, client.partition_id) for client in record.clients] == [
        *(("north", 0), ("south", 1), ("west", 2), ("east", 3))
    ]
    assert belongs(folder / "clients/east/secrets/client.key", folder / "server/clients/east.pub")
    assert signed_by_authority(folder, folder / "clients/east/secrets/node.crt")
    assert (folder / compose.FILE).read_text() == compose.all_in_one(record.clients)
    changed = {path for path, content in contents(folder).items() if path in before and before[path] != content}
    rosters = {ROSTER, *(f"clients/{name}/{ROSTER}" for name in CLIENTS)}
    assert changed == {compose.FILE, inventory.FILE, f"server/{inventory.FILE}"} | rosters


def test_places_are_never_given_twice(folder: Path) -> None:
    """Not even that of a client whose entry somebody removed."""
    place = locations.find(folder)
    record = place.inventory()
    kept = record.model_copy(update={"clients": record.clients[:2]})
    place.record.write_text(inventory.to_yaml(kept))
    change.add_client(folder, "east", LATER, US)
    assert [client.partition_id for client in place.inventory().clients] == [0, 1, 3]


def test_a_name_that_is_taken_changes_nothing(folder: Path) -> None:
    before = contents(folder)
    assert change.add_client(folder, "south", LATER, US) == [
        "south is in this federation already, and nothing was changed; `rotate` gives it new keys"
    ]
    with pytest.raises(FedhaError, match="cannot be called 'So uth'"):
        change.add_client(folder, "So uth", LATER, US)
    assert contents(folder) == before


def test_adding_and_removing_may_be_repeated_and_change_nothing_more(folder: Path) -> None:
    change.add_client(folder, "east", LATER, US)
    added = contents(folder)
    change.add_client(folder, "east", LATER, US)
    assert contents(folder) == added
    assert change.remove_client(folder, "east", LATER, US) == []
    removed = contents(folder)
    assert change.remove_client(folder, "east", LATER + timedelta(days=1), US) == [
        "east was removed before, and nothing was changed"
    ]
    assert contents(folder) == removed


def test_a_removed_client_is_in_nothing_that_is_used_and_its_things_are_aside(folder: Path) -> None:
    key, site = (folder / "server/clients/south.pub").read_bytes(), contents(folder / "clients/south")
    change.remove_client(folder, "south", LATER, US)
    record = locations.find(folder).inventory()
    assert [(client.name, client.partition_id) for client in record.clients] == [("north", 0), ("west", 2)]
    assert (record.former, record.places) == (("south",), 3)
    assert (folder / compose.FILE).read_text() == compose.all_in_one(record.clients)
    authority = read_authority(folder / "ca/ca.crt", folder / "ca/ca.key")
    for place in (folder, folder / "clients/west"):
        assert sorted(roster_entries(place / ROSTER, authority)) == [0, 2]
    assert not (folder / "clients/south").exists()
    assert contents(folder / "clients/south.until-20260609T120000Z") == site
    assert (folder / "server/clients/south.pub.until-20260609T120000Z").read_bytes() == key
    change.add_client(folder, "south", LATER, US)  # the same name, another site
    again = locations.find(folder).inventory()
    assert (again.client("south").partition_id, again.former) == (3, ())


def test_who_never_was_and_who_is_the_last_are_not_removed(folder: Path) -> None:
    before = contents(folder)
    with pytest.raises(FedhaError, match="there is no client 'nobody'; the clients are north, south, west"):
        change.remove_client(folder, "nobody", LATER, US)
    assert contents(folder) == before
    for name in CLIENTS[:2]:
        change.remove_client(folder, name, LATER, US)
    with pytest.raises(FedhaError, match="west is the federation's only client"):
        change.remove_client(folder, "west", LATER, US)


def test_a_client_that_cannot_be_removed_is_not_half_removed(folder: Path) -> None:
    (folder / inventory.FILE).unlink()
    (folder / inventory.FILE).mkdir()
    before = contents(folder)
    with pytest.raises(FedhaError, match="cannot write"):
        change.remove_client(folder, "south", LATER, US)
    assert contents(folder) == before


def test_a_client_that_cannot_be_recorded_is_not_half_added(folder: Path) -> None:
    (folder / inventory.FILE).unlink()
    (folder / inventory.FILE).mkdir()  # where the record goes last
    before = contents(folder)
    with pytest.raises(FedhaError, match="cannot write"):
        change.add_client(folder, "east", LATER, US)
    assert contents(folder) == before


def test_a_compose_file_that_somebody_edited_stays(folder: Path) -> None:
    path = folder / compose.FILE
    path.write_text(path.read_text() + "# mine\n")
    (line,) = change.add_client(folder, "east", LATER, US)
    assert "is not as fedha wrote it and stays so" in line
    assert path.read_text().endswith("# mine\n")
    assert "east-node" in path.with_name("compose.yml.new").read_text()


# --- rotate ---


def test_a_rotated_server_has_new_secrets_and_names_and_keeps_the_old_ones_aside(folder: Path) -> None:
    before = contents(folder / "server/secrets")
    aside = change.rotate_server(folder, ["10.0.0.9", "fed.example.org"], LATER, US)
    after = contents(folder / "server/secrets")
    assert contents(aside) == before
    assert aside == folder / "server/secrets.until-20260609T120000Z"
    assert {name for name in after if after[name] == before[name]} == {"ca.crt"}
    assert "10.0.0.9" in names_of(folder / "server/secrets/server.crt")
    assert signed_by_authority(folder, folder / "server/secrets/server.crt")
    record = locations.find(folder).inventory()
    assert record.hosts == ("fed.example.org", "10.0.0.9")
    assert record.server_ends == LATER + timedelta(days=825)


def test_a_rotated_client_has_a_new_key_and_the_others_do_not(folder: Path) -> None:
    before, old = contents(folder / "clients"), (folder / "server/clients/south.pub").read_bytes()
    change.rotate_client(folder, "south", LATER, US)
    after = contents(folder / "clients")
    changed = {path for path in before if after.get(path) != before[path]}
    secret = ("client.key", "node.crt", "node.key", "signing.key", "superexec.secret")
    rosters = {f"{name}/{ROSTER}" for name in CLIENTS}
    assert changed == {f"south/secrets/{name}" for name in secret} | rosters
    assert belongs(folder / "clients/south/secrets/client.key", folder / "server/clients/south.pub")
    assert (folder / "server/clients/south.pub.until-20260609T120000Z").read_bytes() == old
    assert locations.find(folder).inventory().client("south").ends == LATER + timedelta(days=825)


def test_a_site_whose_folder_was_given_away_gets_a_whole_one(folder: Path) -> None:
    shutil.rmtree(folder / "clients/south")
    secrets = change.rotate_client(folder, "south", LATER, US)
    assert (secrets.parent / compose.FILE).read_text() == compose.site(
        locations.find(folder).inventory().client("south")
    )
    assert not list((secrets.parent / "data").iterdir())


def test_rotating_twice_in_a_second_loses_nothing(folder: Path) -> None:
    change.rotate_server(folder, [], LATER, US)
    before = contents(folder)
    with pytest.raises(FedhaError, match="is there already; wait a second"):
        change.rotate_server(folder, [], LATER, US)
    assert contents(folder) == before


def test_a_swap_that_fails_leaves_the_old_secrets_in_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if self.name == ".secrets.new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", broken)
        with pytest.raises(OSError, match="Input/output error"):
            change.rotate_server(folder, [], LATER, US)
    assert contents(folder) == before


def test_the_servers_part_alone_cannot_make_new_identities(folder: Path) -> None:
    with pytest.raises(FedhaError, match="is the server's part alone"):
        change.add_client(folder / "server", "east", LATER, US)
    with pytest.raises(FedhaError, match="is the server's part alone"):
        change.rotate_server(folder / "server", [], LATER, US)


def test_without_the_authoritys_key_nothing_changes(folder: Path) -> None:
    (folder / "ca/ca.key").unlink()
    before = contents(folder)
    with pytest.raises(FedhaError, match=r"cannot read .*ca\.key"):
        change.add_client(folder, "east", LATER, US)
    assert contents(folder) == before


def test_a_folder_without_a_federation_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="holds no federation"):
        locations.find(tmp_path)


# --- the record ---

_LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@given(st.lists(_LABELS, min_size=1, max_size=5, unique=True), st.integers(1, 65535), st.integers(1, 4000))
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], port: int, days: int
) -> None:
    clients = tuple(Client(name=name, partition_id=7 * place, ends=MADE) for place, name in enumerate(names))
    dates = {"created": MADE, "authority_ends": LATER, "server_ends": LATER}
    record = Inventory(hosts=("::1", "a.b"), port=port, days=days, places=99, clients=clients, **dates)
    path = tmp_path_factory.mktemp("record") / inventory.FILE
    path.write_text(inventory.to_yaml(record))
    assert inventory.read(path) == record


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "is not YAML"),
        ("words", "holds no federation"),
        ("port: 1", "days is missing"),
        ("!!python/object/apply:os.system ['true']", "the tag .* is not read here"),
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / inventory.FILE).write_text(text)
    with pytest.raises(FedhaError, match=reason):
        locations.find(tmp_path).inventory()
