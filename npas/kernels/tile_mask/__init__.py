"""Weights larger than their bank: the bank repeated, later tiles times learned masks."""
