"""Models behind an OpenAI-compatible endpoint: the policy, its requests, and a cache of answers."""
