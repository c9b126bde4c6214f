"""The templates that are worded here.

The structure follows FOCUS (arXiv:2605.31145, sec. 5.1). A support's box is written just as the answer is, and is the
only bracketed group of numbers in its part of the text. Policies were trained on these words: none may change.
"""

from __future__ import annotations

from dataclasses import replace

from focus_env.answer_text import THOUGHT_CLOSE, THOUGHT_OPEN
from focus_env.boxes import CoordinateFrame
from focus_env.prompts.named import IPLocTemplate
from focus_env.prompts.template import PromptTemplate

DEFAULT = PromptTemplate(
    name="default",
    instruction=(
        "Below are {num_support} example image(s) and one final image. After each example image comes the "
        "bounding box of one particular object, the same object every time. Find that object in the final "
        "image. All boxes are [x_min, y_min, x_max, y_max] with {coordinates}. "
        "Reply with {answer_format} and nothing else."
    ),
    absent_text=" If the object is not in the final image, reply with {absent_answer}.",
    support_text="Example {index}: the object is at {box}.",
    query_text="Final image: where is the object?",
)
THINKING = replace(
    DEFAULT,
    name="thinking",
    instruction=(
        "Below are {num_support} example image(s) and one final image. After each example image comes the "
        "bounding box of one particular object, the same object every time. Find that object in the final "
        "image. All boxes are [x_min, y_min, x_max, y_max] with {coordinates}. "
        f"First think between {THOUGHT_OPEN} and {THOUGHT_CLOSE}, then reply with {{answer_format}} and nothing else."
    ),
    thinking=True,
)
COMPACT = PromptTemplate(
    name="compact",
    instruction="Find the object.",
    absent_text=" It may be absent.",
    support_text="{box}",
    query_text="Answer:",
)
QUESTIONS = PromptTemplate(
    name="questions",
    instruction="Find the object.",
    absent_text=" It may be absent.",
    support_text="What is at {box}? ",
    query_text="Where is it? Answer:",
    frame=CoordinateFrame.NORM_100,
)
IPLOC = IPLocTemplate(name="iploc", instruction="", support_text="{box}", query_text="")
"""IPLoc's turns and names, with our answer."""

HOUSE = (DEFAULT, COMPACT, QUESTIONS, IPLOC, THINKING)
