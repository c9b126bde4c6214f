"""From answers to rewards: answers as arrays, terms as pure functions of them, weighted sums of terms.

Reading a text belongs in `parsing`, metrics of an evaluation in `metrics`.
"""
