"""Server rules: what a server keeps, sends along, and makes of the clients' answers. A new one is a file, or yours.

`rule` has the value and what its functions are given, `table` the rules that a config can name; `found` finds those of
a run, `applied` applies them. All others are rules.
"""

from fedha.rules.rule import Answers, Cohort, Rule, Step, Work, mean_step

__all__ = ["Answers", "Cohort", "Rule", "Step", "Work", "mean_step"]
