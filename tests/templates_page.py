"""The page of templates, out of the templates themselves.

`python -m tests.templates_page` writes docs/templates.md.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import re
import textwrap
from pathlib import Path
from types import ModuleType

from focus_env.boxes import CoordinateFrame
from focus_env.env import observe
from focus_env.prompts import TEMPLATES, PromptTemplate, house, native, published
from focus_env.types import Box, ImagePart
from tests.fakes import make_episode
from tests.places import ROOT

TARGET, QUERY_WH = Box(64, 32, 320, 200), (640, 400)
RESIZED_WH = {(40, 32): (56, 28), (48, 32): (56, 28), QUERY_WH: (644, 392)}
"""As Qwen2.5-VL sees pictures of these sizes."""

HEAD = """\
# Templates: the words and the unit that a model is asked in

Made from the templates in [`focus_env/prompts/`](../focus_env/prompts): `python -m tests.templates_page` writes this
page, and a test compares them.

`--template NAME` chooses the words of every command, `load_template(model, name=NAME)` and
`gymnasium.make(ENV_ID, template=NAME)` do in Python. Without it a model is asked in the words that it was trained on.
A model that does not tell them, such as one of the hub, is asked in full sentences (`default`).

| `--template` | asks |
| --- | --- |
| nothing | as the model was trained here, else `default` |
| `native` | in the form in which the model's family writes boxes, so that its untrained row is fair |
| a name of this page | as is shown here |
| `mine.yaml`, `.json`, `.toml` | in your own words, see below |
| `package.module:NAME` | likewise, a `PromptTemplate` or a mapping of its fields |

**Unit.** `--frame` chooses the unit of the numbers, each of `pixel`, `norm_1`, `norm_100`, `norm_1000`, `norm_1024` and
`resized_pixel`, in every command. Without it the template's own unit counts if it has one (published and native
templates, and files with a `frame`), else that which the model was trained in, else its family's. `resized_pixel` is
the picture after resizing, so it depends on `--max-image-tokens`; an endpoint (`openai_api`) does not say how it
resizes, and is refused in it. A box that is written and read again is off by half a unit at most, or by a whole
unit where it is thinner than that.

**Answers.** The right answer of a template is its strict format, and the format reward pays for it: blanks may differ,
a label may be any, and special tokens may be missing, since decoding leaves them out. Every other text is read as
[answers.md](answers.md) says, whatever the template; where one writes y first, so are its numbers read. Answers in JSON
are longer than others: `--max-completion-tokens 64` leaves room. `--constrained` works with answers in `<answer>`
tags only.

## Your own

```yaml
name: mine                     # default: the file's name
base: default                  # whose fields stand where none are given here; default: nobody's
instruction: "Find the object of the {num_support} examples. Answer with {answer_format}."
support_text: "Example {index}: {box}."
query_text: "Where is it?"
box_text: "({x1},{y1}),({x2},{y2})"
answer_text: "<box>{box}</box>"
absent_answer_text: "none"
frame: norm_1000               # default: the model's own unit
```

| field | holds | may use |
| --- | --- | --- |
| `instruction` | the opening | `{num_support}`, `{num_images}`, `{coordinates}` (the unit in words), `{answer_format}` |
| `support_text` | what follows a support's picture | `{box}` once, `{index}` |
| `query_text` | what follows the query's picture | `{num_support}`, `{num_images}`, `{answer_format}` |
| `absent_text`, `allow_absent` | what the opening adds for absent objects, and whether it does | `{absent_answer}` |
| `box_text` | how a box is written | `{x1}`, `{y1}`, `{x2}`, `{y2}`, x or y first; `{x1:.2f}`, `{x1:04}`, `{x1!r}` (not rounded) |
| `support_box_text` | the same of supports, where it differs | likewise |
| `answer_text` | the right answer | `{box}` once, `{label}` (any text) |
| `absent_answer_text`, `rejected_answer_text` | answers for an absent object: the first a text that is not empty and not read as a box, the second with a box that does not count | `{label}`; `{box}` |
| `optional_tokens` | special tokens that decoding leaves out | |
| `layout`, `image_separator` | `interleaved`, or `images_first` with a text between pictures | |
| `thinking` | `true`: thoughts come first | |
| `frame`, `keeps_frame` | the unit, and whether a model's own does not stand in for it | |
| `names`, `object_name`, `asks_by_category` | for templates that name the object, as IPLoc's do: how training calls it, how it is called where nothing is known, and whether evaluations tell its category | |

A literal brace is written twice. A template is refused, by the field, if a right answer of it is read as something
else: in `{label} {box}` with bare numbers, the label may take digits of the first. A policy that was trained in your
words has them in its `focus.json`, and is asked in them wherever it is loaded; a run that is gone on with has them,
too. Nothing is read or imported from there.

"""

EXAMPLE = """\
In these examples two supports of 40 x 32 and 48 x 32 pixels have the boxes [4, 6, 20, 22] and [4, 6, 20, 23], and the
query of 640 x 400 has the object at [64, 32, 320, 200]. `(user)` opens a turn, `<image>` is a picture. Each part of a
turn begins a line here, and long ones are broken; what is sent has no break there. Below each prompt stand the right
answer and the one for an absent object.
"""

SECTIONS: tuple[tuple[str, ModuleType, str], ...] = (
    ("Of this package", house, "Policies that come with the package were trained on `questions`."),
    ("Of published policies", published, "Published weights are asked as they were trained."),
    ("Of families of models", native, "`--template native` finds the one of the model."),
)
HOUSE_NOTES = {
    "default": "Full sentences, for pretrained models.",
    "compact": "Very few words, for small models that learn the format from answers.",
    "questions": "The words in which the small base model was taught single objects.",
    "iploc": "IPLoc's turns and names with our answer, to train in. The name is the episode's.",
    "thinking": "Full sentences, thoughts first; raise the limit of tokens.",
}


def page() -> str:
    """The text of docs/templates.md."""
    parts = [HEAD + EXAMPLE]
    for title, module, note in SECTIONS:
        parts += [f"\n## {title}\n\n{note}\n"]
        notes = HOUSE_NOTES if module is house else notes_of(module)
        parts += [_entry(TEMPLATES[name], notes[name]) for name in notes]
    return "".join(parts)


def notes_of(module: ModuleType) -> dict[str, str]:
    """What stands below each template in a module, by the template's name."""
    assert module.__file__ is not None
    body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    found = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(following, ast.Expr):
            (target,) = statement.targets
            value = following.value
            if isinstance(target, ast.Name) and target.id.lower() in TEMPLATES and isinstance(value, ast.Constant):
                found[target.id.lower()] = " ".join(str(value.value).split())
    return found


def _entry(template: PromptTemplate, note: str) -> str:
    if template.frame is CoordinateFrame.RESIZED_PIXEL:
        template = dataclasses.replace(template, image_to_input_wh=RESIZED_WH.__getitem__)
    episode = make_episode(shots=2, query_wh=QUERY_WH, target_box=TARGET)
    turns = []
    for message in template.render(observe(episode)):
        turns.append(f"({message.role})")
        for part in message.content:
            turns += ["<image>"] if isinstance(part, ImagePart) else [_wrapped(line) for line in part.text.split("\n")]
    unit = f"`{template.frame}`" + ("" if template.keeps_frame else ", or the model's own")
    texts = ["\n".join(turns), template.answer(TARGET, QUERY_WH), template.answer(None, QUERY_WH)]
    # Answers hold fences of backticks.
    blocks = "\n".join(f"~~~~text\n{re.sub(' +$', '', text, flags=re.MULTILINE).rstrip()}\n~~~~" for text in texts)
    note = textwrap.fill(f"{note} Unit: {unit}.", 120, break_long_words=False, break_on_hyphens=False)
    return f"\n### `{template.name}`\n\n{note}\n\n{blocks}\n"


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 110, break_long_words=False, break_on_hyphens=False) if len(line) > 110 else line


if __name__ == "__main__":
    (ROOT / "docs" / "templates.md").write_text(page())
