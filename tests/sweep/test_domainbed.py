"""The configs of DomainBed's data sets: they fit the schema, and train on folders of the same layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedha.cli.commands import app
from fedha.cli.exits import exit_code
from fedha.cli.launch import config_path
from fedha.config import load, read_content
from fedha.errors import FedhaError
from fedha.sweep.jobs import make_jobs
from fedha.sweep.ranges import with_ranges
from fedha.sweep.space import expand, read_space
from fedha.sweep.targets import with_targets

DOMAINS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "vlcs": ("Caltech101", "LabelMe", "SUN09", "VOC2007"),
    "office-home": ("Art", "Clipart", "Product", "Real World"),
    "terra-incognita": ("location_38", "location_43", "location_46", "location_100"),
    "domainnet": ("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
}


def layout(root: Path, domains: tuple[str, ...]) -> Path:
    """Some JPEG files a class, as the data sets lie on a disk."""
    draws = np.random.default_rng(0)
    for place, domain in enumerate(domains):
        for label, name in enumerate(("dog", "elephant")):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = np.clip(draws.normal(80 + 90 * label + 5 * place, 20, (24, 20, 3)), 0, 255)
                Image.fromarray(pixels.astype("u1")).save(folder / f"{number}.jpg")
    return root


@pytest.mark.parametrize("name", DOMAINS)
def test_each_config_is_a_sweep_over_the_data_sets_own_domains(name: str, tmp_path: Path) -> None:
    path = config_path(f"domainbed/{name}")
    root = layout(tmp_path / "images", DOMAINS[name])
    content = with_targets(read_content(path, [f"data.root={root}"]))
    assert sorted(content["data"]["target"]) == sorted(DOMAINS[name])
    assert f"target: all           # {', '.join(DOMAINS[name])}" in path.read_text()
    settings = content.pop("sweep")
    assert settings == {"draws": "20", "ranges": "domainbed"}
    space = read_space(with_ranges(content, settings["ranges"]), draws=2)
    jobs = make_jobs(list(expand(space, 2)))
    assert not [one.refused for one in jobs if one.refused]
    assert len(jobs) == len(DOMAINS[name]) * 3 * 9 * 2


CONFIGS = Path(__file__).parents[2] / "configs"
SWEEPS = sorted(one for one in CONFIGS.rglob("*.yaml") if "\nsweep:" in one.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda one: one.relative_to(CONFIGS).as_posix())
def test_no_run_of_a_shipped_sweep_is_refused_by_the_schema(path: Path) -> None:
    content = read_content(path, [])
    settings = content.pop("sweep")
    if content["data"].get("target") == "all":
        content["data"] = {**content["data"], "target": ["a", "b"]}
    draws = 2 if settings.get("draws") else None
    named = with_ranges(content, settings["ranges"]) if settings.get("ranges") else content
    jobs = make_jobs(list(expand(read_space(named, draws=draws), draws)))
    assert jobs
    assert not [(one.name, one.refused) for one in jobs if one.refused]


def test_rotated_mnist_takes_every_recipe_and_range() -> None:
    content = read_content(config_path("domainbed/rotated-mnist"), [])
    settings = content.pop("sweep")
    content["data"] = {**content["data"], "target": ["0", "75"]}
    jobs = make_jobs(list(expand(read_space(with_ranges(content, settings["ranges"]), draws=2), 2)))
    assert not [one.refused for one in jobs if one.refused]
    assert len(jobs) == 15 * 2 * 3 * 2


def test_a_sweep_is_no_run_and_the_error_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match="train them with: fedha sweep"):
        load(config_path("domainbed/pacs"))


def test_pacs_trains_on_a_folder_of_its_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout(tmp_path / "PACS", DOMAINS["pacs"])
    arguments = [
        *("sweep", "domainbed/pacs", "data.root=PACS", "data.size=16", "data.target=[photo, sketch]"),
        *("model={name: cnn, hidden: [4]}", "recipe=[erm, hgp]", "seed=0", "training.rounds=4", "evaluation.every=2"),
        *("--draws", "1", "--jobs", "1", "-q", "--out", "s"),
    ]
    code = exit_code(lambda **settings: app(arguments, **settings))
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "photo %" in out
    assert "sketch %" in out
    assert len(list(Path("s").rglob("results.json"))) == 4


def test_what_looks_at_a_config_takes_a_sweeps_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout(tmp_path / "PACS", DOMAINS["pacs"])
    arguments = ["data", "check", "domainbed/pacs", "data.root=PACS", "data.size=16", "data.augment=none"]
    code = exit_code(lambda **settings: app(arguments, **settings))
    out, err = capsys.readouterr()
    assert code in (0, 1), err
    assert "art_painting" in out
