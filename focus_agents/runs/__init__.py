"""Files and displays of a training run: folder, checkpoints, metrics, schedule, interruption.

What is trained, and how, belongs in the stages.
"""
