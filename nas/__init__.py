"""Search: what to propose, how to score it, who won, and the report that says so."""
