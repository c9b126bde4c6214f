"""Templates that write boxes and answers as a family of models was trained to, so that its untrained row is fair.

The form of a box is the family's; the sentences around it are ours, close to those of its sources, since no family
publishes a prompt for this task. A family's record in `focus_agents.models` names its template, and the template
"native" asks for it. None says how an object is called that is not there: those answers are ours, in the family's form.
"""

from __future__ import annotations

from dataclasses import replace

from focus_env.boxes import CoordinateFrame
from focus_env.prompts.template import PromptTemplate

NATIVE_NAME = "native"
"""Asks for the template of the model's family."""

_EXAMPLES = (
    "Below are {num_support} example image(s) and one final image. After each example image comes the bounding box of "
    "one particular object, the same object every time. "
)
_JSON = '```json\n[\n\t{{"bbox_2d": {box}, "label": "{label}"}}\n]\n```'
_REGION = "Please provide the bounding box coordinate of the region this sentence describes: "
_ABSENT = " If it is not in the final image, reply with {absent_answer}."

QWEN2_VL = PromptTemplate(
    name="qwen2_vl",
    instruction=_EXAMPLES + "Find that object in the final image.",
    absent_text=_ABSENT,
    support_text="<|object_ref_start|>the object<|object_ref_end|><|box_start|>{box}<|box_end|>",
    query_text="Detect the bounding box of <|object_ref_start|>the object<|object_ref_end|>.",
    box_text="({x1},{y1}),({x2},{y2})",
    answer_text="<|box_start|>{box}<|box_end|>",
    absent_answer_text="none",
    optional_tokens=("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    keeps_frame=True,
)
"""Qwen2-VL (arXiv:2409.12191, sec. 2.2, data format): two corners in thousandths between box tokens."""

QWEN2_5_VL = PromptTemplate(
    name="qwen2_5_vl",
    instruction=_EXAMPLES + "Find that object in the final image.",
    absent_text=_ABSENT.replace("{absent_answer}", "an empty list, {absent_answer}"),
    support_text='{{"bbox_2d": {box}, "label": "object"}}',
    query_text="Locate the object in this final image, output its bbox coordinates using JSON format.",
    answer_text=_JSON,
    absent_answer_text="```json\n[]\n```",
    frame=CoordinateFrame.RESIZED_PIXEL,
    keeps_frame=True,
)
"""Qwen2.5-VL (arXiv:2502.13923; question of its cookbook spatial_understanding.ipynb, github.com/QwenLM/Qwen3-VL): JSON
with `bbox_2d` in pixels of the resized picture."""

QWEN3_VL = replace(
    QWEN2_5_VL,
    name="qwen3_vl",
    query_text="Locate the object in this final image. Report bbox coordinates in JSON format.",
    frame=CoordinateFrame.NORM_1000,
)
"""Qwen3-VL (cookbook 2d_grounding.ipynb in github.com/QwenLM/Qwen3-VL): the same JSON in thousandths."""

INTERNVL = PromptTemplate(
    name="internvl",
    instruction=_EXAMPLES + "Find that object in the final image.",
    absent_text=_ABSENT,
    support_text="<ref>the object</ref><box>[{box}]</box>",
    query_text=_REGION + "<ref>the object</ref>",
    answer_text="<ref>the object</ref><box>[{box}]</box>",
    absent_answer_text="none",
    optional_tokens=("<ref>", "</ref>", "<box>", "</box>"),
    keeps_frame=True,
)
"""InternVL 1.5 to 3.5 (internvl.readthedocs.io, chat data format, grounding; the question of
internvl_chat/eval/refcoco in github.com/OpenGVLab/InternVL): a list of boxes in thousandths between box tags."""

LLAVA_ONEVISION = PromptTemplate(
    name="llava_onevision",
    instruction=_EXAMPLES + "Find that object in the final image.",
    absent_text=_ABSENT,
    support_text="the object: {box}",
    query_text=_REGION + "the object",
    box_text="[{x1:.2f}, {y1:.2f}, {x2:.2f}, {y2:.2f}]",
    answer_text="{box}",
    absent_answer_text="none",
    frame=CoordinateFrame.NORM_1,
    keeps_frame=True,
)
"""LLaVA-OneVision (arXiv:2408.03326) by the grounding data of LLaVA-1.5 (arXiv:2310.03744, table of response formats;
two decimals as in llava_v1_5_mix665k): shares of the sides.

In that data shares are of the picture padded to a square (github.com/haotian-liu/LLaVA, issue 606); which OneVision
learned with its tiles is not published, and here they are of the picture itself.
"""

GLM4V = PromptTemplate(
    name="glm4v",
    instruction=_EXAMPLES + "Find that object in the final image. Boxes are [[x1,y1,x2,y2]] in thousandths.",
    absent_text=_ABSENT,
    support_text="The object is at [{box}].",
    query_text="Please provide the bounding box of the object in this final image, in the format [[x1,y1,x2,y2]].",
    box_text="[{x1},{y1},{x2},{y2}]",
    answer_text="<|begin_of_box|>[{box}]<|end_of_box|>",
    absent_answer_text="<|begin_of_box|>none<|end_of_box|>",
    optional_tokens=("<|begin_of_box|>", "<|end_of_box|>"),
    keeps_frame=True,
)
"""GLM-4.1V, 4.5V and 4.6V (README of github.com/zai-org/GLM-V and its issue 114): thousandths between box tokens.
Models that think do so before it, which is read and not strict."""

GEMMA3 = PromptTemplate(
    name="gemma3",
    instruction=(
        _EXAMPLES + "Find that object in the final image. "
        "Each box_2d is [y_min, x_min, y_max, x_max], normalized to 0-1000."
    ),
    absent_text=_ABSENT,
    support_text='{{"box_2d": {box}, "label": "object"}}',
    query_text="Detect the object in this final image. Output its box_2d and label in JSON format.",
    box_text="[{y1}, {x1}, {y2}, {x2}]",
    answer_text='```json\n[\n  {{"box_2d": {box}, "label": "{label}"}}\n]\n```',
    absent_answer_text="```json\n[]\n```",
    keeps_frame=True,
)
"""Gemma 3: no source says that it was trained on boxes. Its makers point to Gemini's form, y first in thousandths
(huggingface.co/google/gemma-3-4b-it, discussion 38), which this is."""

PALIGEMMA = PromptTemplate(
    name="paligemma",
    instruction="",
    support_text="image {index}: {box} object ; ",
    query_text="detect object\n",
    box_text="<loc{y1:04}><loc{x1:04}><loc{y2:04}><loc{x2:04}>",
    answer_text="{box} {label}",
    absent_answer_text="none",
    layout="images_first",
    frame=CoordinateFrame.NORM_1024,
    keeps_frame=True,
)
"""PaliGemma 1 and 2 (arXiv:2407.07726; ai.google.dev/gemma/docs/paligemma, prompt syntax): images first, then
`detect object`; four location tokens of 1024, y first. It was trained on single images: the examples' boxes before the
question are ours."""

NATIVE = (QWEN2_VL, QWEN2_5_VL, QWEN3_VL, INTERNVL, LLAVA_ONEVISION, GLM4V, GEMMA3, PALIGEMMA)
