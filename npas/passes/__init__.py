"""The passes: analyses of a model and rewrites of its graph."""
