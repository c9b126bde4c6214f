"""Templates of one's own: files, modules and fields, the ugly ones first; and that words travel with a description."""

from __future__ import annotations

import builtins
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from focus_env import ENV_ID
from focus_env.boxes import CoordinateFrame
from focus_env.errors import MissingDependencyError
from focus_env.prompts import (
    TEMPLATES,
    IPLocTemplate,
    PromptTemplate,
    describe_template,
    described_template,
    get_template,
    is_shipped,
    spelled_out,
    template_fields,
)
from tests.fakes import make_episode

MINE = """\
name: mine
instruction: "Find it.\\nAnswer {answer_format}."
support_text: |-
  {index}) <box>{box}</box>
query_text: ""
box_text: "({x1},{y1}),({x2},{y2})"
answer_text: "<box>{box}</box>"
absent_answer_text: nowhere
optional_tokens: ["<box>", "</box>"]
frame: norm_100
"""
EXPECTED = PromptTemplate(
    name="mine",
    instruction="Find it.\nAnswer {answer_format}.",
    support_text="{index}) <box>{box}</box>",
    query_text="",
    box_text="({x1},{y1}),({x2},{y2})",
    answer_text="<box>{box}</box>",
    absent_answer_text="nowhere",
    optional_tokens=("<box>", "</box>"),
    frame=CoordinateFrame.NORM_100,
    keeps_frame=True,
)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Write a file, and return its path."""

    def written(content: str | bytes, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / name)

    return written


BAD_YAML = [
    ("", "expected fields such as instruction, support_text and query_text by name"),
    ("a sentence", "expected fields such as instruction"),
    ("- instruction\n- query_text", "expected fields such as instruction"),
    ("1: 2", "expected fields such as instruction"),
    ("{{{", "expected fields such as instruction in YAML, got a fault in line 1, column 4: expected the node content"),
    ('base: default\ninstruction: "a', "got a fault in line 2, column 16: found unexpected end of stream, while"),
    ("a: b: c", "in YAML, got a fault in line 1, column 5: mapping values are not allowed here$"),
    ("a: \x00", "in YAML, got a fault in character 4: unacceptable character #x0000: special characters"),
    (b"\xff\xfe", "in YAML, got 'utf-8' codec can't decode"),
    ("[" * 5_000, "in YAML, got"),
    ("base: default\nbase: compact", "got the field 'base' twice"),
    ("base: default\ninstruction: {en: Find it.}", "got fields within a field"),
    ('!!python/object/apply:os.system ["true"]', "could not determine a constructor"),
    ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ninstruction: [*c, *c]", "unknown field 'a'"),
    ("base: sonnet", "base must be one of default, compact, .* got 'sonnet'"),
    ("base: [default]", r"base must be one of .* got \['default'\]"),
    ("base: default\ninstrution: Find it.", "unknown field 'instrution'; known are .*; did you mean instruction?"),
    ("base: default\nimage_to_input_wh: 3", "unknown field 'image_to_input_wh'"),
    ("base: default\nobject: mug", "unknown field 'object'"),
    ("instruction: Find it.\nquery_text: ''", "support_text is missing; give it, if empty, or a base"),
    ("base: default\ninstruction: 3", "instruction must be a text, got 3"),
    ("base: default\ninstruction:", "instruction must be a text, got None"),
    ("base: default\ninstruction: [a, b]", r"instruction must be a text, got \['a', 'b'\]"),
    ("base: default\nname: ' '", "name must be a text, got ' '"),
    ("base: default\nthinking: maybe", "thinking must be true or false, got 'maybe'"),
    ("base: default\nallow_absent: 1", "allow_absent must be true or false, got 1"),
    ("base: default\nframe: inches", "frame must be one of pixel, norm_1, .*, got 'inches'"),
    ("base: default\nlayout: rows", "layout must be one of interleaved, images_first, got 'rows'"),
    ("base: default\noptional_tokens: <box>", "optional_tokens must be a list of texts, got '<box>'"),
    ("base: iploc\nnames: real", "names must be one of category, pseudo, both, got 'real'"),
    ("base: default\nsupport_text: here", "support_text must hold {box} exactly once, got 'here'"),
    ("base: default\nsupport_text: '{box} {category}'", r"support_text may use the placeholders .* got \['category'\]"),
    ("base: default\nsupport_text: '{box'", "support_text: expected '}' before end of string; write a literal brace"),
    ("base: default\nsupport_text: '{box!r}'", "support_text: expected placeholders as they are, got the format"),
    ("base: default\nsupport_text: '{box:>9}'", "support_text: expected placeholders as they are, got the format"),
    ("base: default\nquery_text: '{num_support:x^y}'", "query_text: expected placeholders as they are, got .* 'x.y'"),
    ("base: default\ninstruction: '{num_support.real}'", "may use the placeholders"),
    ("base: default\ninstruction: '{num_support:>999999999}'", "instruction: expected placeholders as they"),
    ("base: default\ninstruction: '{num_support!r}'", "instruction: expected placeholders as they"),
    ("base: default\nanswer_text: none", "answer_text must hold {box} exactly once, got 'none'"),
    ("base: default\nabsent_answer_text: '{box}'", "absent_answer_text may use the placeholders"),
    ("base: default\nabsent_answer_text: ''", "must say that the object is not there, .* got '', which"),
    ("base: default\nabsent_answer_text: <answer> </answer>", "got '<answer> </answer>', which says nothing"),
    ("base: default\nabsent_answer_text: '<answer>[0, 0, 0, 0]</answer>'", "which is read as a box or as"),
    ("base: default\nabsent_answer_text: 'x1: 1, y1: 2, x2: 3, y2: 4'", "which is read as a box or as"),
    ("base: qwen2_5_vl\nabsent_answer_text: '[0,0,0,0]'", "which is read as a box or as"),
    ("base: thinking\nabsent_answer_text: (0, 0), (0, 0)", "which is read as a box or as"),
    ("base: default\nrejected_answer_text: '{box} {box}'", "rejected_answer_text must hold {box} at most once"),
    ("base: default\nbox_text: '[{x1}, {y1}, {x2}]'", "expected {x1}, {y1}, {x2} and {y2} once each"),
    ("base: default\nbox_text: '[{x1}, {x2}, {y1}, {y2}]'", "expected {x1}, {y1}, {x2} and {y2} once each"),
    ("base: default\nbox_text: '[{x}, {y}, {w}, {h}]'", "expected the placeholders x1, y1, x2 and y2"),
    ("base: default\nbox_text: '{x1}{y1}{x2}{y2}'", "expected something between the numbers"),
    ("base: default\nbox_text: '[{x1:.1f}, {y1}, {x2}, {y2}]'", "expected the same precision of all four numbers"),
    ("base: default\nbox_text: '[{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}]'", "placeholders .* got 'x1' with '.0f'"),
    ("base: default\nframe: norm_1\nbox_text: '{x1:03} {y1:03} {x2:03} {y2:03}'", "expected a unit of whole numbers"),
    ("base: paligemma\nframe: pixel", "expected the unit norm_1024"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD_YAML, ids=[ascii(row[0])[:50] for row in BAD_YAML])
def test_a_file_that_holds_no_template(write: Callable[..., str], content: str | bytes, message: str) -> None:
    path = write(content)
    with pytest.raises(ValueError, match=rf"^template {path}: .*{message.replace('{', chr(92) + '{')}"):
        get_template(path)


def test_a_small_file_that_grows_when_it_is_written_out(write: Callable[..., str]) -> None:
    rows = ["base: default", "name: &l0 [x]", *(f"instruction{n}: &l{n + 1} [*l{n}, *l{n}]" for n in range(60))]
    with pytest.raises(ValueError, match=r"must be a text|unknown field") as caught:
        get_template(write("\n".join(rows)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.json", "", "in JSON, got Expecting value"),
        ("mine.json", "[1]", "expected fields such as instruction, support_text"),
        ("mine.json", '{"base": "default", "base": "compact"}', "got the field 'base' twice"),
        ("mine.json", "[" * 100_000, "in JSON, got"),
        ("mine.toml", "instruction", "in TOML, got"),
        ("mine.toml", 'base = "default"\nbase = "compact"', "in TOML, got"),
        ("mine.toml", 'base = "default"\n[instruction]\nen = "a"', r"instruction must be a text, got \{'en': 'a'\}"),
        ("mine.yaml", b" " * 1_000_001, "expected a few sentences, got more than 1,000,000 bytes"),
    ],
)
def test_other_files_that_hold_none(write: Callable[..., str], name: str, content: str | bytes, message: str) -> None:
    path = write(content, name)
    with pytest.raises(ValueError, match=rf"^template {path}: .*{message}"):
        get_template(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.yaml", "missing.yaml: expected a file, got: No such file"),
        ("folder.yaml", "folder.yaml: expected a file, got: .*directory"),
        ("pipe.yaml", "pipe.yaml: expected a file, got: .* pipe"),
        ("mine.txt", "unknown prompt template '.*mine.txt'; known are default, .*, a file that ends with .yaml, .yml"),
        ("~no-such-user/mine.yaml", "~no-such-user/mine.yaml: expected a file, got"),
    ],
)
def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")
    Path("mine.txt").write_text(MINE)
    with pytest.raises(ValueError, match=message):
        get_template(name)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:MINE", "import path 'nowhere:MINE': importing 'nowhere' raised ModuleNotFoundError"),
        ("own_words:MIN", "has no 'MIN'; did you mean 'MINE'"),
        ("own_words:TEXT", "template own_words:TEXT: expected a PromptTemplate or a mapping of its fields, got str"),
        ("own_words:CODE", "template 'mine': expected a PromptTemplate or an IPLocTemplate, .* got a Code"),
        ("own_words:BAD", "template own_words:BAD: unknown field 'instructions'.* did you mean instruction"),
        ("own_words:", "import path 'own_words:': expected package.module:name"),
    ],
)
def test_a_module_without_a_template(own_words: None, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_template(path)


@pytest.fixture
def own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's."""
    (tmp_path / "own_words.py").write_text(
        "from focus_env import PromptTemplate\n"
        "FIELDS = dict(instruction='Look.', support_text='{box}', query_text='?')\n"
        "MINE = PromptTemplate(name='mine', **FIELDS)\n"
        "LIKE_DEFAULT = {'base': 'default', 'query_text': 'Well?'}\n"
        "BAD = {'instructions': 'Look.'}\n"
        "TEXT = 'Look.'\n"
        "class Code(PromptTemplate):\n"
        "    pass\n"
        "CODE = Code(name='mine', **FIELDS)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_modules_template(own_words: None) -> None:
    assert get_template("own_words:MINE").name == "mine"
    expected = dataclasses.replace(TEMPLATES["default"], name="LIKE_DEFAULT", query_text="Well?")
    assert get_template("own_words:LIKE_DEFAULT") == expected


def test_a_file_in_each_format(write: Callable[..., str]) -> None:
    fields = template_fields(EXPECTED)
    toml = "\n".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
    for path in (write(MINE), write(MINE, "a.yml"), write(json.dumps(fields), "a.json"), write(toml, "a.toml")):
        assert get_template(path) == EXPECTED
    assert get_template(write("\ufeff" + MINE, "bom.yaml")) == EXPECTED


def test_what_a_file_leaves_out(write: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("base: default\nquery_text: Where?", "short.yaml")
    write("base: default\nobject_name: mug", "named.yaml")
    write("base: iploc\nsupport_text: 'at {box}'", "turns.yaml")
    monkeypatch.chdir(tmp_path)
    short = get_template("short.yaml")
    assert short == dataclasses.replace(TEMPLATES["default"], name="short", query_text="Where?")
    assert not short.keeps_frame
    named, turns = get_template("named.yaml"), get_template("./turns.yaml")
    assert isinstance(named, IPLocTemplate)
    assert (named.object_name, named.names) == ("mug", "both")
    assert isinstance(turns, IPLocTemplate)
    assert turns.support_text == "at {box}"


def test_yaml_without_its_package(write: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_yaml(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    path, other = write(MINE), write(json.dumps(template_fields(EXPECTED)), "a.json")
    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(MissingDependencyError, match="needs PyYAML, which is not installed; run: pip install pyyaml"):
        get_template(path)
    assert get_template(other) == EXPECTED


def test_native_is_a_models() -> None:
    with pytest.raises(ValueError, match=r"template 'native': expected a model that is loaded here, .* qwen2_vl"):
        get_template("native")


@pytest.mark.parametrize("name", ["qwen2.5-vl", "qwen2-5-vl", "Default"])
def test_a_name_that_is_almost_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown prompt template '{name}'; .*; did you mean '(qwen2_5_vl|default)'"):
        get_template(name)


def test_an_environment_takes_any_of_them(write: Callable[..., str], own_words: None) -> None:
    for template in (write(MINE), "own_words:MINE", spelled_out(write(MINE)), "qwen3_vl"):
        assert template is not None
        env = gymnasium.make(ENV_ID, template=template, dataset_options={"num_episodes": 1})
        env.reset(seed=0)
        target = env.get_wrapper_attr("dataset")[0]
        own = env.get_wrapper_attr("template")
        right = own.answer(target.target_box, target.query_frame.image_wh)
        assert env.step(right)[1] == pytest.approx(1.5, abs=0.1)


def test_words_in_place_of_a_file(write: Callable[..., str]) -> None:
    path = write(MINE)
    text = spelled_out(path)
    assert text is not None
    write("base: default")
    assert get_template(text) == EXPECTED
    assert spelled_out(text) == text
    assert [spelled_out(name) for name in (None, "compact", "native")] == [None, "compact", "native"]
    with pytest.raises(ValueError, match=r"template \{.*: expected its fields in JSON, got"):
        get_template(text[:-1])


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=lambda template: template.name)
def test_a_template_of_this_package_is_described_by_its_name(template: PromptTemplate) -> None:
    described = json.loads(json.dumps(describe_template(template)))
    assert described == {"template": template.name, "frame": str(template.frame)}
    assert described_template(described) == template
    other = dataclasses.replace(template, allow_absent=True)
    described = json.loads(json.dumps(describe_template(other)))
    assert described_template(described) == other
    assert (is_shipped(template), is_shipped(other)) == (True, False)


def test_ones_own_is_described_by_its_words(own_words: None) -> None:
    described = json.loads(json.dumps(describe_template(EXPECTED)))
    assert described["template"] == "mine"
    assert described["fields"]["instruction"] == EXPECTED.instruction
    assert described_template(described) == EXPECTED
    assert not is_shipped(EXPECTED)


def test_a_description_runs_and_reads_nothing(write: Callable[..., str], own_words: None) -> None:
    for name in ("own_words:MINE", write(MINE), spelled_out(write(MINE))):
        with pytest.raises(ValueError, match="unknown prompt template"):
            described_template({"template": name})


def test_a_class_with_code_is_named_where_it_is_missing() -> None:
    class Own(PromptTemplate):
        pass

    described = describe_template(
        Own(**{field.name: getattr(EXPECTED, field.name) for field in dataclasses.fields(EXPECTED)})
    )
    assert "fields" not in described
    with pytest.raises(ValueError, match=r"unknown prompt template 'mine', of the class .*Own; known are"):
        described_template(described)


def test_a_right_answer_of_ones_own_form(write: Callable[..., str]) -> None:
    template, episode = get_template(write(MINE)), make_episode()
    assert episode.target_box is not None
    text = template.answer(episode.target_box, (80, 60))
    assert text == "<box>(25,17),(75,67)</box>"
    assert template.parse(text, (80, 60)).is_strict
    assert template.parse("(25, 17), (75, 67)", (80, 60)).is_strict
    assert template.parse("nowhere", (80, 60)).status == "absent"
    assert not template.parse("<answer>[25, 17, 75, 67]</answer>", (80, 60)).is_strict
