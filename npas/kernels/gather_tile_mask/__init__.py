"""Rows of a weight larger than its bank."""
