"""Templates of published policies, so that their weights are asked as they were trained.

Each names its source, and what of it is not printed there. Numbers are rounded to the nearest unit as everywhere here.
"""

from __future__ import annotations

from dataclasses import replace

from focus_env.answer_text import ANSWER_CLOSE, ANSWER_OPEN
from focus_env.boxes import CoordinateFrame
from focus_env.prompts.named import IPLocTemplate
from focus_env.prompts.template import PromptTemplate

FOCUS_PAPER = PromptTemplate(
    name="focus_paper",
    instruction=(
        "Locate the same object across the sequence of frames shown below. Your goal is to identify the target object "
        "consistently using the visual context provided.\n\n"
        "For the first T-1 frames, the bounding box of the object is already provided. Use this information and the "
        "visual context to predict where the same object appears in the final frame.\n\n"
        "Output the predicted bounding box for the last frame in the following format:\n{answer_format}"
    ),
    absent_text="\n\nIf the object is not in the last frame, output {absent_answer}.",
    support_text="{box}",
    query_text="",
    keeps_frame=True,
)
"""FOCUS as its paper prints it (arXiv:2605.31145, sec. 5.1 and eq. 4): this instruction, then pairs of image and box,
then the query image.

Not printed there: how a box stands beside its image, so that it stands alone here, and the line breaks. The thousandths
are those of its appendix A. The sentence for absent objects is ours.
"""

FOCUS_RELEASE = PromptTemplate(
    name="focus_release",
    instruction=(
        "Task: Track the same object across the sequence of frames below. Your goal is to follow the target object "
        "consistently throughout the sequence.\n\n"
        "For the first {num_support} frames, the bounding box of the object is already provided. Use this information "
        "and the visual context to predict where the same object appears in the final frame.\n\n"
        "Output the predicted bounding box for the last frame in the following format:\n{answer_format}\n\n"
        "Make sure your prediction accurately matches the same object described in the scene."
    ),
    absent_text="\n\nIf the object is not in the last frame, output {absent_answer}.",
    support_text="Frame {index}: The object is located at bounding box {box}",
    query_text="Frame {num_images}: Predict the bounding box for the object. Respond only with {answer_format}.",
    keeps_frame=True,
)
"""FOCUS as its released code trains and tests, the released adapter too (github.com/asad0938/focus, Apache-2.0,
train.py at 5d998d8). The paper's wording is another, `focus_paper`.

There coordinates are cut to whole thousandths, here rounded. The sentence for absent objects is ours.
"""

IPLOC_RELEASE = IPLocTemplate(
    name="iploc_release",
    instruction="",
    support_text="{box}",
    query_text="",
    support_box_text="[{x1!r}, {y1!r}, {x2!r}, {y2!r}]",
    box_text="({x1},{y1}),({x2},{y2})",
    keeps_frame=True,
    asks_by_category=True,
    answer_text="{box}",
    absent_answer_text="none",
)
"""IPLoc as its released code asks Qwen2-VL (github.com/SivanDoveh/IPLoc, Loc_Qwen2VL7B.py and utils_qwen.py at
27682bc). Boxes of supports are thousandths without rounding. The first form of an answer that IPLoc's parser looks for
is `(x1,y1),(x2,y2)`, as in the paper (arXiv:2411.13317, sec. 3.1). Evaluations name the object by its category, as in
IPLoc.

The training code of its weights is not published. `none` for absent objects is ours.
"""

_SAME_OBJECT = "{box}, Do all these boxes have the same object? "
IPLOC_ID = IPLocTemplate(
    name="iploc_id",
    instruction="",
    support_text="{box}",
    query_text="",
    support_box_text="[{x1!r}, {y1!r}, {x2!r}, {y2!r}]",
    box_text="[{x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f}]",
    answer_text=_SAME_OBJECT + "Yes.",
    absent_answer_text="Do all these boxes have the same object? No.",
    rejected_answer_text=_SAME_OBJECT + "No.",
    keeps_frame=True,
    asks_by_category=True,
)
"""IPLoc-ID (arXiv:2607.00357): IPLoc's turns (github.com/kensuke-nakamura/iplocid, vlm_build_messages.py at b1d9582),
and an answer of a box, a fixed question and Yes or No, in the words and decimals of the paper's table 1. Evaluations
name the object by its category.

There an absent object's answer holds the box of another one, which an episode here does not name: the answer that we
write has none, and both are read. The code that trained its weights is not published.
"""

_R1_5K = (
    "Please identify the target specified by the bounding box {box} in the first image and locate it in the second "
    "image. \n Return the coordinates in [x_min,y_min,x_max,y_max] format."
)
_R1_100K = (
    "Given two images, you need to:\n1. Analyze and Identify the target object marked by bounding box {box} in "
    "<image_1>;\n2. Re-locate this target in <image_2>;\n3. Return [x_min, y_min, x_max, y_max] coordinates of the "
    "target in <image_2>."
)
_R1_THINK = (
    "You FIRST think about the reasoning process as an internal monologue and then provide the final answer. \n The "
    "reasoning process MUST BE enclosed within <think> </think> tags. The final answer MUST BE put in <answer> "
    "</answer> tags. "
)
R1_TRACK = PromptTemplate(
    name="r1_track",
    instruction="",
    support_text=_R1_100K,
    query_text="",
    box_text="[{x1},{y1},{x2},{y2}]",
    layout="images_first",
    image_separator=" ",
    frame=CoordinateFrame.RESIZED_PIXEL,
    keeps_frame=True,
    answer_text="{box}",
    absent_answer_text="none",
)
"""R1-Track without thoughts, trained on its 100k pairs (github.com/Wangbiao2/R1-Track, MIT, README and
generation_data/gen_huggingface_data.py at f585b82): template image, search image, and one text that marks the
template's box; the answer is a bare list. Its base is Qwen2.5-VL, so that boxes are in pixels of the resized image.

It was trained on crops of 336 x 336 around the target, and on one template; for more supports its sentence is repeated.
`none` for absent objects is ours.
"""
R1_TRACK_5K = replace(R1_TRACK, name="r1_track_5k", support_text=_R1_5K, image_separator="")
"""The same in the words of its first 5k pairs (README there)."""
R1_TRACK_THINK = replace(
    R1_TRACK,
    name="r1_track_think",
    instruction=_R1_THINK,
    answer_text=ANSWER_OPEN + "{box}" + ANSWER_CLOSE,
    absent_answer_text=ANSWER_OPEN + "none" + ANSWER_CLOSE,
    thinking=True,
)
"""R1-Track with thoughts and then the list in `<answer>` tags."""
R1_TRACK_5K_THINK = replace(R1_TRACK_THINK, name="r1_track_5k_think", support_text=_R1_5K, image_separator="")
"""The same in the words of its first 5k pairs."""

PUBLISHED = (
    FOCUS_PAPER, FOCUS_RELEASE, IPLOC_RELEASE, IPLOC_ID, R1_TRACK, R1_TRACK_5K, R1_TRACK_THINK, R1_TRACK_5K_THINK,
)  # fmt: skip
