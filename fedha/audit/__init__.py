"""The instrument: attacks on what a run really sent, each with the guess that it has to beat."""

from fedha.audit.attacker import Attacker
from fedha.audit.audit import audit
from fedha.audit.findings import Findings
from fedha.audit.inversion import Inversion
from fedha.audit.sent import Sent, remainder

__all__ = ["Attacker", "Findings", "Inversion", "Sent", "audit", "remainder"]
