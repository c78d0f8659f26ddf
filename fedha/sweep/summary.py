"""What a sweep keeps of a finished run, so that thousands are tabled without reading their rounds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedha.jsonfile import parse_json
from fedha.metrics.choice import Choice
from fedha.runs import own_files, runfolder
from fedha.runs.selection import pick, scores

NAME = "summary.json"
FORM = 1
ORACLE = "oracle_last"  # as DomainBed has it: the last round, no earlier one


def summarise(folder: Path, warmup: int) -> dict[str, Any]:
    """Read a finished run and say what tables and selection need.

    Args:
        folder: The run's.
        warmup: Rounds in which its recipe has not yet its own weight.

    Returns:
        ``rules``: by rule the round it selects among those after the warm-up, its score, the targets' accuracies
        there, and whether the warm-up would have been selected; the cost, with that of its folds; whether it diverged.

    Raises:
        FedhaError: The run has not finished, or a file is damaged.
    """
    results, records = runfolder.read_results(folder), runfolder.read_metrics(folder)
    folds = {one.name: runfolder.read_metrics(one) for one in sorted((folder / "folds").glob("*")) if one.is_dir()}
    in_folds = [one for several in folds.values() for one in several]  # which cost as much as the run does
    by_rule = scores(records, folds, Choice(**results.get("select_by", {})))
    if "oracle" in by_rule:
        last = max(by_rule["oracle"])
        by_rule = {**by_rule, ORACLE: {last: by_rule["oracle"][last]}}
    rules = {rule: _chosen(by_round, records, warmup) for rule, by_round in by_rule.items()}
    if "final" in rules:  # the last round; which run, validation there says
        rules["final"]["score"] = by_rule.get("training_domain_validation", {}).get(rules["final"]["round"])
    return {
        "form": FORM,
        "rules": rules,
        "worst_source": _worst(results.get("sources", {})),
        "rounds": results["rounds"],
        "seconds": results["seconds"] + sum(one["seconds"] for one in in_folds),
        "bytes_up": sum(one.get("bytes_up", 0) for one in (*records, *in_folds)),
        "bytes_down": sum(one.get("bytes_down", 0) for one in (*records, *in_folds)),
        "epsilon": _epsilon(results),
        "diverged": results.get("diverged", ""),
        "remarks": list(results.get("remarks", ())),
    }


def write(folder: Path, warmup: int) -> dict[str, Any]:
    """Summarise a run and keep it in the run's folder."""
    found = summarise(folder, warmup)
    own_files.write_json(folder, NAME, found)
    return found


def read(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None where it is missing, damaged or of another version."""
    try:
        found = parse_json((folder / NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("form") == FORM else None


def _chosen(by_round: Mapping[int, float], records: Sequence[Mapping[str, Any]], warmup: int) -> dict[str, Any]:
    taken = pick(by_round, warmup)
    record = next(one for one in records if one["round"] == taken.round)
    metrics = _metrics(record["target"])
    return {
        "round": taken.round,
        "score": by_round[taken.round],
        "targets": {name: one["accuracy"] for name, one in record["target"].items() if "accuracy" in one},
        **({"metrics": metrics} if any(metrics.values()) else {}),
        **({"id_test": test} if (test := _mean(record.get("id_test") or {})) is not None else {}),
        **({"warmup": warmup} if taken.instead_of or taken.round <= warmup else {}),
    }


def metrics_of(found: Mapping[str, Any]) -> set[str]:
    """The metrics that a summary has of some target, whether they have a value or none."""
    return {key for rule in found["rules"].values() for one in (rule.get("metrics") or {}).values() for key in one}


def _metrics(domains: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """What is known of each target beside its accuracy."""
    plain = ("accuracy", "risk", "examples")
    return {
        name: {
            key: value
            for key, value in one.items()
            if key not in plain and (value is None or isinstance(value, int | float))
        }
        for name, one in domains.items()
    }


def _mean(domains: Mapping[str, Any]) -> float | None:
    known = [one["accuracy"] for one in domains.values() if one.get("accuracy") is not None]
    return statistics.fmean(known) if known and len(known) == len(domains) else None


def _worst(domains: Mapping[str, Any]) -> float | None:
    return min((one["accuracy"] for one in domains.values() if "accuracy" in one), default=None)


def _epsilon(results: Mapping[str, Any]) -> float | None:
    found = (results.get("privacy") or {}).get("epsilon")
    if isinstance(found, Mapping):
        found = max(found.values(), default=None)
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None
