"""The parts of on_gpu.py."""
