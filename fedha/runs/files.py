"""What the files of runs, experiments, audits and studies are called."""

import shlex
from pathlib import Path

CONFIG = "config.yaml"
EXPERIMENT = "experiment.yaml"  # in the common folder of several runs: the config that makes them all
METRICS = "metrics.jsonl"
MODEL = "model.safetensors"
RESULTS = "results.json"
FOLD = "fold.json"  # in its place where a source was left out: its target is no target
REPORT = "report.html"
AUDIT = "audit.json"  # made by `fedha audit`
ADVERSARY = "adversary.json"  # made by `fedha audit --adversary`
DIAGNOSIS = "diagnosis.json"  # made by `fedha diagnose`
PLANE = "diagnosis-plane.svg"  # likewise, of the kinds of shift
SPENDING = "privacy.json"  # what was released, where noise is never the same again: a checkpoint would forget rounds
COHORT = "cohort.key"  # the server's secret by which it draws clients, where being drawn is to hide them
ERROR = "error.txt"  # the traceback, after an error that nobody expected
PREDICTIONS = "predictions.csv"  # made by `fedha predict`
STATE = "checkpoint/state.safetensors"
SENT = "sent"  # a folder: what was sent, where `fedha audit --keep` left it
MODELS = "models"  # a folder: models of single rounds, as checkpoint.keep says
CONSTANTS = "constants"  # a folder of a sweep: what of its runs' networks never moves
FOLDS = "folds"  # a folder: the runs without one source each, for leave-one-domain-out selection
RUN = (CONFIG, METRICS, MODEL, RESULTS, FOLD, REPORT, SPENDING, COHORT, ERROR, STATE)  # what a run may write

ASKED, FOUND, MARKDOWN, CSV, FIGURE = "study.yaml", "study.json", "study.md", "study.csv", "study.svg"
STUDY = (ASKED, FOUND, MARKDOWN, CSV, FIGURE, REPORT)


def typed(path: Path) -> str:
    """A path as a command line takes it, whatever its name: quoted, and never an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
