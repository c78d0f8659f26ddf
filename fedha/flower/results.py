"""What a finished run says of itself: the content of results.json."""

from dataclasses import asdict
from typing import Any

from fedha.flower import budget
from fedha.flower.job import Job, fold_folder
from fedha.flower.rounds import Rounds
from fedha.flower.setting import Setting
from fedha.inputs import each, nested
from fedha.runs import runfolder
from fedha.runs.absences import left_out
from fedha.runs.divergence import divergence
from fedha.runs.selection import ACCURACY, select
from fedha.runs.versions import versions


def results_of(job: Job, rounds: Rounds, setting: Setting) -> dict[str, Any]:
    """The results of a run whose rounds are over.

    Args:
        job: The run.
        rounds: Its own, with their records.
        setting: What is known of the data.
    """
    config, judge, records = job.config, rounds.judge, rounds.records
    privacy = budget.report(rounds.server, rounds.stopped)
    folds, absences = {}, left_out(records)
    if config.evaluation.leave_one_domain_out and job.left_out is None:
        folds = {name: runfolder.read_metrics(fold_folder(job.folder, name)) for name in setting.names}
    target, sources = records[-1]["target"], records[-1]["held_out"]
    if judge.wanted:
        target = judge.with_intervals("target", judge.pooled["target"])
        sources = judge.with_intervals("held_out", rounds.held_out())
    results = {
        "name": config.name,
        "recipe": config.recipe[0].name,
        "seed": config.seed[0],
        "rounds": records[-1]["round"] if rounds.stopped or rounds.early else config.training.rounds,
        "seconds": sum(record["seconds"] for record in records),
        "target": target,
        "sources": sources,
        **({"id_test": records[-1]["id_test"]} if records[-1].get("id_test") else {}),
        "train": judge.recorded("train", rounds.strategy.last_evaluation.get("train", {})),
        "selection": select(records, folds, judge.warmup, judge.kept.by, config.evaluation.metrics),
        **({} if judge.kept.by == ACCURACY else {"select_by": asdict(judge.kept.by)}),
        **({"stopped": rounds.early} if rounds.early else {}),
        **({"left_out": absences} if absences else {}),
        "data": setting.description,
        **({"remarks": list(setting.remarks)} if setting.remarks else {}),
        "expects": {"input_shape": _written(setting.input_shape), "classes": setting.classes, **setting.made},
        **({"changes": changes} if (changes := runfolder.read_changes(job.folder)) else {}),
        **({"privacy": privacy} if privacy else {}),
        "versions": versions(),
    }
    wrong = divergence(records, results)
    return {**results, "diverged": wrong} if wrong else results


def _written(shape: Any) -> Any:
    """A shape as JSON holds it."""
    return each(list, shape) if nested(shape) else list(shape)
