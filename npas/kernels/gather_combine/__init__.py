"""Rows of a weight that is a sum of templates times coefficients."""
