"""Group-relative policy optimization on RLlib."""
