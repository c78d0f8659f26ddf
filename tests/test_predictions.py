"""`fedha predict`: what a file of predictions says is what the network says, of whatever form the examples have."""

import csv
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import yaml
from typer.testing import CliRunner

import fedha
from fedha.cli.commands import app
from fedha.config import Config, parse, to_yaml
from fedha.data.domain import Domain, Examples
from fedha.errors import FedhaError
from fedha.flower.serve import load_domains
from fedha.predictions import predict
from fedha.run import execute
from fedha.runs.listener import Silent
from fedha.training import evaluate
from tests.commands import Command
from tests.data.image_folders import image_folder, picture
from tests.models_of_others import fitted

FAST: dict[str, Any] = {
    "model": {"hidden": [4]},
    "recipe": "erm",
    "training": {"rounds": 2},
    "engine": {"name": "inline"},
}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(folder: Path, **sections: Any) -> Config:
    config = parse({**FAST, **sections})
    execute(config, folder, Silent())
    return config


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("digits") / "run"
    metrics = {"evaluation": {"metrics": ["macro_f1", "auroc"]}}
    return folder, run(folder, **metrics, checkpoint={"keep": "best"})


def test_the_targets_are_predicted_and_evaluated_as_the_run_did(digits: tuple[Path, Config], tmp_path: Path) -> None:
    folder, config = digits
    found = predict(folder, tmp_path / "out.csv")
    (target,) = load_domains(config).targets
    model, written = fedha.load(folder), rows(tmp_path / "out.csv")
    assert len(written) == found.rows == len(target.held_out)
    with torch.no_grad():
        probabilities = torch.softmax(model(target.held_out.take()), 1)
    told = torch.tensor([[float(one[f"p_{name}"]) for name in "01"] for one in written])
    torch.testing.assert_close(told, probabilities, rtol=1e-5, atol=1e-6)
    assert [one["prediction"] for one in written] == [str(one) for one in probabilities.argmax(1).tolist()]
    assert [one["label"] for one in written] == [str(one) for one in target.held_out.labels.tolist()]
    results = fedha.runs.runfolder.read_results(folder)["target"][target.name]  # type: ignore[attr-defined]
    ours = found.domains[target.name, "test"]
    assert {key: ours[key] for key in ("macro_f1", "auroc", "examples")} == {
        key: pytest.approx(results[key]) for key in ("macro_f1", "auroc", "examples")
    }
    assert ours["interval"]["macro_f1"] == pytest.approx(results["interval"]["macro_f1"], abs=0.05)


def test_a_domain_by_name_has_both_its_parts_and_a_rule_its_model(digits: tuple[Path, Config], tmp_path: Path) -> None:
    folder, config = digits
    source = load_domains(config).sources[0]
    found = predict(folder, tmp_path / "out.csv", source.name, rule="training_domain_validation")
    parts = [one["part"] for one in rows(tmp_path / "out.csv")]
    assert parts == ["train"] * len(source.train) + ["held_out"] * len(source.held_out)
    kept = fedha.load(folder, rule="training_domain_validation")
    assert found.domains[source.name, "held_out"]["accuracy"] == (
        pytest.approx(evaluate(kept, {}, source.held_out)["accuracy"])
    )
    with pytest.raises(FedhaError, match="did you mean"):
        predict(folder, tmp_path / "none.csv", f"{source.name}x")
    assert not (tmp_path / "none.csv").exists()


def test_another_configs_data_are_taken(digits: tuple[Path, Config], tmp_path: Path) -> None:
    folder, _ = digits
    other = parse({**FAST, "data": {"color_flips": [0.5], "target_color_flip": 0.4}})
    (tmp_path / "other.yaml").write_text(to_yaml(other))
    found = predict(folder, tmp_path / "out.csv", str(tmp_path / "other.yaml"))
    assert {name for name, _ in found.domains} == {"flip-0.5", "target"}


def test_parquet_has_the_same_rows(digits: tuple[Path, Config], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder, _ = digits
    for name in ("out.csv", "out.parquet"):
        predict(folder, tmp_path / name)
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{key: str(value) for key, value in one.items()} for one in table] == rows(tmp_path / "out.csv")


def test_arrays_need_no_labels(tmp_path: Path) -> None:
    draws = numpy.random.default_rng(0)
    for name in "abc":
        inputs = draws.normal(size=(30, 5)).astype("float32")
        numpy.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=(inputs[:, 0] > 0).astype(int))
    run(tmp_path / "run", data={"name": "arrays", "root": str(tmp_path), "target": "c"})
    known = predict(tmp_path / "run", tmp_path / "known.csv", str(tmp_path / "c.npz"))
    assert known.domains["c", ""]["examples"] == 30
    (tmp_path / "new").mkdir()
    inputs = numpy.load(tmp_path / "c.npz")["inputs"]
    numpy.savez(tmp_path / "new/c.npz", inputs=inputs)
    found = predict(tmp_path / "run", tmp_path / "new.csv", str(tmp_path / "new/c.npz"))
    assert not found.domains
    bare, labelled = rows(tmp_path / "new.csv"), rows(tmp_path / "known.csv")
    assert [one["p_1"] for one in bare] == [one["p_1"] for one in labelled]
    assert {one["label"] for one in bare} == {""}
    numpy.savez(tmp_path / "new/c.npz", inputs=inputs[:, :3])
    with pytest.raises(FedhaError, match=r"shape \(3,\) and the run's network takes \(5,\)"):
        predict(tmp_path / "run", tmp_path / "wrong.csv", str(tmp_path / "new/c.npz"))
    inputs[4, 2] = float("nan")
    numpy.savez(tmp_path / "new/c.npz", inputs=inputs)
    with pytest.raises(FedhaError, match=r"'c' \(to be predicted\) contain NaN .* column 2, first in .* 4"):
        predict(tmp_path / "run", tmp_path / "wrong.csv", str(tmp_path / "new/c.npz"))
    assert not (tmp_path / "wrong.csv").exists()


def test_images_lie_in_class_folders_or_in_none(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "set")
    run(tmp_path / "run", data={"name": "folder", "root": str(root), "target": "sketch", "size": 8, "held_out": 0.4})
    new = tmp_path / "new"
    (new / "dog").mkdir(parents=True)
    for place, name in enumerate(["dog/one.png", "two.png", "three.png"]):
        picture(place).save(new / name)
    found = predict(tmp_path / "run", tmp_path / "out.csv", str(new))
    written = {one["id"]: one for one in rows(tmp_path / "out.csv")}
    assert {name: one["label"] for name, one in written.items()} == {
        "dog/one.png": "dog",
        "three.png": "",
        "two.png": "",
    }
    assert {one["prediction"] for one in written.values()} <= {"cat", "dog"}
    assert found.domains["new", ""]["examples"] == 1
    same = predict(tmp_path / "run", tmp_path / "same.csv")
    there = predict(tmp_path / "run", tmp_path / "there.csv", str(root / "sketch"))
    assert same.domains["sketch", "test"]["accuracy"] == there.domains["sketch", ""]["accuracy"]
    assert [one["p_cat"] for one in rows(tmp_path / "same.csv")] == [
        one["p_cat"] for one in rows(tmp_path / "there.csv")
    ]


def test_a_table_is_prepared_as_the_runs_own_rows_were(tmp_path: Path) -> None:
    root, draws = tmp_path / "wards", numpy.random.default_rng(1)
    root.mkdir()
    for place, name in enumerate(["north", "south", "east"]):
        lines = ["age,sex,ill"]
        for age in draws.normal(50 + 10 * place, 9, 30):
            lines.append(f"{age:.3f},{'f' if age > 52 else 'm'},{'yes' if age > 55 else 'no'}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    run(tmp_path / "run", data={"name": "table", "root": str(root), "label": "ill", "target": "east"})
    own = predict(tmp_path / "run", tmp_path / "own.csv")
    brought = predict(tmp_path / "run", tmp_path / "brought.csv", str(root / "east.csv"))
    assert own.domains["east", "test"]["accuracy"] == brought.domains["east", ""]["accuracy"]
    assert [one["p_yes"] for one in rows(tmp_path / "own.csv")] == [
        one["p_yes"] for one in rows(tmp_path / "brought.csv")
    ]
    (tmp_path / "new.csv").write_text("sex,age\nf,60\nm,40\n")
    assert not predict(tmp_path / "run", tmp_path / "new-out.csv", str(tmp_path / "new.csv")).domains
    (tmp_path / "odd.csv").write_text("sex,age,ill\nf,60,maybe\n")
    with pytest.raises(FedhaError, match=r"has the label 'maybe', and the run's classes are no, yes"):
        predict(tmp_path / "run", tmp_path / "odd-out.csv", str(tmp_path / "odd.csv"))
    (tmp_path / "few.csv").write_text("sex\nf\n")
    with pytest.raises(FedhaError, match="no column 'age'"):
        predict(tmp_path / "run", tmp_path / "few-out.csv", str(tmp_path / "few.csv"))


def test_memory_holds_a_block_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedha.predictions.predicting._LARGEST", 7)
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 2, 3, generator=draws)
    some = Examples(inputs, (inputs[:, 0, 0] > 0).long())
    domains = [Domain(name, some.select(slice(30)), some.select(slice(30, 50))) for name in "abc"]
    fedha.simulate(domains, fitted, "erm", target="c", training={"rounds": 1}, out=tmp_path / "run")
    taken: list[int] = []
    original = Examples.take

    def take(self: Examples, *args: Any) -> Any:
        found = original(self, *args)
        taken.append(len(found))
        return found

    monkeypatch.setattr(Examples, "take", take)
    numpy.savez(tmp_path / "many.npz", inputs=inputs.numpy(), labels=some.labels.numpy())
    assert predict(tmp_path / "run", tmp_path / "out.csv", str(tmp_path / "many.npz")).rows == 50
    assert max(taken) <= 7


def test_the_command_says_what_it_did_and_overwrites_nothing(digits: tuple[Path, Config], tmp_path: Path) -> None:
    folder, _ = digits
    again = [CliRunner().invoke(app, ["predict", str(folder)]) for _ in range(2)]
    assert [one.exit_code for one in again] == [0, 0]
    assert "599 predictions" in again[0].output
    assert "macro f1 %" in again[0].output
    (tmp_path / "mine.csv").write_text("mine")
    for wrong in (
        ["--output", str(tmp_path / "mine.csv")],
        ["--output", str(tmp_path / "out.txt")],
        ["--metrics", "makro_f1"],
        ["--round", "99"],
        ["--round", "2", "--rule", "oracle"],
        ["--data", "nothing"],
    ):
        assert CliRunner().invoke(app, ["predict", str(folder), *wrong]).exit_code != 0
    assert (tmp_path / "mine.csv").read_text() == "mine"
    assert not (tmp_path / "out.txt").exists()


def test_a_head_of_more_classes_than_the_data_have_is_said_predicted_and_audited(fedha: Command) -> None:
    asked = {
        "data": {"name": "tests.data_of_others:wards", "target": "ward2"},
        "model": {"name": "tests.models_of_others:wide"},
        "recipe": "hgp",
        "training": {"rounds": 1},
        "engine": {"name": "inline"},
    }
    Path("wide.yaml").write_text(yaml.safe_dump(asked))
    told = "the network tells 30 classes apart but the data have 2: nothing is of the other 28, and predictions may be"
    code, out, _ = fedha("run", "wide.yaml", "--out", "run")
    assert (code, out.count(told)) == (0, 2)  # when it starts, and under the table
    assert fedha("predict", "run")[0] == 0
    head = Path("run/predictions.csv").read_text().split("\n")[0].split(",")
    assert head[5:] == ["p_0", "p_1", *(f"p_output {one}" for one in range(2, 30))]
    assert fedha("audit", "run", "--attacks", "labels", "--shadows", "0", "--rounds", "1")[0] == 0
    code, _, refused = fedha("audit", "run", "--adversary")
    assert code == 2
    assert "the network tells 30 classes apart and the data have 2; a server that cheats is played" in refused


@pytest.mark.parametrize("command", ["predict", "diagnose"])
def test_a_run_whose_data_have_changed_is_looked_at_no_more(command: str, fedha: Command) -> None:
    for place, name in enumerate(("a", "b", "t")):
        inputs = numpy.random.default_rng(place).normal(size=(20, 3)).astype("f4")
        numpy.savez(f"{name}.npz", inputs=inputs, labels=numpy.arange(20) % 2)
    run(Path("run"), data={"name": "arrays", "root": str(Path.cwd()), "target": "t"}, checkpoint={"every": 1})
    numpy.savez("a.npz", inputs=inputs + 1, labels=numpy.arange(20) % 2)
    code, _, refused = fedha(command, "run")
    assert code == 2
    assert "the data are not those that the run in run was trained with" in refused
