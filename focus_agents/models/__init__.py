"""Models: families, loading, adapters, prompts as tokens and pixels, attention.

How a model is run (prefill, sampling, scoring) belongs in `engine`.
"""
