"""What networks learn at a budget, on real data, with statistics: the paper's tables and more."""
