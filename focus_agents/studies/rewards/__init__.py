"""Rewards compared by what they train: one run of GRPO for each reward and seed."""
