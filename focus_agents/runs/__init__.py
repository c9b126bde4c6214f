"""What a training run leaves on disk and shows meanwhile: folder, checkpoints, metrics, schedule, interruption.

What is trained, and how, belongs in the stages.
"""
