"""Which reward trains best: the same start, the same budget, one run for each reward and seed."""
