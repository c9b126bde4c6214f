"""Whatever answers prompts, by name. Training and scoring do not belong here."""
