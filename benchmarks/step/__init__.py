"""The parts of grpo_step.py."""
