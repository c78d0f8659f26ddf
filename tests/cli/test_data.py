"""`fedha data`: the list, what cannot be fetched, a look at data, and a table's statistics made by sites."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.commands import Command


@pytest.fixture
def fedha(fedha: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Commands whose tables are wide."""
    monkeypatch.setenv("COLUMNS", "300")
    return fedha


def written(path: Path, **data: object) -> str:
    path.write_text(yaml.safe_dump({"data": data}))
    return str(path)


def test_the_list_has_every_data_set_with_what_it_needs(fedha: Command) -> None:
    code, out, _ = fedha("data", "list", "--format", "json")
    rows = {one["name"]: one for one in json.loads(out)}
    assert code == 0
    assert rows.keys() >= {"arrays", "folder", "hub", "rotated_mnist", "rotated_digits", "digits_background", "table"}
    assert (rows["rotated_digits"]["needs"], rows["rotated_digits"]["classes"]) == ("", 10)
    assert not any(one["problem"] for one in rows.values())
    assert "rotated_mnist" in fedha("data", "list")[1]


@pytest.mark.parametrize("name", ["PACS", "office-home", "vlcs", "TerraIncognita", "domain_net"])
def test_what_has_no_direct_download_says_where_a_person_gets_it(fedha: Command, name: str) -> None:
    code, _, err = fedha("data", "fetch", name, "--root", "images")
    assert code == 2
    assert "has no direct download" in err
    assert "get it from http" in err
    assert "terms: " in err
    assert "data: {name: folder, root: images, target: …}" in err
    assert not Path("images").exists()


def test_an_unknown_download_names_the_nearest(fedha: Command) -> None:
    assert "there is no download 'mnits'; did you mean 'mnist'?" in fedha("data", "fetch", "mnits", "--root", "d")[2]


def test_a_data_set_of_the_hub_is_saved_whole_or_not_at_all(fedha: Command, tmp_path: Path) -> None:
    pytest.importorskip("datasets").disable_progress_bars()
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "train.csv").write_text("x,label\n" + "1,0\n2,1\n" * 3)
    code, out, err = fedha("data", "fetch", f"{tmp_path}/made", "--root", "saved")
    assert (code, "train 6 rows" in out + err) == (0, True), err
    code, out, _ = fedha(
        "data", "check", written(tmp_path / "c.yaml", name="hub", root="saved", inputs=["x"], target="t")
    )
    assert code == 2
    code, _, err = fedha("data", "fetch", f"{tmp_path}/made", "--root", "saved")
    assert (code, "saved has something in it; choose an empty --root" in err) == (2, True)
    code, _, err = fedha("data", "fetch", f"{tmp_path}/nowhere", "--root", "other")
    assert (code, "cannot get" in err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_a_check_counts_by_domain_class_and_side(fedha: Command) -> None:
    config = written(Path("c.yaml"), name="digits_background", target="background3")
    code, out, _ = fedha("data", "check", config, "--format", "json", "--out", "sheets")
    found = json.loads(out)
    assert code == 0
    assert [one["name"] for one in found["domains"]] == [f"background{place}" for place in range(4)]
    assert sum(one["examples"] for one in found["domains"]) == 1797
    assert [len(one) for one in found["domains"][0]["classes"].values()] == [10, 10]
    assert (found["duplicates"], found["problems"]) == ([], [])
    from PIL import Image

    with Image.open("sheets/sheet-3.png") as sheet:
        assert sheet.size == (10 * (48 + 2), 10 * (48 + 2))
    page = Path("sheets/index.html").read_text()
    assert all(f"sheet-{place}.png" in page for place in range(4))
    assert "background3" in page
    assert fedha("data", "check", config, "--out", "sheets")[0] == 0  # the same page again
    Path("sheets/index.html").write_text("mine")
    assert "is no page of contact sheets" in fedha("data", "check", config, "--out", "sheets")[2]


def test_what_stands_on_both_sides_or_in_two_domains_is_a_problem(fedha: Command) -> None:
    rows = np.arange(24.0).reshape(12, 2)
    np.savez("a.npz", inputs=rows, labels=np.arange(12) % 2)
    np.savez("b.npz", inputs=np.concatenate([rows[:3], rows[3:] + 100]), labels=1 - np.arange(12) % 2)
    np.savez("t.npz", inputs=rows + 500, labels=np.arange(12) % 2)
    code, out, _ = fedha("data", "check", written(Path("c.yaml"), name="arrays", root=".", target="t", held_out=0))
    assert code == 1
    assert "problem: 3 different contents of a (train) are also in b (train), 3 of them with different labels" in out
    np.savez("b.npz", inputs=np.concatenate([rows + 100] * 2), labels=np.tile(np.arange(12) % 2, 2))
    code, out, _ = fedha("data", "check", "c.yaml", "data.held_out=0.5", "--format", "json")
    problems = json.loads(out)["problems"]
    assert code == 1
    assert any("of b (train) are also in b (held_out)" in one for one in problems)
    np.savez("b.npz", inputs=rows + 100, labels=np.zeros(12, int))
    np.savez("a.npz", inputs=rows, labels=np.zeros(12, int))
    code, out, _ = fedha("data", "check", "c.yaml")
    assert (code, "target t has examples of class 1, which no source trains on" in out) == (1, True)


def test_a_broken_image_is_named_counted_and_a_problem(fedha: Command) -> None:
    from PIL import Image

    for domain in ("north", "south", "east"):
        for label in ("cat", "dog"):
            Path(domain, label).mkdir(parents=True)
            for number in range(3):
                Image.effect_noise((6 + number, 5), 90).save(f"{domain}/{label}/{number}.png")
    config = written(Path("c.yaml"), name="folder", root=".", target="east", size=8)
    code, out, _ = fedha("data", "check", config)
    assert (code, "north: image files of 6 × 5 to 8 × 5 pixels" in out) == (0, True), out
    Path("south/dog/1.png").write_bytes(b"nothing")
    code, out, _ = fedha("data", "check", config)
    assert code == 1
    assert "problem: 1 of 6 images of south are broken and left out: dog/1.png" in out


def test_data_that_cannot_be_loaded_are_a_sentence(fedha: Command) -> None:
    code, _, err = fedha("data", "check", written(Path("c.yaml"), name="rotated_digits"))
    assert (code, "data.target is not set; name the unseen domain" in err) == (2, True)
    code, _, err = fedha("data", "check", "quickstart", "--out", "x", "data={name: arrays, root: ., target: t}")
    assert code == 2


def test_sites_make_a_tables_statistics_together(fedha: Command, tmp_path: Path) -> None:
    rows = {"north": ["1,a,no", "3,b,yes", "5,a,no"], "south": ["7,b,yes", "9,c,no", ",b,yes"], "east": ["4,a,no"]}
    for name, some in rows.items():
        (tmp_path / name).mkdir()
        text = "\n".join(["dose,ward,ill", *some])
        (tmp_path / f"{name}.csv").write_text(text)
        (tmp_path / name / f"{name}.csv").write_text(text)
    section = {"name": "table", "label": "ill", "target": "east", "class_names": ["no", "yes"], "held_out": 0}
    config = written(tmp_path / "c.yaml", **section)
    for name in ("north", "south"):
        code, out, err = fedha("data", "statistics", config, f"data.root={name}", "--own")
        assert code == 0, err
        Path(f"{name}.json").write_text(out)
    assert json.loads(Path("north.json").read_text())["columns"]["dose"] == {
        "count": 3,
        "mean": 3.0,
        "squares": 8.0,
        "missing": False,
    }
    code, merged, _ = fedha("data", "statistics", config, "--merge", "north.json", "--merge", "south.json")
    assert code == 0
    code, whole, _ = fedha("data", "statistics", config, "data.root=.")
    assert yaml.safe_load(merged) == yaml.safe_load(whole)
    found = yaml.safe_load(merged)["data"]["statistics"]
    assert found["dose"] == {"mean": 5.0, "deviation": pytest.approx(8**0.5), "missing": True}
    assert found["ward"] == {"categories": ["a", "b", "c"]}
    written(tmp_path / "c.yaml", **section, root="north", statistics=found)
    code, out, err = fedha("data", "check", str(tmp_path / "c.yaml"), "data.root=.")
    assert code == 0, out + err
    Path("south.json").write_text('{"columns": {"dose": {"categories": ["x"]}, "ward": {}}}')
    code, _, err = fedha("data", "statistics", config, "--merge", "north.json", "--merge", "south.json")
    assert (code, "column 'dose' has categories in one of north.json and south.json" in err) == (2, True)
    Path("south.json").write_text('{"columns": {"dose": {"mean": "high"}}}')
    assert "columns.dose.mean is 'high'" in fedha("data", "statistics", config, "--merge", "south.json")[2]
