"""The files of a run are whole at any time, and what is written is what is read."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedha import atomic
from fedha import config as configs
from fedha.errors import FedhaError
from fedha.runs import runfolder
from tests import made_runs
from tests.made_runs import results

RECORDS: list[dict[str, Any]] = [{"round": number, "loss": 1 / number, "risk": {"é": 0.5}} for number in (1, 2, 3)]


def _log(folder: Path, records: list[dict[str, Any]]) -> runfolder.MetricsLog:
    log = runfolder.MetricsLog(folder)
    for record in records:
        log.append(record)
    return log


def test_create_writes_the_config_and_refuses_a_second_run(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    runfolder.create(folder, made_runs.config(seed=3))
    assert configs.load(folder / "config.yaml") == made_runs.config(seed=3)
    with pytest.raises(FedhaError, match=r"already holds a run.*fedha resume"):
        runfolder.create(folder, made_runs.config(seed=4))
    runfolder.create(folder, made_runs.config(seed=4), resume=True)
    assert configs.load(folder / "config.yaml").seed == [3]


def test_a_folder_that_cannot_be_made_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedhaError, match=r"cannot make the folder .*file"):
        runfolder.create(tmp_path / "file" / "run", made_runs.config())


def test_what_is_not_finite_becomes_null_at_any_depth(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "x.json", {"a": [math.nan, {"b": math.inf}], "c": (1.5, -math.inf), "d": "NaN"})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, {"b": None}], "c": [1.5, None], "d": "NaN"}


def test_a_write_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "x.json", "old")
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "x.json", {"a": object()})
    (tmp_path / "taken").mkdir()
    with pytest.raises(FedhaError, match="cannot write"):
        atomic.write_text(tmp_path / "taken", "new")
    assert (tmp_path / "x.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "x.json"]
    with pytest.raises(FedhaError, match="cannot write"):
        atomic.write_text(tmp_path / "missing" / "x", "new")


def test_metrics_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert runfolder.read_metrics(tmp_path) == []
    _log(tmp_path, RECORDS)
    assert runfolder.read_metrics(tmp_path) == RECORDS
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_after_a_crash_at_any_byte_the_whole_lines_remain_and_the_log_goes_on(tmp_path: Path) -> None:
    _log(tmp_path, RECORDS)
    path = tmp_path / "metrics.jsonl"
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = RECORDS[: content[:cut].count(b"\n")]
        assert runfolder.read_metrics(tmp_path) == whole
        _log(tmp_path, [{"round": 9}])
        assert runfolder.read_metrics(tmp_path) == [*whole, {"round": 9}]


@given(kept=st.integers(-1, 5))
def test_truncating_keeps_the_rounds_up_to_the_checkpoint(tmp_path_factory: pytest.TempPathFactory, kept: int) -> None:
    folder = tmp_path_factory.mktemp("run")
    _log(folder, RECORDS).truncate_after(kept)
    assert runfolder.read_metrics(folder) == [record for record in RECORDS if record["round"] <= kept]
    assert {path.name for path in folder.iterdir()} == {".fedha.json", "metrics.jsonl"}


def test_truncating_a_log_that_has_no_file_makes_none(tmp_path: Path) -> None:
    runfolder.MetricsLog(tmp_path).truncate_after(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"round": null}', "7"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f'{{"round": 1}}\n{line}\n{{"round": 3}}\n')
    with pytest.raises(FedhaError, match=r"line 2 of .*metrics\.jsonl"):
        runfolder.read_metrics(tmp_path)


def test_results_of_a_run_that_goes_on_say_how_to_continue_it(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"has not finished.*fedha resume"):
        runfolder.read_results(tmp_path)
    atomic.write_json(tmp_path / "results.json", results())
    assert runfolder.read_results(tmp_path) == results()
    for damaged in ("{", "[]", '{"seed": 0}', "[" * 100_000):
        (tmp_path / "results.json").write_text(damaged)
        with pytest.raises(FedhaError, match=r"results\.json"):
            runfolder.read_results(tmp_path)


def test_a_model_is_read_as_it_was_written_even_where_tensors_share_memory(tmp_path: Path) -> None:
    base = torch.arange(6.0, requires_grad=True).reshape(2, 3)
    runfolder.write_model(tmp_path, {"a": base, "b": base.T, "c": torch.ones(1, dtype=torch.float64)})
    read = runfolder.read_model(tmp_path)
    assert torch.equal(read["a"], base.detach())
    assert torch.equal(read["b"], base.T.detach())
    assert read["c"].dtype == torch.float64


def test_a_model_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(FedhaError, match=r"cannot read the model .*model\.safetensors"):
        runfolder.read_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(FedhaError, match="no safetensors file"):
        runfolder.read_model(tmp_path)
