"""Nestling: one speech supernet, encoders of any size."""
