"""The parts of grpo_on_ray.py."""
