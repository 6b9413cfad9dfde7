"""Search: what to propose, how to score it, and who won."""
