"""The report's part on diagnoses, as data for the page's template."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedha.report.diagnosis import figures
from fedha.report.diagnosis.recipes import curves, curves_figures, curves_table
from fedha.report.diagnosis.tables import tables
from fedha.report.section import Section

_EXPLANATION = (
    "How the domains look to the learned head. Measured: the worst head that an attack found near it, so at least that "
    "much; bound: no head of the ball is worse."
)


def sections(diagnoses: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Section]:
    """Diagnoses as parts of a page.

    Args:
        diagnoses: Of the runs of each row, by the row's label; of each one or more.
    """
    found = _together([one for several in diagnoses.values() for one in several])
    for place, (title, several) in enumerate(diagnoses.items()):
        for number, one in enumerate(several):
            whose = f": {title}" if len(diagnoses) > 1 else ""
            seed = f", seed {one['made']['seed']}" if len(several) > 1 else ""
            notes = " ".join(one["made"].get("notes", []))
            panels = tuple(figures.panels(f"d{place}x{number}", one))
            rule = f" by {one['made']['rule']}" if one["made"].get("rule") else ""
            heading = f"Diagnosis{whose}{seed}, round {one['made']['round']}{rule}"
            found.append(Section(heading, f"{_EXPLANATION} {notes}".strip(), tuple(tables(one)), panels))
    return found


def _together(every: Sequence[Mapping[str, Any]]) -> list[Section]:
    """All recipes in one figure, where there are several."""
    known = curves(every)
    if known is None:
        return []
    text = "How far a target falls at heads near the learned ones, and whether the sources notice. Means over runs."
    return [Section("Transferability", text, (curves_table(known),), tuple(curves_figures("together", known)))]
