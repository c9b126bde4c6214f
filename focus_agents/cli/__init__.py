"""The commands: `focus NAME` and `python experiments/NAME.py`. One file for each: arguments, checks, one call.

No work of its own belongs here; what a command does lies in the folder that it calls.
"""
