"""What leaves the checkout: the wheel holds fedha alone and works anywhere, the Flower app bundle stays thin."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import fedha
from fedha import config

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install")
    run(*pip, "--quiet", "--no-deps", "--no-index", "--target", target, wheel, cwd=target)
    return target


def test_the_wheel_holds_fedha_alone(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"fedha", f"fedha-{fedha.__version__}.dist-info"}


def test_the_wheel_holds_every_file_of_fedha_and_every_experiment(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    library = [path for path in ROOT.glob("fedha/**/*") if path.is_file() and "__pycache__" not in path.parts]
    templates = [path for path in library if "templates" in path.parts]
    experiments = list(ROOT.glob("configs/**/*.yaml"))
    assert templates
    assert experiments
    assert packed >= {path.relative_to(ROOT).as_posix() for path in library}
    assert packed >= {f"fedha/{path.relative_to(ROOT).as_posix()}" for path in experiments}


@pytest.mark.slow
def test_the_installed_wheel_trains_the_quickstart_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    overrides = ["training.rounds=3", "seed=0"]
    where = run(
        sys.executable, "-P", "-c", "import fedha; print(fedha.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(where.strip()).is_relative_to(installed)

    out = tmp_path / "out"
    command = (sys.executable, "-P", "-m", "fedha", "run", "quickstart", *overrides, "--out", out)
    run(*command, cwd=tmp_path, PYTHONPATH=str(installed))

    results = [json.loads(path.read_text(encoding="utf-8")) for path in out.rglob("results.json")]
    wanted = [one.recipe[0].name for one in config.load(ROOT / "configs" / "quickstart.yaml", overrides).runs()]
    assert sorted(result["recipe"] for result in results) == sorted(wanted)
    assert {result["rounds"] for result in results} == {3}


def test_the_flower_app_bundle_holds_the_two_apps_and_the_experiments_alone(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("fedha", "server", "clients", "configs", "tests", "docs"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / file, checkout)

    run(Path(sys.executable).with_name("flwr"), "build", cwd=checkout, FLWR_HOME=str(tmp_path / "flwr"))

    (bundle,) = checkout.glob("*.fab")
    packed = set(zipfile.ZipFile(bundle).namelist())
    apps = {path.relative_to(ROOT).as_posix() for app in ("server", "clients") for path in ROOT.glob(f"{app}/**/*.py")}
    assert apps >= {"server/app.py", "clients/app.py"}
    experiments = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert packed == {"pyproject.toml", "LICENSE", ".info/CONTENT"} | apps | experiments
    assert bundle.stat().st_size < 100_000
