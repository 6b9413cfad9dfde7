"""Recorded corpora by name: what they come in, how that is fetched and read, and which split a recording is in."""
