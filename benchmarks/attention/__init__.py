"""The parts of attention_loss.py."""
