"""Fit pretrained weights by alternating least squares."""
