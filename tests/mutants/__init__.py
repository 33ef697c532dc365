"""Small wrong changes of the planner, one at a time: does a test notice each of them?

``python -m tests.mutants`` (``make mutants``) is resumable; what no test notices becomes a test, or
is explained in ``tests/mutants/explained.json``.

mutmut 3.8 runs here, but changes neither properties nor constants of a module, in which this code
has what a bank costs and holds, and collects the tests anew for each mutant. cosmic-ray starts
Python for each, which takes 4 seconds before the first test. So a process that has the tests
imported is forked here, and a mutant's code is put into the functions that the tests hold.
"""
