"""The report's part on an audit, as data for the page's template."""

from dataclasses import dataclass

from fedha.audit import figures
from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Findings
from fedha.audit.summary import summary
from fedha.report.formats import Table

_EXPLANATION = (
    "Attacks on what was really sent, by an honest-but-curious server that knows the model; judged, where clients are "
    "simulated, by their true examples. Dashed: on the aggregate of all clients. Dotted: a guess that reads nothing. "
    "An attack that fails here shows that this attack fails, not that nothing leaks."
)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        heading: Its title.
        explanation: What is shown, in a few sentences.
        table: Every attack in a row.
        panels: Figures: heading and ``<svg>``; those without content are left out.
    """

    heading: str
    explanation: str
    table: Table
    panels: tuple[tuple[str, str], ...]


def section(findings: Findings, name: str = "audit") -> Section:
    """An audit as a section: its table, success over the rounds by family, recovered images, ROC curves.

    Args:
        findings: Of an audit.
        name: Unique in the page, letters and digits: begins the ids of the figures.
    """
    kinds = dict.fromkeys((kind.family, kind.measure) for kind in ATTACKS.values())
    families = dict.fromkeys(family for family, _ in kinds)
    panels = [
        (f"{_begun(family)}: {measure}", figures.success_figure(f"{name}{place}", family, measure, findings))
        for place, (family, measure) in enumerate(kinds)
    ]
    for place, attack in enumerate(key for key, kind in ATTACKS.items() if kind.family == "inputs"):
        pictures = [one for one in findings.pictures if one.attack == attack]
        drawn = figures.picture_figure(f"{name}p{place}", pictures, findings.value_range)
        panels.append((_begun(ATTACKS[attack].title), drawn))
    for place, family in enumerate(families):
        curves = [one for one in findings.curves if ATTACKS[one.attack].family == family]
        title = f"{_begun(family)}: ROC"
        panels.append((title, figures.roc_figure(f"{name}r{place}", family, curves)))
    return Section("What was given away", _EXPLANATION, summary(findings), tuple(one for one in panels if one[1]))


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]
