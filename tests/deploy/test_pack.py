"""What is sent to other machines: unpacked as documented, by another user, in another folder, and more than once."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fedha.deploy import change
from fedha.deploy.pack import pack
from fedha.errors import FedhaError
from tests.deploy.federations import CLIENTS, MADE, OTHER, US, contents, make, others_folder

LATER = MADE + timedelta(days=100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "fed")
    (tmp_path / "fed/server/configs/mine.yaml").write_text("recipe: erm\n")
    (tmp_path / "fed/clients/north/data/domain.npz").write_bytes(b"to try with")
    return tmp_path / "fed"


@pytest.fixture
def there() -> Iterator[Path]:
    """A folder on another machine: another user's, where the tests run as root."""
    with others_folder() as folder:
        yield folder


def deliver(folder: Path, there: Path, client: str | None = None, path: str | None = None) -> tuple[int, str]:
    """The documented command, after the pipe, as another user."""
    user = {"user": OTHER, "group": OTHER, "extra_groups": []} if US.uid == 0 else {}
    done = subprocess.run(
        ["sh", "-c", "mkdir -p fedha && tar -xf - -C fedha && sh fedha/settle.sh"],
        input=pack(folder, client),
        cwd=there,
        env={"PATH": path or os.environ["PATH"]},
        capture_output=True,
        **user,  # type: ignore[call-overload]
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_part_arrives_whole_for_the_user_who_takes_it(folder: Path, there: Path) -> None:
    code, said = deliver(folder, there)
    assert code == 0, said
    assert "is up to date; start it with" in said
    assert f"FEDHA_UID={OTHER}\n" in (there / "fedha/.env").read_text()
    sent = contents(there / "fedha")
    for name, content in contents(folder / "server").items():
        assert name == ".env" or sent[name] == content, name
    for path in (there / "fedha").rglob("*"):
        assert path.stat().st_uid == OTHER, path
    for path in (there / "fedha/secrets").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert not (there / "fedha/.next").exists()


@pytest.mark.parametrize("client", [None, "north"])
def test_sending_it_again_changes_nothing(folder: Path, there: Path, client: str | None) -> None:
    assert deliver(folder, there, client)[0] == 0
    before = contents(there / "fedha")
    code, said = deliver(folder, there, client)
    assert (code, contents(there / "fedha")) == (0, before), said
    assert not (there / "fedha/fedha").exists()


def test_an_update_brings_what_changed_and_leaves_what_is_the_machines(folder: Path, there: Path) -> None:
    deliver(folder, there)
    mine = {".env": "FEDHA_UID=1\n", "configs/mine.yaml": "recipe: hgp\n", "compose.override.yml": "services: {}\n"}
    mine[".env"] = f"FEDHA_UID={OTHER}\nFEDHA_GID={OTHER}\nFEDHA_TARGET=/srv/target\n"
    for name, text in mine.items():
        (there / "fedha" / name).write_text(text)
    (there / "fedha/runs/done").mkdir()
    change.add_client(folder, "east", LATER, US)
    change.remove_client(folder, "south", LATER, US)
    change.rotate_client(folder, "west", LATER, US)
    change.rotate_server(folder, [], LATER, US)
    code, said = deliver(folder, there)
    assert code == 0, said
    assert {name: (there / "fedha" / name).read_text() for name in mine} == mine
    assert (there / "fedha/runs/done").is_dir()
    assert {path.name for path in (there / "fedha/clients").iterdir()} == {"north.pub", "west.pub", "east.pub"}
    for name in ("clients/west.pub", "secrets/server.key", "federation.yaml"):
        assert (there / "fedha" / name).read_bytes() == (folder / "server" / name).read_bytes()
    assert not list((there / "fedha").rglob("*.until-*"))


def test_a_compose_file_that_was_changed_there_stays_beside_the_new_one(folder: Path, there: Path) -> None:
    deliver(folder, there, "north")
    path = there / "fedha/compose.yml"
    path.write_text("# mine\n")
    code, said = deliver(folder, there, "north")
    assert code == 0
    assert "compose.yml is new; the one before is compose.yml.before" in said
    assert path.read_bytes() == (folder / "clients/north/compose.yml").read_bytes()
    assert path.with_name("compose.yml.before").read_text() == "# mine\n"


def test_a_site_gets_its_own_part_alone_and_only_what_is_in_use(folder: Path, there: Path) -> None:
    change.rotate_client(folder, "north", LATER, US)
    assert deliver(folder, there, "north")[0] == 0
    found = {str(path.relative_to(there / "fedha")) for path in (there / "fedha").rglob("*") if path.is_file()}
    secrets = ("ca.crt", "client.key", "node.crt", "node.key", "signing.key", "superexec.secret")
    assert found == {
        *(".env", "accepted.txt", "compose.yml", "data/domain.npz", "roster.json", "settle.sh"),
        *(f"secrets/{name}" for name in secrets),
    }


def test_a_site_begins_with_contracts_and_is_sent_proposals_ever_after(folder: Path, there: Path) -> None:
    """What a person there has taken away, or never accepted, does not come back by itself."""
    site, north = folder / "clients/north", there / "fedha"
    (site / "contracts/a.yaml").write_text("first")
    (site / "proposed/b.yaml").write_text("new")
    assert deliver(folder, there, "north")[0] == 0
    assert (north / "contracts/a.yaml").read_text() == "first"
    assert (north / "proposed/b.yaml").read_text() == "new"
    (north / "contracts/a.yaml").unlink()
    (site / "contracts/c.yaml").write_text("later")
    (site / "proposed/b.yaml").write_text("newer")
    assert deliver(folder, there, "north")[0] == 0
    assert not list((north / "contracts").iterdir())
    assert (north / "proposed/b.yaml").read_text() == "newer"


def test_an_env_file_for_somebody_else_is_said_not_run_into(folder: Path, there: Path) -> None:
    deliver(folder, there)
    (there / "fedha/.env").write_text("FEDHA_UID=4321\nFEDHA_GID=4321\n")
    code, said = deliver(folder, there)
    assert code == 1
    assert f"is 4321 and these files are user {OTHER}'s: containers could not read them" in said


def test_podman_without_root_keeps_the_user_in_containers(folder: Path, there: Path) -> None:
    tools = there / "bin"  # a machine that has podman and no docker
    tools.mkdir()
    for name in ("sh", "id", "sed", "mkdir", "find", "dirname", "mv", "cmp", "rm", "tail", "chmod", "chown", "tar"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "podman").write_text("#!/bin/sh\n")
    (tools / "podman").chmod(0o755)
    code, said = deliver(folder, there, path=str(tools))
    assert code == 0, said
    assert (there / "fedha/.env").read_text().endswith("FEDHA_USERNS=keep-id\n")


def test_root_gives_the_files_to_the_images_user(folder: Path, tmp_path: Path) -> None:
    if US.uid != 0:
        pytest.skip("needs root")
    there = tmp_path / "roots"
    there.mkdir()
    done = subprocess.run(
        ["sh", "-c", "mkdir -p fedha && tar -xf - -C fedha && sh fedha/settle.sh"], input=pack(folder), cwd=there
    )
    assert done.returncode == 0
    assert "FEDHA_UID=10001\n" in (there / "fedha/.env").read_text()
    assert {path.stat().st_uid for path in (there / "fedha").rglob("*")} == {10001}


def test_who_is_no_client_and_what_is_no_federation_are_sentences(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="there is no client 'east'"):
        pack(folder, "east")
    with pytest.raises(FedhaError, match="is the server's part alone"):
        pack(folder / "server")
    shutil.rmtree(folder / "clients" / CLIENTS[0])
    with pytest.raises(FedhaError, match="is not here any more; make it anew with `fedha deploy rotate"):
        pack(folder, CLIENTS[0])
