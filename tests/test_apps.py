"""The apps of server/ and clients/: what a run config can ask of them; and the documented app, run as it is printed."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch.func import functional_call

from clients.app import app as client
from fedha.config import load, parse, to_json
from fedha.engine.inline import InlineGrid
from fedha.errors import FedhaError
from fedha.flower import HessianAlignment
from fedha.flower.apps import _check_federation, job_from
from fedha.run import execute
from fedha.runs import runfolder
from fedha.runs.listener import Silent
from server.app import app as server

ROOT = Path(__file__).resolve().parents[1]
DEFAULTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["config"]
FAST = "recipe=hgp seed=0 training.rounds=2 evaluation.every=2 model.hidden=[4]"


def context_of(**run_config: Any) -> Context:
    """A context with the defaults of the app's pyproject.toml, as Flower fills them in."""
    return Context(run_id=7, node_id=1, node_config={}, state=RecordDict(), run_config={**DEFAULTS, **run_config})


def train(**run_config: Any) -> None:
    context = context_of(**run_config)
    server(grid=InlineGrid(client, 2, context.run_config), context=context)


# --- the run config ---


def test_the_defaults_are_one_run_of_the_quickstart() -> None:
    job = job_from(context_of(), ROOT)
    assert [job.config] == load(ROOT / "configs" / "quickstart.yaml", ["recipe=hgp", "seed=0"]).runs()
    assert (job.folder, job.left_out) == (Path("runs/quickstart-7"), None)


def test_the_documented_keys_are_those_that_the_app_takes() -> None:
    table = re.findall(r"^\| `([\w-]+)` \| `(.*?)` \|", (ROOT / "docs" / "flower.md").read_text(encoding="utf-8"), re.M)
    assert tomllib.loads("\n".join(f"{key} = {default}" for key, default in table)) == DEFAULTS


def test_settings_take_the_place_of_config_and_overrides() -> None:
    config = parse({"name": "other", "recipe": "erm"})
    job = job_from(context_of(settings=to_json(config), out="/there", **{"left-out": "flip-0.1"}), ROOT)
    assert (job.config, job.folder, job.left_out) == (config, Path("/there"), "flip-0.1")


@pytest.mark.parametrize(
    ("run_config", "problem"),
    [
        ({"overrides": "recipe=hgp"}, r"asks for \d+ runs but a Flower run is one; choose with"),
        ({"config": ""}, r"names no experiment; pass --run-config"),
        ({"config": "configs/none.yaml"}, r"cannot read the config .*configs/none\.yaml: No such file"),
        (
            {"overrides": "recipe=hgp seed=0 training.ruonds=3"},
            r"unknown key 'training\.ruonds'; did you mean 'rounds'",
        ),
    ],
)
def test_a_wrong_run_config_is_explained(run_config: dict[str, str], problem: str) -> None:
    with pytest.raises(FedhaError, match=problem):
        job_from(context_of(**run_config), ROOT)


# --- the two apps ---


def test_the_apps_train_what_fedha_run_trains(tmp_path: Path) -> None:
    train(overrides=FAST, out=str(tmp_path / "apps"))
    config = load(ROOT / "configs" / "quickstart.yaml", FAST.split())
    execute(config, tmp_path / "inline", Silent())
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("apps", "inline")]
    assert models[0] == models[1]


def test_a_finished_folder_is_refused_and_resume_accepts_it(tmp_path: Path) -> None:
    train(overrides=FAST, out=str(tmp_path))
    with pytest.raises(FedhaError, match="already holds a run"):
        train(overrides=FAST, out=str(tmp_path))
    train(overrides=FAST, out=str(tmp_path), resume=True)


def test_a_source_can_be_left_out(tmp_path: Path) -> None:
    context = context_of(overrides=FAST, out=str(tmp_path), **{"left-out": "flip-0.1"})
    server(grid=InlineGrid(client, 1, context.run_config), context=context)
    assert list(runfolder.read_results(tmp_path)["target"]) == ["flip-0.1"]


def test_clients_compute_with_the_threads_of_the_config(tmp_path: Path) -> None:
    try:
        train(overrides=f"{FAST} engine.threads=2", out=str(tmp_path))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_flowers_log_tells_about_ten_rounds_and_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(overrides=FAST.replace("rounds=2", "rounds=25"), out=str(tmp_path))
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == f"fedha writes the run to {tmp_path}"
    assert said[1] == "hgp, seed 0: rounds 1 to 25"
    assert [line.split()[1] for line in said if line.startswith("round ")] == [f"{n}/25" for n in range(3, 25, 3)]
    assert said[-1].startswith("final round: sources ")


@pytest.mark.parametrize("sources", [1, 3])
def test_a_simulation_of_another_size_than_the_data_is_refused(sources: int) -> None:
    _check_federation(InlineGrid(client, 2), 2)
    with pytest.raises(FedhaError, match=rf"2 clients but the data are for {sources}; .*'num-supernodes={sources}'"):
        _check_federation(InlineGrid(client, 2), sources, settled_seconds=0.1)


UNPACKED = """
import tomllib
from pathlib import Path
from flwr.app import Context, RecordDict
from fedha.engine.inline import InlineGrid
import clients.app, server.app
assert Path(server.app.__file__).is_relative_to(Path.cwd()) and Path(clients.app.__file__).is_relative_to(Path.cwd())
config = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
config |= {"overrides": config["overrides"] + " training.rounds=1", "out": "out"}
context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
server.app.app(grid=InlineGrid(clients.app.app, 2, config), context=context)
"""


@pytest.mark.slow
def test_the_bundle_that_flwr_ships_trains_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"  # flwr takes no folder with underscores in its name
    for folder in ("server", "clients", "configs"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    subprocess.run([Path(sys.executable).with_name("flwr"), "build"], cwd=checkout, check=True, timeout=240)
    (bundle,) = checkout.glob("*.fab")
    zipfile.ZipFile(bundle).extractall(tmp_path / "app")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'app'}:{ROOT}")
    subprocess.run([sys.executable, "-c", UNPACKED], cwd=tmp_path / "app", check=True, timeout=240)
    assert runfolder.read_results(tmp_path / "app" / "out")["recipe"] == "hgp"


# --- the documented app ---


@pytest.fixture
def documented(tmp_path: Path) -> Callable[..., str]:
    """The only block of a language in docs/flower.md; of those that add to it, one by its number."""

    def block(language: str, number: int | None = None) -> str:
        text = (ROOT / "docs" / "flower.md").read_text(encoding="utf-8")
        found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
        assert number is not None or len(found) == 1
        return str(found[number or 0])

    return block


@pytest.fixture
def hospitals(documented: Callable[..., str], tmp_path: Path) -> ModuleType:
    path = tmp_path / "hospitals.py"
    path.write_text(documented("python"), encoding="utf-8")
    spec = spec_from_file_location("hospitals", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(app: Any, kind: str, name: str) -> RecordDict:
    message = Message(RecordDict({name: MetricRecord()}), 2, kind, group_id="1")
    (reply,) = InlineGrid(app, 3).send_and_receive([message])
    return reply.content


def test_the_documented_handlers_stand_beside_and_before_fedhas(
    hospitals: ModuleType, documented: Callable[..., str]
) -> None:
    exec(documented("py", 0), vars(hospitals))
    assert asked(hospitals.client, "evaluate.mine", "any")["numbers"] == MetricRecord({"gap": 0.1})
    exec(documented("py", 1), vars(hospitals))
    assert asked(hospitals.client, "evaluate", "mine")["numbers"] == MetricRecord({"gap": 0.1})
    arrays = ArrayRecord(hospitals.network().state_dict())
    strategy = HessianAlignment("hgp", clients=3)
    strategy.start(InlineGrid(hospitals.client, 3), arrays, num_rounds=1)
    assert list(strategy.last_evaluation["held_out"]) == hospitals.HOSPITALS


def test_the_documented_app_trains(
    hospitals: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    here = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    hospitals.server(grid=InlineGrid(hospitals.client, 3), context=here)
    said = [line for line in capsys.readouterr().out.splitlines() if line.endswith("patients")]
    assert [line.split(":")[0] for line in said] == hospitals.HOSPITALS
    parameters = torch.load("model.pt")
    for place in range(3):
        held_out = hospitals.patients(place).held_out
        right = functional_call(hospitals.network(), parameters, held_out.inputs).argmax(1) == held_out.labels
        assert right.float().mean() > 0.75
        assert f"{right.float().mean():.0%} of 100 patients" in said[place]


def test_the_documented_project_names_the_documented_app(documented: Callable[[str], str]) -> None:
    project = tomllib.loads(documented("toml"))
    components = project["tool"]["flwr"]["app"]["components"]
    assert components == {"serverapp": "hospitals:server", "clientapp": "hospitals:client"}
    assert f"`{project['project']['name']}.py`" in (ROOT / "docs" / "flower.md").read_text(encoding="utf-8")
