"""Downstream evaluation of a frozen encoder."""
