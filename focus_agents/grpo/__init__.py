"""Stage 2: GRPO. Pure formulas, and RLlib's classes around them."""
