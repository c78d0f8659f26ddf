"""The documents: what is generated is current, and what is linked exists."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fedha
from fedha.config import load
from fedha.data import Domain, Examples
from fedha.errors import FedhaError
from fedha.models import SplitModel
from fedha.report.baselines import beside_table, rule_table
from fedha.report.formats import render
from fedha.report.tables import recipe_table
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.simulation import simulate
from tests.models_of_others import fitted

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_recipes_is_the_table() -> None:
    written = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    tables = (recipe_table(classes=2, features=128, parameters=16_770), rule_table(), beside_table())
    assert written == "\n".join(render(table, "markdown") for table in tables), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_a_part_of_a_page_name_a_heading_of_it(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        goal = page.parent / path if path else page
        headings = re.findall(r"^#+ (.*)$", goal.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, f"{path}#{anchor}"


CLAIMS = {  # a page, and a sentence that would promise too much if it did not name whom it holds against
    "README.md": r"learns sums over|All of it holds",
    "docs/guide.md": r"learns sums over",
    "docs/secure-aggregation.md": r"learns \*\*the sum of|as sums alone, on every engine",
    "docs/privacy.md": r"What this project promises",
}


@pytest.mark.parametrize("page", CLAIMS)
def test_what_sums_and_noise_promise_names_the_adversary(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    claims = [paragraph for paragraph in re.split(r"\n\n|\n- ", text) if re.search(CLAIMS[page], paragraph)]
    assert claims
    for claim in claims:
        assert re.search(r"honest but curious|curious server|follows the protocol", claim), claim


@pytest.mark.parametrize("page", ["README.md", "docs/secure-aggregation.md", "docs/security.md", "docs/deploy.md"])
def test_pages_that_promise_say_what_a_cheating_server_gets_around(page: str) -> None:
    assert "privacy.md#a-server-that-cheats" in (ROOT / page).read_text(encoding="utf-8")
    described = (ROOT / "docs/privacy.md").read_text(encoding="utf-8").partition("### A server that cheats")[2]
    ways = re.findall(r"^\| (?!the server|---)(.*?) \|", described.partition("\n## ")[0], re.MULTILINE)
    assert len(ways[: ways.index("")] if "" in ways else ways) >= 8


@pytest.mark.parametrize("config", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_configs_first_line_is_the_command_that_runs_it(config: Path) -> None:
    text, place = config.read_text(encoding="utf-8"), config.relative_to(ROOT).as_posix()
    sweeps = "sweep:" in text or config.parent.name == "sweeps"  # a grid needs no section of its own
    assert text.startswith(f"# fedha {'sweep' if sweeps else 'run'} {place}")


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_example_of_statistics_trains_a_backbone(page: str) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    example = next(one for one in examples if "import statistics" in one)
    backbone, head = nn.Linear(6, 4), torch.randn(3, 5, requires_grad=True)
    names = {"backbone": backbone, "head": head, "head_weights": head, "reference": torch.zeros(3, 5)}
    exec(example, {**names, "images": torch.randn(8, 6), "labels": torch.randint(3, (8,))})
    assert backbone.weight.grad is not None
    assert backbone.weight.grad.abs().sum() > 0


def test_the_example_of_an_own_data_set_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    example = next(one for one in blocks if "*.csv" in one)
    section = next(one for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "wards:load" in one)
    (tmp_path / "wards.py").write_text(example)
    for name in ("north", "south", "west"):
        rows = "\n".join(f"{place / 7},{place % 3},{place % 2}" for place in range(20))
        (tmp_path / f"{name}.csv").write_text(rows)
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(f"{section.replace('/data/wards', str(tmp_path))}\nmodel: {{name: linear}}\nseed: 0\n")
    config = load(path, ["training.rounds=2", "engine.name=inline"])
    results = execute(config, tmp_path / "run", Silent())
    assert results["target"]["west"]["examples"] == 20


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_example_of_a_run_from_objects_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    example = next(one for one in examples if "fedha.simulate" in one).replace('"rounds": 50', '"rounds": 2')
    parts = [(torch.randn(20, 6), torch.arange(20) % 2, torch.randn(8, 6), torch.arange(8) % 2) for _ in range(3)]
    mine = [(name, *part) for name, part in zip(("photo", "cartoon", "sketch"), parts, strict=True)]
    domains = [Domain(name, Examples(x, y), Examples(u, v)) for name, x, y, u, v in mine]
    names = {"domains": domains, "mine": mine, "make_network": lambda: SplitModel(nn.Linear(6, 4), nn.Linear(4, 2))}
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(FedhaError):  # a lambda has no name by which `load` could make its network again
        exec(example, names)
    assert names["result"].accuracy("sketch") >= 0


def test_the_example_of_a_search_with_optuna_searches() -> None:
    optuna = pytest.importorskip("optuna")
    text = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    example = next(one for one in re.findall(r"```py\n(.*?)```", text, re.DOTALL) if "optuna" in one)
    assert len([line for line in example.splitlines() if line]) <= 10
    draws = torch.Generator().manual_seed(0)
    made = ((torch.randn(n, 6, generator=draws) for n in (20, 8)) for _ in range(3))
    domains = [
        Domain(name, *(Examples(inputs, (inputs[:, 0] > 0).long()) for inputs in parts))
        for name, parts in zip(("photo", "art", "sketch"), made, strict=True)
    ]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names: dict[str, Any] = {"fedha": fedha, "optuna": optuna, "domains": domains, "make_network": fitted}
    names["sources"] = ["photo", "art"]
    exec(example.replace('"rounds": 50', '"rounds": 2').replace("n_trials=20", "n_trials=3"), names)
    assert len(names["study"].trials) == 3
    assert all(
        1e-3 <= one.params["learning_rate"] <= 0.1 and "unseen" in one.user_attrs for one in names["study"].trials
    )


def test_the_example_of_a_server_rule_trains_by_name_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(encoding="utf-8"), re.DOTALL)
    example = next(one for one in examples if "FedDyn" in one)
    (tmp_path / "myrule.py").write_text(example, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    draws = torch.Generator().manual_seed(0)
    domains = [
        Domain(name, *(Examples(torch.randn(n, 6, generator=draws), torch.arange(n) % 2) for n in (20, 8)))
        for name in "abc"
    ]
    ends = {}
    for name in ("fedavg", {"name": "myrule:feddyn", "strength": 0.5}):
        training = {"mode": "local", "rounds": 3, "clients_per_round": 2, "optimizer": name, "averaging": "clients"}
        for rounds in (2, 3):
            out = tmp_path / ("fedavg" if name == "fedavg" else "feddyn")
            given = {**training, "rounds": rounds}
            ends[out.name] = simulate(
                domains, fitted, "erm", training=given, out=out, resume=rounds == 3, engine="inline"
            )
    changed = [dict(ends[name].model.named_parameters())["head.weight"] for name in ends]
    assert not torch.equal(*changed)
    kept = load_file(tmp_path / "feddyn" / "checkpoint" / "state.safetensors")
    assert "rule/feddyn/head.weight" in kept
    assert "clients/1/rule/feddyn/head.weight" in kept
