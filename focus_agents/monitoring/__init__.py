"""Watch a run while it goes on: metrics, pictures, warnings and reports, on every place that shows them.

Nothing here decides what a run computes, and nothing here may end it.
"""
