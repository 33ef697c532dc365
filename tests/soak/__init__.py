"""Long runs that look for failures: mutated files, random plans, random compiles.

``python -m tests.soak`` (``make soak``) is resumable; what it finds becomes a regression test.
"""
