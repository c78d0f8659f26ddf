"""Studies: many runs that differ on purpose, their audits, and what follows from both."""
