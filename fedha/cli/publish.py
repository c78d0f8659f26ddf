"""What people get to see of finished runs: the table in the terminal, the page, the table as a file."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedha.atomic import write_text
from fedha.errors import FedhaError
from fedha.report.comparison import Run, read_runs, variants
from fedha.report.domains import domain_tables
from fedha.report.formats import Format, Table, plain_table, render, rich_table
from fedha.report.section import Section
from fedha.report.tables import accuracy_table
from fedha.runs import runfolder
from fedha.runs.earlier import is_page
from fedha.runs.files import ADVERSARY, DIAGNOSIS, typed
from fedha.runs.folders import find_runs

_ENDINGS: dict[str, Format] = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv"}


def terminal() -> Console:
    """Standard output."""
    return Console()


def finished(path: Path, console: Console) -> list[Path]:
    """The finished runs of a path; the others are named.

    Raises:
        FedhaError: None has finished.
    """
    found = find_runs([path])
    done = [one for one in found if runfolder.is_finished(one)]
    if not done:
        raise FedhaError(f"no run has finished yet in {path}; continue with: fedha resume {typed(path)}")
    for folder in found:
        if folder not in done:
            say(f"Not finished, left out: {folder}", console)
    return done


def write(folders: Sequence[Path], output: Path, audits: Mapping[Path, Path] | None = None) -> None:
    """Write the page of some runs, with their audits; those that have not finished are named in it.

    Args:
        folders: Of the runs.
        output: The page.
        audits: Of each run, where its audit is if there is one; default: in its folder.
    """
    from fedha.report.page import write_report  # matplotlib: slow to import, and only needed here

    check_page(output)
    runs, unfinished = read_runs(folders)
    places = [(audits or {}).get(one, one) for one in folders]
    sections = [*diagnosis_sections(folders), *audit_sections(folders, audits), *adversary_sections(places)]
    write_report(runs, output, unfinished=unfinished, sections=sections)


def check_page(output: Path) -> None:
    """Whether a page may be written.

    Raises:
        FedhaError: Something else is there.
    """
    if os.path.lexists(output) and not is_page(output):
        raise FedhaError(f"{output} is there already and is no page of fedha's; move it, or choose another --output")


def diagnosis_sections(folders: Sequence[Path]) -> list[Section]:
    """What the diagnoses of some runs say, as parts of their page."""
    if not any((one / DIAGNOSIS).is_file() for one in folders):
        return []
    from fedha.diagnosis import record
    from fedha.report.diagnosis.section import sections

    return sections(_by_row({one: one for one in folders}, record))


def audit_sections(folders: Sequence[Path], audits: Mapping[Path, Path] | None = None) -> list[Section]:
    """What the audits of some runs say, as parts of their page; the arguments are those of `write`."""
    places = {one: (audits or {}).get(one, one) for one in folders}
    if not any((place / runfolder.AUDIT).is_file() for place in places.values()):
        return []
    from fedha.audit import record  # torch and scipy, only where there is something to read
    from fedha.audit.section import sections

    return sections(_by_row(places, record))


def _by_row(places: Mapping[Path, Path], record: Any) -> dict[str, list[Any]]:
    """What `record`, a module with `exists` and `read`, knows of runs, by the row of the page that they are in.

    Args:
        places: Of each run's folder, where its record is if there is one.
        record: Of audits, or of diagnoses.
    """
    from fedha.report.page import group_runs

    runs, _ = read_runs(list(places))
    rows = group_runs(runs, variants([run.config for run in runs]))
    found = {title: [places[run.folder] for run in members] for title, members in rows.items()}
    read = {title: [record.read(one) for one in several if record.exists(one)] for title, several in found.items()}
    return {title: several for title, several in read.items() if several}


def adversary_sections(places: Sequence[Path]) -> list[Section]:
    """What a server that cheats gained of some runs, as a part of their page.

    Args:
        places: Folders that may hold a record of it.

    Raises:
        FedhaError: A record is damaged.
    """
    held = [place for place in places if (place / ADVERSARY).is_file()]
    if not held:
        return []
    from fedha.audit import adversary_record  # torch, only where there is something to read
    from fedha.audit.adversary_table import sections

    return sections([adversary_record.read(place) for place in held])


def conclude(folders: Sequence[Path], output: Path, console: Console) -> None:
    """Print the table of some runs, write their page, and say where that is: a full disk costs the page alone."""
    runs, unfinished = read_runs(folders)
    for place, one in enumerate(tables_of(runs)):
        if place:
            say("", console)
        show(one, console)
    for folder in unfinished:
        say(f"Not finished, left out: {folder}", console)
    write(folders, output)
    say(f"Report: {output}", console)


def report(paths: Sequence[Path], form: Format | None, output: Path | None, console: Console) -> None:
    """Answer `fedha report`: a page, or a table in a format.

    Args:
        paths: Folders of runs, or folders that hold some.
        form: The table's format; default: from the ending of `output`, else a page.
        output: Where to write; default: a page goes to report.html in the common folder, a table to the terminal.
        console: Where the table and messages are shown.

    Raises:
        FedhaError: No finished run there, or the output cannot be written.
    """
    found = find_runs(paths)
    form = form or (form_of(output) if output else None)
    if form is None:
        conclude(found, output or _common(paths, found) / runfolder.REPORT, console)
        return
    runs, unfinished = read_runs(found)
    text = "\n".join(render(one, form) for one in tables_of(runs))
    for folder in unfinished:
        sys.stderr.write(f"Not finished, left out: {folder}\n")
    if output is None:
        sys.stdout.write(text)
    else:
        check_table(output, text)
        write_text(output, text)
        say(f"Table: {output}", console)


def form_of(output: Path) -> Format | None:
    """The format that a file's name ends with."""
    return _ENDINGS.get(output.suffix)


def check_table(output: Path, text: str) -> None:
    """Whether a table may be written.

    Raises:
        FedhaError: Something else is there.
    """
    if os.path.lexists(output) and not _is_table(output, text):
        raise FedhaError(f"{output} is there already and is no such table; move it, or choose another --output")


def tables_of(runs: Sequence[Run]) -> list[Table]:
    """The table of accuracies of some runs, and those of their metrics."""
    results, told_apart = [run.results for run in runs], variants([run.config for run in runs])
    return [accuracy_table(results, told_apart), *domain_tables(results, told_apart)]


def show(table: Table, console: Console) -> None:
    """Print a table: with lines on a terminal; elsewhere as text, in full length unless COLUMNS says how wide it is."""
    if console.is_terminal:
        console.print(rich_table(table, console.width))
    else:
        columns = os.environ.get("COLUMNS", "")
        console.file.write(plain_table(table, int(columns) if columns.isdecimal() and int(columns) else None))


def say(text: str, console: Console) -> None:
    """Print a sentence as it is: not wrapped, so that paths can be copied."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _is_table(path: Path, text: str) -> bool:
    """Whether a file begins as a table does that would be written over it."""
    try:
        return path.read_bytes().split(b"\n", 1)[0] == text.encode().split(b"\n", 1)[0]
    except OSError:
        return False


def _common(paths: Sequence[Path], runs: Sequence[Path]) -> Path:
    """The folder of one path; for several, the deepest one above all their runs."""
    if len(paths) == 1:
        return paths[0]
    shared = runs[0].resolve()
    while not all(run.resolve().is_relative_to(shared) for run in runs):
        shared = shared.parent
    return shared
