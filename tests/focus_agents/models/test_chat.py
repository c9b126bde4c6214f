"""Chat templates: system turns, thoughts, and the token that ends an answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, AutoTokenizer

from focus_agents.errors import CheckpointError
from focus_agents.models.chat import as_text, end_token_id, prompt_text
from focus_agents.models.loading import load_model, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.runs.checkpoint import save_policy

TURNS = (
    "{% for m in messages %}{{ OPEN + m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|image_pad|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ END }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ OPEN }}assistant\n{% endif %}"
)
QUESTION = [{"role": "user", "content": [{"type": "image"}, as_text("Where?")]}]
SYSTEM = [{"role": "system", "content": [as_text("Be brief.")]}]


@pytest.fixture
def tokenizer(processor: VLMProcessor) -> Any:
    return copy.deepcopy(processor.tokenizer)


def use(tokenizer: Any, start: str, end: str, template: str = TURNS) -> None:
    """A template whose turns stand between two tokens of their own."""
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in (start, end) if token]})
    tokenizer.chat_template = template.replace("OPEN", repr(start)).replace("END", repr(end))


@pytest.mark.parametrize(
    ("start", "end"),
    [("<start_of_turn>", "<end_of_turn>"), ("<|user|>", "<|end|>"), ("<|im_start|>", "<|im_end|>"), ("", "<|eot_id|>")],
)
def test_the_end_token_is_the_templates(start: str, end: str, tokenizer: Any, processor: VLMProcessor) -> None:
    use(tokenizer, start, end)
    token_id = tokenizer.convert_tokens_to_ids(end)
    assert end_token_id(tokenizer) == token_id
    own = VLMProcessor(tokenizer, processor.image_processor, processor.family)
    assert own.encode_answer("[1, 2]")[-1] == token_id
    assert own.decode(own.encode_answer("[1, 2]")) == "[1, 2]"


def test_an_end_of_turn_that_is_not_marked_as_special(tokenizer: Any, processor: VLMProcessor, tmp_path: Path) -> None:
    """And a token of blanks behind it; decoding leaves the end out, also from a saved tokenizer."""
    use(tokenizer, "<|im_start|>", "")
    tokenizer.add_tokens([AddedToken(token, special=False) for token in ("<|the_end|>", "\n\n\n")])
    tokenizer.chat_template = TURNS.replace("OPEN", "'<|im_start|>'").replace("END", "'\n\n\n<|the_end|>'")
    token_id = tokenizer.convert_tokens_to_ids("<|the_end|>")
    assert end_token_id(tokenizer) == token_id
    own = VLMProcessor(tokenizer, processor.image_processor, processor.family)
    assert own.encode_answer("[1, 2]")[-1] == token_id
    assert own.decode(own.encode_answer("[1, 2]")) == "[1, 2]"
    assert tokenizer("a<|the_end|>b")["input_ids"].count(token_id) == 1
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.decode([token_id], skip_special_tokens=True) == ""
    assert end_token_id(again) == token_id


def test_special_tokens_that_are_cut_into_pieces(tokenizer: Any, processor: VLMProcessor, tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "model", load_model("tiny"), processor)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"split_special_tokens": True}))
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: split_special_tokens must be false, got true"):
        load_processor(str(folder))


def test_without_one_it_is_what_begins_the_next_turn(tokenizer: Any) -> None:
    """As GLM's models end their answers."""
    use(tokenizer, "<|user|>", "", TURNS.replace("{{ END }}", ""))
    assert end_token_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|user|>") != tokenizer.eos_token_id


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ raise_exception('no') }}",
        "no words",
        TURNS.replace("{{ END }}", ""),
    ],
)
def test_without_one_it_is_the_end_of_text(template: str | None, tokenizer: Any) -> None:
    use(tokenizer, "", "", template or "")
    tokenizer.chat_template = template and tokenizer.chat_template
    assert end_token_id(tokenizer) == tokenizer.eos_token_id


def test_a_tokenizer_without_an_end(tokenizer: Any, tmp_path: Path, processor: VLMProcessor) -> None:
    """The one at which the model's own generation ends stands in."""
    folder = save_policy(tmp_path / "model", load_model("tiny"), processor)
    tokenizer.eos_token, tokenizer.chat_template = None, "no words"
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="tokenizer: expected a token that ends an answer"):
        load_processor(str(folder))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [processor.pad_token_id, 3]}))
    assert load_processor(str(folder)).eos_token_id == processor.pad_token_id


def test_a_template_that_takes_texts_only(tokenizer: Any) -> None:
    use(tokenizer, "<|user|>", "<|end|>", "{% for m in messages %}{{ OPEN + m['content'] + END }}{% endfor %}")
    assert end_token_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|end|>")


def test_that_of_the_package_is_what_it_was(processor: VLMProcessor) -> None:
    assert processor.eos_token_id == processor.tokenizer.eos_token_id


THINKS = TURNS.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
MAY_THINK = TURNS.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% else %}<think>\n{% endif %}{% endif %}",
)


@pytest.mark.parametrize("template", [THINKS, MAY_THINK])
def test_an_answer_begins_outside_of_thoughts(template: str, tokenizer: Any) -> None:
    use(tokenizer, "<|im_start|>", "<|im_end|>", template)
    text = prompt_text(tokenizer, QUESTION)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert text.count("<think>") == text.count("</think>") == 1


def test_a_system_turn_that_the_template_takes(tokenizer: Any) -> None:
    use(tokenizer, "<|im_start|>", "<|im_end|>")
    assert prompt_text(tokenizer, [*SYSTEM, *QUESTION]).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")


def test_and_one_that_it_does_not_take(tokenizer: Any) -> None:
    refuses = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    use(tokenizer, "<start_of_turn>", "<end_of_turn>", refuses + TURNS)
    text = prompt_text(tokenizer, [*SYSTEM, *QUESTION])
    assert text.startswith("<start_of_turn>user\nBe brief.<|image_pad|>Where?<end_of_turn>")


def no_template(tokenizer: Any) -> None:
    tokenizer.chat_template = None


def without_pictures(tokenizer: Any) -> None:
    use(tokenizer, "", "", TURNS.replace("<|image_pad|>", ""))


def with_two_for_each(tokenizer: Any) -> None:
    use(tokenizer, "", "", TURNS.replace("<|image_pad|>", "<|image_pad|><|image_pad|>"))


def with_other_words(tokenizer: Any) -> None:
    use(tokenizer, "", "", TURNS.replace("c['text']", "c['text'].upper()"))


def of_texts(tokenizer: Any) -> None:
    use(tokenizer, "", "", "{% for m in messages %}{{ raise_exception('texts only') }}{% endfor %}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_template, "chat template: expected one in tokenizer_config.json, .*, got none"),
        (without_pictures, r"chat template: expected <\|image_pad\|> once for a picture"),
        (with_two_for_each, r"chat template: expected <\|image_pad\|> once for a picture"),
        (with_other_words, "words as they are, got .*WHERE IS IT"),
        (of_texts, r"chat template: it does not take the conversation \(texts only\)"),
    ],
)
def test_templates_that_do_not_fit(
    change: Callable[[Any], None], message: str, tokenizer: Any, processor: VLMProcessor
) -> None:
    change(tokenizer)
    own = VLMProcessor(tokenizer, processor.image_processor, processor.family)
    with pytest.raises(ValueError, match=message):
        own.check_chat_template()


@pytest.mark.parametrize(
    "words", ["c['text'] | e", "c['text'] | tojson", "c['text'] | truncate(20)", "c['text'].replace('[', '(')",
              "c['text'] + ' ' + c['text']"]
)  # fmt: skip
def test_a_template_that_changes_words_is_refused(words: str, tokenizer: Any, processor: VLMProcessor) -> None:
    use(tokenizer, "<|im_start|>", "<|im_end|>", TURNS.replace("c['text']", words))
    with pytest.raises(ValueError, match="in its place, and words as they are, got"):
        VLMProcessor(tokenizer, processor.image_processor, processor.family).check_chat_template()


def test_padding_is_no_picture(tokenizer: Any, processor: VLMProcessor) -> None:
    tokenizer.pad_token = processor.family.image_token
    own = VLMProcessor(tokenizer, processor.image_processor, processor.family)
    assert own.pad_token_id == own.eos_token_id != own.image_token_id


@pytest.mark.parametrize("end", [-1, 2**40, True, [-5]])
def test_an_end_that_is_no_token_is_none(end: Any, processor: VLMProcessor, tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "model", load_model("tiny"), processor)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": None}))
    assert load_processor(str(folder)).eos_token_id == processor.eos_token_id  # that of the chat template
