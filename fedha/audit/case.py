"""One release with everything that its attacks ask for, and what attacks answer with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedha.audit.attacker import Attacker
from fedha.audit.evidence import Evidence, collect
from fedha.audit.findings import Curve, Finding, NotRun, Picture
from fedha.audit.network import features_at
from fedha.audit.scores import Interval
from fedha.audit.sent import Sent
from fedha.audit.truth import Truth, truth_of
from fedha.data.domain import Domain
from fedha.data.examples import Examples

Outcome = Finding | NotRun | Picture | Curve
Outcomes = Iterator[Outcome]


@dataclass(frozen=True)
class Case:
    """A release under attack.

    Attributes:
        sent: The release.
        attacker: What is known beside it.
        evidence: What the closed forms read off it.
        truth: The examples behind it, or why they are not known.
        inverted: Whether the budget has an inversion for it.
    """

    sent: Sent
    attacker: Attacker
    evidence: Evidence
    truth: Truth | str
    inverted: bool

    def finding(
        self,
        attack: str,
        value: float | None,
        baseline: float | None = None,
        interval: Interval | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Finding:
        """A finding on this release."""
        sent = self.sent
        return Finding(attack, sent.round, sent.client, value, baseline, interval, sent.examples, detail or {})

    def not_run(self, attack: str, reason: str) -> NotRun:
        """Why an attack could not run on this release."""
        return NotRun(attack, self.sent.round, self.sent.client, reason)

    def features(self, examples: Examples) -> Tensor | None:
        """Features with the column of ones at the release's model, without a graph; None without the structure."""
        if self.attacker.model is None:
            return None
        return features_at(self.attacker.model, self.sent.parameters, examples)


def make_case(sent: Sent, attacker: Attacker, domains: Mapping[int, Domain] | None, inverted: bool) -> Case:
    """Read a release and look up what was behind it."""
    return Case(sent, attacker, collect(sent, attacker), truth_of(sent, domains), inverted)
