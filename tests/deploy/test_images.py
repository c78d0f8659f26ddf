"""The images: one base for both, pinned by hash, from nothing but what runs, and no container starts as root."""

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from images import lean, needed, sbom

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
    assert len(server) == 4
    assert server[:-1] == clients[:-1]
    assert "torch" in server[0]
    assert "torch" not in "".join(server[1:])


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_image_starts_from_nothing_and_ends_as_nobody(name: str) -> None:
    parts, text = stages(name), DOCKERFILES[name].read_text(encoding="utf-8")
    assert re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE) == ["docker.io/library/python:3.11-slim"]
    origins = [part.split()[1] for part in parts]
    assert set(origins) <= {"${BASE}", "build", "scratch"}
    assert origins[-1] == "scratch"
    assert re.findall(r"^(?:COPY|RUN|ADD) .*$", parts[-1], re.MULTILINE) == ["COPY --from=lean /lean /"]
    assert re.findall(r"^USER (.*)$", parts[-1], re.MULTILINE) == ["10001:10001"]
    assert not re.search(r"\b(gcc|g\+\+|build-essential|ADD|curl|wget|git)\b", "".join(parts))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_labels_say_what_an_image_is(name: str) -> None:
    labels = dict(re.findall(r'(\S+)="([^"]*)"', stages(name)[-1]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.title"] in ("fedha-server", "fedha-client", "fedha-proxy")
    assert labels["fedha.sbom"] == "/sbom.cdx.json"


@pytest.mark.parametrize("name", ["server", "clients"])
def test_pip_installs_by_hash_and_keeps_no_cache(name: str) -> None:
    build, wheel, lean, _ = stages(name)
    assert build.count("--require-hashes") == 2
    assert wheel.count("--require-hashes") == 1
    assert "--no-index /wheel/*.whl" in re.sub(r"\\\n\s*", "", lean)
    installs = [part for part in (build, wheel, lean) if "pip " in part]
    assert len(installs) == 3
    assert all("--no-cache-dir" in part for part in installs)


# --- what is installed ---


def lines(name: str) -> dict[str, str]:
    """The versions that a file of `make requirements` names, each with a hash after it."""
    text = (ROOT / "images" / name).read_text(encoding="utf-8")
    found = re.findall(r"^(\S+)==(\S+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(found) == len(re.findall(r"^\w", text, re.MULTILINE))
    return {canonicalize_name(package): version for package, version in found}


def test_the_images_packages_are_those_that_are_needed_at_the_versions_of_the_constraints() -> None:
    """If this fails, `make requirements`."""
    wanted = needed.pinned(needed.needed() - needed.APART)
    assert lines("requirements.txt") == {canonicalize_name(one.split("==")[0]): one.split("==")[1] for one in wanted}
    (torch,) = needed.pinned({"torch"})
    assert lines("torch.txt") == {"torch": f"{torch.split('==')[1]}+cpu"}
    tools = needed.pinned(needed.closure(["hatchling"]))
    assert lines("build.txt") == {canonicalize_name(one.split("==")[0]): one.split("==")[1] for one in tools}


def test_no_ray_and_nothing_that_installs_is_in_an_image_and_accounts_of_privacy_are() -> None:
    installed = lines("requirements.txt").keys()
    assert not {"ray", "uv", "pip", "setuptools", "pytest", "mypy", "ruff"} & installed
    assert {"flwr", "dp-accounting", "safetensors"} <= installed


def test_a_bill_of_materials_names_each_package_once() -> None:
    bill = sbom.bill("fedha", "1.2.3", "libc6:amd64 2.36-9+deb12u13\nnginx 1:1.22.1-9\n")
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["component"] == {"type": "container", "name": "fedha", "version": "1.2.3"}
    found = {component["name"]: component for component in bill["components"]}
    assert found["torch"]["purl"] == f"pkg:pypi/torch@{version('torch').partition('+')[0]}"
    assert found["libc6"]["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u13?arch=amd64"
    assert found["nginx"]["purl"] == "pkg:deb/debian/nginx@1%3A1.22.1-9"
    assert found["python"]["type"] == "application"
    assert json.loads(json.dumps(bill)) == bill


def test_a_lean_file_system_has_what_links_lead_to_and_not_what_builds_need(tmp_path: Path) -> None:
    made, root = tmp_path / "made", tmp_path / "root"
    for name in ("package/code.py", "package/tests/test_code.py", "package/include/code.h", "torch/bin/test_api"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / "torch/bin/torch_shm_manager").write_text("needed")
    (made / "link").symlink_to("package/code.py")
    lean.copy(made, root, lean.UNUSED)
    there = root / str(made)[1:]
    found = {str(path.relative_to(there)) for path in there.rglob("*") if not path.is_dir()}
    assert found == {"package/code.py", "torch/bin/torch_shm_manager", "link"}
    assert (there / "link").read_text() == "package/code.py"


@pytest.mark.parametrize("name", ["server", "clients"])
def test_nothing_in_an_image_calls_home(name: str) -> None:
    (block,) = re.findall(r"^ENV (.*?[^\\])$", stages(name)[-1], re.MULTILINE | re.DOTALL)
    settings = dict(pair.split("=", 1) for pair in block.replace("\\\n", " ").split())
    assert settings.items() >= SILENT.items()
    assert settings["PYTHONSAFEPATH"] == settings["PYTHONNOUSERSITE"] == "1"  # /tmp and a site's folders can be written
    assert settings["HOME"] == "/tmp"
    assert settings["FLWR_HOME"].startswith("/tmp/")


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
