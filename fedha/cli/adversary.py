"""`fedha audit --adversary`: a server that cheats, against a config's own clients; tables, JSON, the report's part."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedha import config as configs
from fedha.atomic import write_text
from fedha.cli import publish
from fedha.cli.steps import Steps
from fedha.config import Config
from fedha.errors import FedhaError
from fedha.report.formats import render
from fedha.runs import own_files, owner, runfolder
from fedha.runs.files import ADVERSARY
from fedha.runs.wording import run_title


def check(table: Path | None) -> None:
    """Refuse a name for the table that says no format.

    Raises:
        FedhaError: Its ending is none of a table's.
    """
    if table is not None and publish.form_of(table) is None:
        raise FedhaError(f"--table is {table}; end it with .txt, .md, .tex or .csv, which says how it is written")


def of_runs(places: Mapping[Path, Path], console: Console, *, quiet: bool, again: bool, table: Path | None) -> None:
    """Play against the clients of finished runs; each one's record is written beside its audit, and shown in its page.

    Args:
        places: Runs, and where each one's record is written.
        console: Where progress and tables are shown.
        quiet: Whether no progress is.
        again: Whether records that are there are made anew.
        table: A file for the tables, too.

    Raises:
        FedhaError: A run's data are not here, or a file is in the way.
    """
    for run, place in places.items():
        if again or not (place / ADVERSARY).is_file():
            config, trained = configs.load_written(run / runfolder.CONFIG), runfolder.read_model(run)
            _written(config, place, console, quiet=quiet, trained=trained)
            publish.write([run], place / runfolder.REPORT, {run: place})
    _show(list(places.values()), console, table)


def of_config(plan: Sequence[tuple[Config, Path]], console: Console, *, quiet: bool, table: Path | None) -> None:
    """Play against the clients of a config that nobody has run; nothing is trained.

    Args:
        plan: A config of one recipe and one seed each, and where its record is written.
        console, quiet, table: As in `of_runs`.
    """
    for config, place in plan:
        _written(config, place, console, quiet=quiet)
    _show([place for _, place in plan], console, table)


def _written(config: Config, place: Path, console: Console, *, quiet: bool, trained: Any = None) -> None:
    from fedha.audit import adversary_record
    from fedha.audit.adversary import play

    own_files.check_free(place, (ADVERSARY,))
    with Steps(console, quiet) as steps:
        steps.begin(f"A server that cheats: {run_title(config, 1, 1)}, in {place}")
        with owner.owning(runfolder.make_folder(place)):
            adversary_record.write(place, play(config, steps.watched, trained=trained))


def _show(places: Sequence[Path], console: Console, table: Path | None) -> None:
    tables = [one for section in publish.adversary_sections(places) for one in section.tables]
    for one in tables:
        publish.show(one, console)
    if table is not None and (form := publish.form_of(table)) is not None:
        text = "\n".join(render(one, form) for one in tables)
        publish.check_table(table, text)
        write_text(table, text)
        publish.say(f"Table: {table}", console)
    for place in places:
        publish.say(f"Record: {place / ADVERSARY}", console)
