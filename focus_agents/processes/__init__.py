"""A run's processes on Ray: what they are called, where they listen, how large they are, and what is said of them.

Shared by both stages and the commands, and about no training in particular.
"""
