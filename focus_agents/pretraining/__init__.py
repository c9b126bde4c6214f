"""Pretraining of the small base model: single objects are named and found by name, never matched across pictures."""
