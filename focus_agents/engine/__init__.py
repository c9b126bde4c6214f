"""Running a model: forward passes over prompts, sampling, scoring answers, decoding under a grammar.

What a model is belongs in `models`; who asks for answers, and why, in `policies` and the stages.
"""
