"""The images: one base for both, pinned, without a compiler or anybody's secrets, and no container starts as root."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = {name: ROOT / name / "Dockerfile" for name in ("server", "clients", "server/proxy")}
SILENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def stages(name: str) -> list[str]:
    """A Dockerfile's stages, without what stands above the first."""
    text = DOCKERFILES[name].read_text(encoding="utf-8")
    return re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]


def test_both_images_share_every_stage_but_the_last() -> None:
    server, clients = stages("server"), stages("clients")
    assert len(server) == 3
    assert server[:-1] == clients[:-1]
    assert "torch" in server[0]
    assert "torch" not in "".join(server[1:])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_image_comes_from_one_and_ends_as_nobody(name: str) -> None:
    parts = stages(name)
    origins = [part.split()[1] for part in parts]
    assert set(origins) <= {"docker.io/library/python:3.11-slim", "base"}
    assert re.findall(r"^USER (.*)$", parts[-1], re.MULTILINE) == ["10001:10001"]
    assert not re.search(r"\b(gcc|g\+\+|build-essential|ADD|curl|wget|git)\b", "".join(parts))


@pytest.mark.parametrize("name", ["server", "clients"])
def test_pip_installs_pinned_versions_and_keeps_no_cache(name: str) -> None:
    base, wheel, last = stages(name)
    installs = [line for line in re.sub(r"\\\n", "", "".join((base, wheel, last))).split(";") if "pip" in line]
    assert installs
    assert all("--no-cache-dir" in line for line in installs)
    assert base.count("--constraint /opt/fedha/constraints.txt") == 2
    assert "PIP_CONSTRAINT=/opt/fedha/constraints.txt" in wheel
    assert "--no-deps" in last


@pytest.mark.parametrize("name", ["server", "clients"])
def test_nothing_in_an_image_calls_home(name: str) -> None:
    (block,) = re.findall(r"^ENV (.*?[^\\])$", stages(name)[0], re.MULTILINE | re.DOTALL)
    settings = dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())
    assert settings.items() >= SILENT.items()
    assert settings["HOME"] == "/tmp"
    assert settings["FLWR_HOME"].startswith("/tmp/")


def test_the_images_needs_are_the_projects_without_ray() -> None:
    """The line in the Dockerfile that reads them, run on the project's file as it is."""
    (line,) = re.findall(r'python -c "(import tomllib; .*?)" > /tmp/needs.txt', stages("server")[0])
    said: list[str] = []
    exec(line.replace("/opt/fedha/pyproject.toml", str(ROOT / "pyproject.toml")), {"print": said.append})
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert said == [need.replace("flwr[simulation]", "flwr") for need in needs if not need.startswith("ray>")]
    assert len(said) == len(needs) - 1


def test_a_deployment_is_imported_without_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import fedha.cli.commands, fedha.deploy.apps, fedha.deploy.submit, fedha.deploy.control, fedha.deploy.demo"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    "secret",
    [
        *("deployment/ca/ca.key", "deployment/.env", "fed/clients/north/secrets/client.key", ".env", ".git/config"),
        *("runs/a/model.safetensors", "data/x.csv", ".venv/bin/python", "server/server.key", "fedha/.env"),
        *("configs/secrets.pem", "fedha/__pycache__/a.pyc"),
    ],
)
def test_no_secret_and_no_data_reach_the_builder(secret: str) -> None:
    """As Docker reads the file: the last pattern that fits a path, or a folder above it, decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern, kept = line.removeprefix("!"), line.startswith("!")
        places = [secret, *map(str, list(Path(secret).parents)[:-1])]
        names = [Path(place).name if pattern.startswith("**/") else place for place in places]
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            sent = kept
    assert not sent


def test_git_ignores_a_deployment_at_the_root() -> None:
    assert "/deployment/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
