"""A part of the page that others add: they know what it says, the page knows how it looks."""

from dataclasses import dataclass

from fedha.report.formats import Table


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        heading: Its title.
        explanation: What is shown, in a few sentences.
        tables: One or more.
        panels: Figures: heading and ``<svg>``.
        first: Whether it stands before everything else.
    """

    heading: str
    explanation: str
    tables: tuple[Table, ...]
    panels: tuple[tuple[str, str], ...] = ()
    first: bool = False
