"""Weights as sums of templates times coefficients."""
