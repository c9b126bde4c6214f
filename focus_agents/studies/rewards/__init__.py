"""Rewards compared by the policies that they train: one run of GRPO for each reward and seed."""
