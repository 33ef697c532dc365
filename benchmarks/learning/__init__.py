"""What networks learn within a budget: experiments as data, a row a training run, paired by seed.

``python -m benchmarks.learning list | run | report``; see `benchmarks.learning.__main__`.
"""
