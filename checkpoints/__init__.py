"""Teachers in, run state, exports out."""
