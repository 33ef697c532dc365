"""Measurements of npas and the networks they are taken on. Not part of the installed package."""
