"""What a cache of features holds: how old, of which network and data, and how a stale one goes."""

import json
import os
from pathlib import Path

import numpy
import pytest
from PIL import Image

from fedha.config import parse, to_yaml
from fedha.errors import FedhaError
from fedha.features import ahead
from fedha.features.ahead import compute, parts_of
from fedha.features.kept import Kept, look, remove
from fedha.flower.serve import load_domains
from fedha.sweep.store import Store
from fedha.sweep.work import Worker
from tests.commands import Command
from tests.test_features import image_config


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Of three domains with twelve images each."""
    config = image_config(tmp_path)
    compute(parts_of(config, load_domains(config)))
    return tmp_path / "features"


def test_a_cache_that_fits_says_so_and_how_old_and_large_it_is(cache: Path, tmp_path: Path) -> None:
    rows = list(cache.glob("*/*"))
    for one in rows:
        os.utime(one, (one.stat().st_atime, one.stat().st_mtime - 3 * 86_400 - 60))
    (only,) = look_again(tmp_path)
    assert (only.rows, only.wanted, only.other) == (36, (36, 36), "")
    assert only.bytes == sum(one.stat().st_size for one in rows) >= 36 * (20 + 16)
    assert "36 rows, 0.0 MB, 3 days old; of this network: 36 of this config's 36" in str(only)


def test_images_that_changed_are_missing_and_what_they_were_is_of_others(cache: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "images" / "a" / "x").glob("[01].png"):
        path.unlink()
        Image.fromarray(numpy.zeros((8, 8), numpy.uint8)).save(path)
    (only,) = look_again(tmp_path)
    assert only.wanted == (34, 36)
    assert "2 of other examples, or of files that have changed; 2 are computed when a run needs them" in str(only)


def look_again(tmp_path: Path) -> list[Kept]:
    """Without writing the images anew, as `image_config` does."""
    config = parse(
        {
            "data": {"name": "folder", "root": str(tmp_path / "images"), "target": "c", "size": 8},
            "model": {"name": "tests.test_features:frozen", "features": {"cache": str(tmp_path / "features")}},
        }
    )
    return look(tmp_path / "features", parts_of(config, load_domains(config)))


@pytest.mark.parametrize(
    ("changes", "said", "stale"),
    [
        ({"weights": "0" * 32}, "of other weights", False),
        ({"layers": "0" * 32, "weights": "0" * 32}, "of another network", False),
        ({"precision": "float16"}, "kept in float16", False),
        ({"versions": {"torch": "1.0"}}, "made with torch 1.0, here is", True),
        ({"format": 0}, "made by another version of fedha", True),
    ],
)
def test_what_a_config_does_not_take_says_why(
    changes: dict[str, object], said: str, stale: bool, cache: Path, tmp_path: Path
) -> None:
    (place,) = cache.iterdir()
    other = cache / ("f" * 20)
    place.rename(other)
    about = json.loads((other / "about.json").read_text())
    (other / "about.json").write_text(json.dumps(about | changes))
    (only,) = look_again(tmp_path)
    assert only.stale is stale
    assert said in only.other
    assert "no run of this config takes them" in str(only)
    assert len(remove(cache, "stale", [only])) == stale
    assert other.exists() is not stale


def test_one_is_removed_by_its_name_alone(cache: Path, tmp_path: Path) -> None:
    (place,) = cache.iterdir()
    kept = look_again(tmp_path)
    for name in ("zz", "../images"):
        with pytest.raises(FedhaError, match=rf"0 networks' features in .* are called '{name}'; it holds {place.name}"):
            remove(cache, name, kept)
    assert remove(cache, place.name[:6], kept) == kept
    assert not list(cache.iterdir())
    assert look_again(tmp_path) == []


def test_a_folder_of_somebodys_in_a_cache_is_left_alone(cache: Path, tmp_path: Path) -> None:
    (cache / "mine").mkdir()
    (cache / "mine" / "notes.txt").write_text("")
    assert len(look_again(tmp_path)) == 1


def test_the_commands_say_what_is_kept_and_what_is_missing(fedha: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(to_yaml(image_config(tmp_path)))
    code, out, _ = fedha("features", "mine.yaml", "--dry-run")
    assert code == 0
    assert "36 of 36 examples and views are missing in" in out
    assert " a second, " in out
    assert not (tmp_path / "features").exists()
    assert "features: none of this config's network are kept" in fedha("data", "check", "mine.yaml")[1]
    assert "c: 12 examples, 5 features each\n" in fedha("features", "mine.yaml")[1]
    assert "0 of 36 examples and views are missing" in fedha("features", "mine.yaml", "--dry-run")[1]
    assert "of this network: 36 of this config's 36" in fedha("data", "check", "mine.yaml")[1]
    told = json.loads(fedha("data", "check", "mine.yaml", "--format", "json")[1])["features"]
    assert [(one["rows"], one["found"], one["wanted"]) for one in told] == [(36, 36, 36)]
    assert "nothing in " in fedha("features", "mine.yaml", "--remove", "stale")[1]
    other = fedha("data", "check", "mine.yaml", "seed=5")[1]
    assert "of other weights" in other
    assert f"fedha features mine.yaml --remove {told[0]['name']}" in other
    assert f"removed {told[0]['name']}: 36 rows" in fedha("features", "mine.yaml", "--remove", told[0]["name"])[1]
    assert not list((tmp_path / "features").iterdir())


def test_each_domain_a_target_in_turn_is_one_cache(fedha: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(to_yaml(image_config(tmp_path)))
    code, out, _ = fedha("features", "mine.yaml", "data.target=all", "seed=[0, 1]", "recipe=[erm, hgp]")
    assert code == 0, out
    assert "36 of 36 examples and views are missing" in out
    for domain in ("a", "b", "c"):
        assert "0 of 36 examples" in fedha("features", "mine.yaml", f"data.target={domain}", "--dry-run")[1]


def test_a_worker_of_a_sweep_looks_for_features_before_the_first_run_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(ahead, "compute", lambda parts: looked.append(len(parts)))
    config, worker = image_config(tmp_path), Worker(Store(tmp_path / "s"))
    for one in (config, config, config.model_copy(update={"seed": [1]}), config):
        worker.ready(one)
    assert looked == [5, 5]
