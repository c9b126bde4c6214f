"""Score how sure a policy is of an answer, from 0 to 1.

A model writes a box token by token, and each token has a probability. A number's is the product over its
tokens. The score of a box is the geometric mean of its four numbers' probabilities, times the probabilities of all
other tokens of the answer, among them the one by which the model says that there is a box at all. Of "not there" it is
the product over all tokens. A localizer may give a score of its own (`LocalizerPolicy`). Others have none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from focus_agents.rollout.records import Completion

NUM_COORDINATES = 4
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def completion_score(
    completion: Completion, *, has_box: bool, decode: Callable[[list[int]], str] | None
) -> float | None:
    """Return how sure a policy is of an answer, see the module; None: it does not say.

    Args:
        completion: The answer.
        has_box: Whether it is a box.
        decode: Gives the text of one token, `decode([token])`; None: the policy does not speak in tokens.
    """
    if completion.score is not None or decode is None or not len(completion.logprobs):
        return completion.score
    texts = [decode([token]) for token in completion.token_ids.tolist()]
    return answer_score(texts, completion.logprobs.tolist(), has_box=has_box)


def answer_score(texts: Sequence[str], logprobs: Sequence[float], *, has_box: bool) -> float:
    """Return how sure a model is of an answer, from 0 to 1; see the module.

    Args:
        texts: Of the answer's tokens, the end token included.
        logprobs: Of the tokens, under the distribution that they were drawn from.
        has_box: Whether the answer is a box: then its last four numbers are.

    >>> round(answer_score(["[", "1", "2", ", 7, ", "3", "]"], [-0.1] * 6, has_box=False), 3)
    0.549
    """
    spans = [found.span() for found in _NUMBER.finditer("".join(texts))]
    spans = spans[-NUM_COORDINATES:] if has_box else []
    total, start = 0.0, 0
    for text, logprob in zip(texts, logprobs, strict=True):
        stop = start + len(text)
        is_number = any(start < last and first < stop for first, last in spans)
        total += logprob / NUM_COORDINATES if is_number else logprob
        start = stop
    return math.exp(min(0.0, total))
