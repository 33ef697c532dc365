"""Weights larger than their bank: the bank resized bilinearly."""
