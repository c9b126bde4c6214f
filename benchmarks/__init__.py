"""Ours against a plain way of doing the same, side by side in one run.

Each file is a command, but for `measuring.py`; each folder has the parts of one.
"""
