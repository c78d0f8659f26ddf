"""The report's part on audits, as data for the page's template."""

from collections.abc import Mapping, Sequence

from fedha.audit import figures
from fedha.audit.attacks import ATTACKS
from fedha.audit.findings import Findings, together
from fedha.audit.record import Audited
from fedha.audit.summary import small_summary, summary
from fedha.report.section import Section

_EXPLANATION = (
    "Attacks on what was really sent, by an honest-but-curious server that knows the model; judged, where clients are "
    "simulated, by their true examples. Dashed: on the aggregate of all clients. Dotted: a guess that reads nothing. "
    "An attack that fails here shows that this attack fails, not that nothing leaks."
)
_SMALL = (
    "The same run's first round, done with clients that hold only the first few of their examples: what large batches "
    "blur, small ones give away. Images: the original above, what was recovered below."
)


def sections(audits: Mapping[str, Sequence[Audited]]) -> list[Section]:
    """Audits as parts of a page: for each row its attacks, and those on clients of a few examples.

    Args:
        audits: Of the runs of each row, by the row's label; of each one or more.
    """
    found = []
    for place, (title, several) in enumerate(audits.items()):
        whose = f": {title}" if len(audits) > 1 else ""
        said = " ".join(dict.fromkeys(str(one.made.get("replay", "")) for one in several))
        run = together([one.run for one in several])
        found.append(section(run, f"audit{place}", f"What was given away{whose}", f"{_EXPLANATION} {said}".strip()))
        if counts := sorted({count for one in several for count in one.small}):
            small = {count: together([one.small[count] for one in several if count in one.small]) for count in counts}
            found.append(small_section(small, f"small{place}", f"What a few examples would give away{whose}"))
    return found


def small_section(small: Mapping[int, Findings], name: str, heading: str) -> Section:
    """What was found on clients of a few examples: a table, and the recovered images for each number of examples.

    Args:
        small: By the number of each client's examples.
        name: Unique in the page.
        heading: Its title.
    """
    panels = []
    for count, findings in small.items():
        number = "one example" if count == 1 else f"{count} examples"
        panels += [(f"{title}, {number}", drawn) for title, drawn in _pictures(findings, f"{name}n{count}")]
    return Section(heading, _SMALL, (small_summary(small),), tuple(panels))


def section(
    findings: Findings, name: str = "audit", heading: str = "What was given away", explanation: str = _EXPLANATION
) -> Section:
    """An audit as a section: its table, success over the rounds by family, recovered images, ROC curves.

    Args:
        findings: Of an audit.
        name: Unique in the page, letters and digits: begins the ids of the figures.
        heading: Its title.
        explanation: What is shown.
    """
    kinds = dict.fromkeys((kind.family, kind.measure) for kind in ATTACKS.values())
    panels = [
        (f"{_begun(family)}: {measure}", figures.success_figure(f"{name}f{place}", family, measure, findings))
        for place, (family, measure) in enumerate(kinds)
    ]
    panels += _pictures(findings, name)
    for place, family in enumerate(dict.fromkeys(family for family, _ in kinds)):
        curves = [one for one in findings.curves if ATTACKS[one.attack].family == family]
        panels.append((f"{_begun(family)}: ROC", figures.roc_figure(f"{name}r{place}", family, curves)))
    return Section(heading, explanation, (summary(findings),), tuple(one for one in panels if one[1]))


def _pictures(findings: Findings, name: str) -> list[tuple[str, str]]:
    drawn = []
    for place, attack in enumerate(key for key, kind in ATTACKS.items() if kind.family == "inputs"):
        pictures = [one for one in findings.pictures if one.attack == attack]
        figure = figures.picture_figure(f"{name}p{place}", pictures, findings.value_range)
        drawn += [(_begun(ATTACKS[attack].title), figure)] if figure else []
    return drawn


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]
