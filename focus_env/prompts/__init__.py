"""Templates, which turn an observation into a prompt of messages, and read the answers.

    template = get_template("default")              by name, or a file or `module:NAME` of one's own
    messages = template.render(observation)
    result = template.parse(text, image_wh)         strict format, and what else can be read; see `focus_env.parsing`

A template is data: `template.py`. Those of this package are worded in `house.py`, quoted from others in `published.py`,
and in the form of families of models in `native.py`.
"""

from focus_env.prompts.lookup import (
    TEMPLATES,
    allowing_absent,
    describe_template,
    described_template,
    get_template,
    is_shipped,
    spelled_out,
)
from focus_env.prompts.named import PSEUDO_NAMES, IPLocTemplate
from focus_env.prompts.native import NATIVE_NAME
from focus_env.prompts.own import template_fields
from focus_env.prompts.template import PromptTemplate, read_observation

__all__ = [
    "NATIVE_NAME",
    "PSEUDO_NAMES",
    "TEMPLATES",
    "IPLocTemplate",
    "PromptTemplate",
    "allowing_absent",
    "describe_template",
    "described_template",
    "get_template",
    "is_shipped",
    "read_observation",
    "spelled_out",
    "template_fields",
]
