"""The documents: what is generated is current, and what is linked exists."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from fedha.report.formats import render
from fedha.report.tables import recipe_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_recipes_is_the_table() -> None:
    written = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert written == render(recipe_table(classes=2, features=128, parameters=16_770), "markdown"), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_configs_first_line_is_the_command_that_runs_it(config: Path) -> None:
    assert config.read_text(encoding="utf-8").startswith(f"# fedha run configs/{config.name}")


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_the_first_python_example_trains_a_backbone(page: str) -> None:
    example = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)[0]
    backbone, head = nn.Linear(6, 4), torch.randn(3, 5, requires_grad=True)
    names = {"backbone": backbone, "head": head, "head_weights": head, "reference": torch.zeros(3, 5)}
    exec(example, {**names, "images": torch.randn(8, 6), "labels": torch.randint(3, (8,))})
    assert backbone.weight.grad is not None
    assert backbone.weight.grad.abs().sum() > 0
