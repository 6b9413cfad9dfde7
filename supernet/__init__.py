"""The network: one set of weights that computes any subnet of a space."""
