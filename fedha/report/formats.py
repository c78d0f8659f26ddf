"""Tables as values, and how they are written: terminal, text, Markdown, LaTeX, CSV."""

import csv
import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.table import Table as RichTable
from rich.text import Text

Format = Literal["text", "markdown", "latex", "csv"]
FORMATS: tuple[Format, ...] = ("text", "markdown", "latex", "csv")
MISSING = "–"
MARKS = ("", " *", " †")  # none, the best, the second


@dataclass(frozen=True)
class Column:
    """A column's heading.

    Attributes:
        title: What stands in the column.
        rule: Under which selection rule an accuracy was taken; "" for columns that hold no accuracy.
        number: Whether it holds numbers: set to the right, and two columns (mean, sd) in CSV.
        spread: What stands behind a mean: "sd", the sample standard deviation, or "se", the standard error.
    """

    title: str
    rule: str = ""
    number: bool = False
    spread: str = "sd"

    @property
    def heading(self) -> str:
        """Title and rule in one line."""
        return f"{self.title} ({self.rule})" if self.rule else self.title


@dataclass(frozen=True)
class Summary:
    """Mean and spread of a few numbers.

    Attributes:
        mean: Their mean.
        deviation: Sample standard deviation, n - 1 in the denominator, or the standard error where the column says so;
            None for one number.
        signed: Whether a plus sign is written (differences).
        rank: 1 for the best of a column and 2 for the second, which are marked; 0 for all others.
        interval: The ends of an interval around the mean, or None.
        digits: Behind the point.
    """

    mean: float
    deviation: float | None = None
    signed: bool = False
    rank: int = 0
    interval: tuple[float, float] | None = None
    digits: int = 1

    def __str__(self) -> str:
        text = f"{self.mean:{'+' if self.signed else ''}.{self.digits}f}"
        text += "" if self.deviation is None else f" ± {self.deviation:.{self.digits}f}"
        ends = ", ".join(f"{one:.{self.digits}f}" for one in self.interval or ())
        return f"{text} [{ends}]" if ends else text


def summarized(values: Sequence[float]) -> Summary | None:
    """Mean and sample deviation of a few numbers; None of none."""
    if not values:
        return None
    return Summary(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


Cell = str | Summary | None


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Attributes:
        caption: What the table shows, in a sentence.
        columns: The headings, n of them.
        rows: n cells each.
        notes: Sentences that stand under the table.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()


def render(table: Table, form: Format) -> str:
    """Write a table in one of `FORMATS`, with a line break at the end."""
    writers = {"text": _text, "markdown": _markdown, "latex": _latex, "csv": _csv}
    return writers[form](with_legend(_in_lines(table), form))


_LEGENDS = {
    "text": "* best, † second of a column.",
    "markdown": "Bold: best of a column; underlined: second.",
    "latex": "Bold: best of a column; underlined: second.",
}


def with_legend(table: Table, form: Format) -> Table:
    """The table with what its marks mean, as the format writes them, before its other notes."""
    marked = any(isinstance(cell, Summary) and cell.rank for row in table.rows for cell in row)
    return replace(table, notes=(_LEGENDS[form], *table.notes)) if marked and form in _LEGENDS else table


def in_a_line(text: str) -> str:
    """A name as a table's cell can hold it: what breaks lines, moves the cursor or cannot be seen becomes a space."""
    return text if text.isprintable() else "".join(mark if mark.isprintable() else " " for mark in text)


def _in_lines(table: Table) -> Table:
    """The table with every text in one line: names are people's, and a line break tears a row in two."""
    columns = (replace(one, title=in_a_line(one.title), rule=in_a_line(one.rule)) for one in table.columns)
    rows = (tuple(in_a_line(one) if isinstance(one, str) else one for one in row) for row in table.rows)
    return Table(in_a_line(table.caption), tuple(columns), tuple(rows), tuple(map(in_a_line, table.notes)))


def cell_text(cell: Cell) -> str:
    """A cell as people read it; a dash where there is nothing, a mark behind the best and the second of a column."""
    if isinstance(cell, Summary):
        return f"{cell}{MARKS[cell.rank]}"
    return MISSING if cell is None else cell


def rich_table(table: Table, width: int) -> RichTable:
    """The table for a terminal of so many columns; where it does not fit, each row's cells one under the other."""
    table = with_legend(_in_lines(table), "text")
    framed = _least_width(table) <= width
    shown = RichTable(
        title=Text(table.caption),
        caption=Text("\n".join(table.notes)) if table.notes else None,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        show_header=framed,
    )
    if not framed:
        return _stacked(table, shown)
    for column in table.columns:
        heading = Text(column.title, style="bold")
        if column.rule:
            heading.append(f"\n{column.rule}", style="dim not bold")
        shown.add_column(heading, justify="right" if column.number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(cell_text(cell)) for cell in row))
    return shown


def plain_table(table: Table, width: int | None = None) -> str:
    """The table as text for a file or another program, nothing of it cut.

    Args:
        table: The table.
        width: Characters that a line may have; where the table has longer ones, each row's cells stand one under the
            other. None: as long as they are.
    """
    table = with_legend(_in_lines(table), "text")
    whole = _text(table)
    lines = len(table.rows) + 3  # what is above and below the rows are sentences, which whoever reads them wraps
    if width is None or all(len(line) <= width for line in whole.splitlines()[2 : 2 + lines]):
        return whole
    first, *others = table.columns
    parts = [table.caption]
    for row in table.rows:
        cells = [(c, cell) for c, cell in zip(others, row[1:], strict=True) if cell is not None]
        shown = [f"{first.heading}: {cell_text(row[0])}", *(f"  {c.heading}: {cell_text(one)}" for c, one in cells)]
        parts.append("\n".join(shown))
    return "\n\n".join([*parts, *(["\n".join(table.notes)] if table.notes else [])]) + "\n"


_PROSE = 24  # columns that words need, which may go on in the next line
_BORDER = 3  # columns a cell takes beside its text


def _least_width(table: Table) -> int:
    """The columns of a terminal without which numbers or words would be cut."""
    total = 1
    for place, column in enumerate(table.columns):
        texts = [column.title, column.rule, *(cell_text(row[place]) for row in table.rows)]
        longest = max(len(word) for text in texts for word in [*text.split(), ""])
        cells = max((len(cell_text(row[place])) for row in table.rows), default=0)
        total += max(longest, cells if column.number else min(cells, _PROSE)) + _BORDER
    return total


def _stacked(table: Table, shown: RichTable) -> RichTable:
    """A row of the table in a section of two columns: its first cell, then what the others are and what they hold."""
    shown.add_column("", overflow="fold")
    shown.add_column("", overflow="fold")
    first, *others = table.columns
    for row in table.rows:
        shown.add_row(Text(first.title, style="bold"), Text(cell_text(row[0]), style="bold"))
        for column, cell in zip(others, row[1:], strict=True):
            if cell is not None:
                shown.add_row(Text(column.heading), Text(cell_text(cell)))
        shown.add_section()
    return shown


def _text(table: Table) -> str:
    heads = [[column.title, column.rule] for column in table.columns]
    body = [[cell_text(cell) for cell in row] for row in table.rows]
    widths = [max(len(text) for text in (*head, *(row[place] for row in body))) for place, head in enumerate(heads)]

    def line(texts: Sequence[str]) -> str:
        placed = zip(table.columns, texts, widths, strict=True)
        return "  ".join(t.rjust(w) if c.number else t.ljust(w) for c, t, w in placed).rstrip()

    rules = [line([head[1] for head in heads])] if any(column.rule for column in table.columns) else []
    lines = [table.caption, "", line([head[0] for head in heads]), *rules, line(["-" * width for width in widths])]
    lines += [line(row) for row in body]
    return "\n".join([*lines, *([""] if table.notes else []), *table.notes]) + "\n"


_MARKDOWN = re.compile(r"\\(?=[\\|])|\|")  # what would end a cell, and what would keep it from being escaped


def _markdown(table: Table) -> str:
    def line(texts: Sequence[str]) -> str:
        return "| " + " | ".join(_MARKDOWN.sub(r"\\\g<0>", text) for text in texts) + " |"

    lines = [table.caption, "", line([column.heading for column in table.columns])]
    lines.append("|" + "|".join("---:" if column.number else "---" for column in table.columns) + "|")
    lines += [line([_markdown_cell(cell) for cell in row]) for row in table.rows]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Summary) and cell.rank:
        return f"**{cell}**" if cell.rank == 1 else f"<u>{cell}</u>"
    return cell_text(cell)


def _latex(table: Table) -> str:
    """A booktabs table; needs ``\\usepackage{booktabs}``."""
    shape = "".join("r" if column.number else "l" for column in table.columns)
    heads = [" & ".join(_escape(column.title) for column in table.columns) + r" \\"]
    if any(column.rule for column in table.columns):
        heads.append(" & ".join(_small(column.rule) for column in table.columns) + r" \\")
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_escape(' '.join((f'{table.caption}.', *table.notes)))}}}"]
    lines += [rf"\begin{{tabular}}{{{shape}}}", r"\toprule", *heads, r"\midrule"]
    lines += [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_cell(cell: Cell) -> str:
    if isinstance(cell, Summary):
        text = str(cell).replace("±", r"\pm")
        return {1: rf"$\mathbf{{{text}}}$", 2: rf"\underline{{${text}$}}"}.get(cell.rank, f"${text}$")
    return "--" if cell is None else _escape(cell)


def _small(text: str) -> str:
    return rf"\footnotesize {_escape(text)}" if text else ""


def _escape(text: str) -> str:
    return "".join(_LATEX.get(mark, mark) for mark in text)


_LATEX = {
    **{mark: "\\" + mark for mark in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"},
    **{"±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "Δ": r"$\Delta$", "†": r"$\dagger$"},
    **{"ε": r"$\varepsilon$", "δ": r"$\delta$", "α": r"$\alpha$", "λ": r"$\lambda$", "χ": r"$\chi$", "²": "$^2$"},
}


def _csv(table: Table) -> str:
    """Full precision, no caption and no notes: for programs. A column of summaries becomes mean and sd."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.columns))]
    counts = [_csv_count(column) for column in columns]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    heads = [
        [f"{one.heading} {what}" for what in ("mean", one.spread, "low", "high")[:count]]
        if count > 1
        else [one.heading]
        for one, count in zip(table.columns, counts, strict=True)
    ]
    writer.writerow([name for names in heads for name in names])
    for row in table.rows:
        writer.writerow([text for cell, count in zip(row, counts, strict=True) for text in _csv_cells(cell, count)])
    return out.getvalue()


def _csv_count(cells: Sequence[Cell]) -> int:
    """How many columns one becomes: mean and spread, and where there are intervals their ends."""
    found = [one for one in cells if isinstance(one, Summary)]
    return (4 if any(one.interval for one in found) else 2) if found else 1


def _csv_cells(cell: Cell, count: int) -> list[str]:
    if isinstance(cell, Summary):
        numbers = (cell.mean, cell.deviation, *(cell.interval or (None, None)))[:count]
        return ["" if one is None else repr(one) for one in numbers]
    return ["" if cell is None else cell] + [""] * (count - 1)
