"""A linear layer whose weight is generated where it is multiplied, and never written."""
