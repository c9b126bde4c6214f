"""The parts of growth.py."""
