"""Episodes in, scored groups of answers out: the records, and the one function that collects them.

No learning and no Ray.
"""
