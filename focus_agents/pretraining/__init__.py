"""Before stage 1: the small base model, which names single objects and finds them by name."""
