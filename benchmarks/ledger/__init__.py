"""The cost ledger: parameters, multiply-accumulates, memory and time, beside the peers'."""
