"""docs/deploy.md by the letter: every command, in order, in either engine's words, as other users, in other folders."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.federations import OTHER, US, others_folder
from tests.deploy.page import ENGINES, PLACES, ROOT, Command, commands
from tests.deploy.running import SCRIPTS

HOSTS = ("fed.example.org", "charite", "mayo")
ENGINE = Path(__file__).with_name("engine.py")
SSH = """#!/bin/sh
# ssh HOST COMMAND: the command in the home of that host's user
host=$1; shift
cd "{homes}/$host" && exec {become} sh -c "$*"
"""


def test_every_block_says_where_it_is_typed() -> None:
    found = list(commands())
    assert {one.place for one in found} == set(PLACES)
    assert len(found) > 25


def test_each_engine_has_its_own_words() -> None:
    one = Command(PLACES[0], "docker save a | ssh b docker load; docker compose up")
    assert one.words("docker") == one.line
    assert one.words("podman") == "podman save a | ssh b podman load; podman-compose up"


def test_every_command_of_fedha_is_one() -> None:
    import click
    import typer.main

    from fedha.cli.commands import app

    fedha = typer.main.get_command(app)
    assert isinstance(fedha, click.Group)
    deploy = fedha.commands["deploy"]
    assert isinstance(deploy, click.Group)
    for one in commands():
        if one.line.startswith("fedha deploy "):
            name, *words = one.line.partition(" | ")[0].split()[2:]
            deploy.commands[name].make_context(name, words)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the page's commands read of a checkout, in another folder."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copy(ROOT / "docker-compose.yml", folder)
    for name in ("server", "clients", "server/proxy"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name / "Dockerfile", folder / name)
    return folder


@pytest.fixture
def machines() -> Iterator[Path]:
    """A home on each other machine, and tools that their users can call."""
    with others_folder() as folder:
        for host in HOSTS:
            (folder / host).mkdir()
            if US.uid == 0:
                os.chown(folder / host, OTHER, OTHER)
        yield folder


def path_with(machines: Path) -> str:
    """A PATH with fedha, engines that only look, and an ssh to the other machines."""
    become = f"setpriv --reuid {OTHER} --regid {OTHER} --clear-groups" if US.uid == 0 else ""
    scripts = {"ssh": SSH.format(homes=machines, become=become)}
    for word in {name.split()[0] for names in ENGINES.values() for name in names}:
        taken = '[ "$1" != load ] || exec cat > /dev/null'
        scripts[word] = f'#!/bin/sh\n{taken}\nexec {sys.executable} {ENGINE} {word} "$@"\n'
    (machines / "tools").mkdir()
    for name, text in scripts.items():
        (machines / "tools" / name).write_text(text)
        (machines / "tools" / name).chmod(0o755)
    return os.pathsep.join((str(machines / "tools"), str(SCRIPTS), os.environ["PATH"]))


@pytest.mark.slow
def test_the_page_works_by_the_letter_in_either_engines_words(checkout: Path, machines: Path) -> None:
    """A line that names no engine is typed once: the engines only look, so each finds the same folders."""
    environment = {"PATH": path_with(machines), "HOME": str(machines)}
    folders = {
        PLACES[0]: [checkout],
        PLACES[1]: [machines / "fed.example.org/fedha"],
        PLACES[2]: [machines / "charite/fedha"],
    }
    for one in commands():
        if "configs/heart.yaml" in one.line and one.place == PLACES[1]:  # of another federation, sent alike
            shutil.copy(ROOT / "configs/heart.yaml", machines / "fed.example.org/fedha/configs")
        for line in dict.fromkeys(one.words(engine) for engine in ENGINES):
            for folder in folders[one.place]:
                shell = ["bash", "-o", "pipefail", "-ec", line]
                done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
                assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    record = (machines / "fed.example.org/fedha/federation.yaml").read_text()
    assert "name: east" in record
    assert "name: usz" not in record
    assert (machines / "mayo/fedha/secrets/client.key").is_file()
