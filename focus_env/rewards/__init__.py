"""From answers to rewards: answers as arrays, terms as functions of them, weighted sums of terms, scores of a group.

Reading a text belongs in `parsing`, metrics of an evaluation in `metrics`.
"""
