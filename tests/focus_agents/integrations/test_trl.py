"""Prompts and rewards as TRL gets them, against ours."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import focus_env
from focus_agents.integrations.trl import TRLReward, trl_dataset, trl_processor, trl_row
from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.models.processing import VLMProcessor
from focus_env.env import observe
from focus_env.errors import DatasetError, MissingDependencyError
from focus_env.rewards.answers import AnswerBatch
from focus_env.rewards.weighted import WeightedReward
from focus_env.types import Frame, ImagePart, Message
from tests.fakes import FakeDataset, make_episode
from tests.focus_agents.models.families import patch_grid

pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed; `pip install trl` for its adapters")

GOLD = "<answer>[250, 167, 750, 667]</answer>"  # of the fake episode 0
TEXTS = [GOLD, "", "\x00", "It is at [250, 167, 750, 667].", "<answer>none</answer>", "<answer>[9, 9, 9, 9]</answer>"]


class RecordedReward(TRLReward):
    """Keeps what TRL asked and what it was told."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.calls: list[tuple[dict[str, Any], list[float]]] = []

    def __call__(self, **given: Any) -> list[float]:
        self.calls.append((given, super().__call__(**given)))
        return self.calls[-1][1]


def make_env(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(focus_env.ENV_ID, **{"dataset": FakeDataset(), "template": "compact", **options})


def pictures_of(messages: list[Message]) -> list[np.ndarray]:
    return [part.image for message in messages for part in message.content if isinstance(part, ImagePart)]


def assert_same_pictures(found: list[Any], expected: list[np.ndarray]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_array_equal(np.asarray(theirs), ours)


def test_rows_are_the_environments_questions() -> None:
    dataset = FakeDataset()
    rows = trl_dataset(make_env(dataset=dataset), [2, 0, 3])
    assert len(rows) == 3
    for row, index in zip(rows, [2, 0, 3], strict=True):
        messages = focus_env.get_template("compact").render(observe(dataset[index]))
        assert row["episode_index"] == index
        (turn,) = row["prompt"]
        assert turn["role"] == "user"
        expected = [
            {"type": "image"} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
            for part in messages[0].content
        ]
        assert turn["content"] == expected
        assert_same_pictures(row["images"], pictures_of(messages))


def test_a_template_that_tells_the_category_tells_it() -> None:
    """As our own sampling does."""
    dataset = FakeDataset()
    (row,) = trl_dataset(make_env(dataset=dataset, template="iploc_release"), [2])
    own = focus_env.get_template("iploc_release").for_question(dataset[2])
    assert row["prompt"] == trl_row(own.render(observe(dataset[2])))["prompt"]
    assert f"<ref>{dataset[2].category}</ref>" in str(row["prompt"])


def test_pictures_are_decoded_when_a_row_is_read_and_once_for_a_batch() -> None:
    dataset = FakeDataset()
    rows = trl_dataset(make_env(dataset=dataset), range(4))
    assert dataset.num_loads == 0
    batch = rows[[1, 1, 2, 1]]
    assert batch["episode_index"] == [1, 1, 2, 1]
    assert dataset.num_loads == 2
    assert batch["images"][0][0] is batch["images"][3][0]


def test_an_episode_that_cannot_be_asked_is_replaced_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    bad = make_episode(1)
    bad = dataclasses.replace(bad, query_frame=Frame("bad", (80, 60), Path("/no/such.png")))
    env = gymnasium.make(focus_env.ENV_ID, dataset=[make_episode(0), bad, make_episode(2)])
    rows = trl_dataset(env, range(3))[:]
    assert rows["episode_index"] == [0, 2, 2]
    assert rows["prompt"][1] == rows["prompt"][2]
    assert "episode 1 cannot be asked, another is in its place" in caplog.text
    with pytest.raises(DatasetError, match="picture 'bad'"):
        trl_dataset(gymnasium.make(focus_env.ENV_ID, dataset=[bad]), range(1))[0]


def test_turns_of_a_template_with_several() -> None:
    row = trl_row(focus_env.get_template("iploc").render(observe(make_episode(0, shots=2))))
    kinds = [[part["type"] for part in turn["content"]] for turn in row["prompt"]]
    assert kinds == [["image", "text"], ["text"], ["image", "text"], ["text"], ["image", "text"]]
    assert len(row["images"]) == 3


def test_trls_prompt_is_ours(processor: VLMProcessor) -> None:
    """Tokens and pixels, by the processor that TRL is given."""
    from trl.data_utils import prepare_multimodal_messages

    messages = focus_env.get_template("default").render(observe(make_episode(1, shots=3, query_wh=(48, 96))))
    row = trl_row(messages)
    theirs = trl_processor(processor).apply_chat_template(
        [prepare_multimodal_messages(row["prompt"], row["images"])],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="np",
    )
    ours = processor.encode(messages)
    np.testing.assert_array_equal(theirs["input_ids"][0], ours.input_ids)
    np.testing.assert_array_equal(theirs["image_grid_thw"], patch_grid(ours.grids))
    np.testing.assert_array_equal(theirs["pixel_values"], ours.images["pixel_values"])


@pytest.mark.parametrize("options", [{}, {"reward": "iou:2,format:0.1"}, {"template": "questions"}], ids=str)
@pytest.mark.parametrize("as_messages", [True, False])
def test_rewards_are_the_environments(options: dict[str, Any], as_messages: bool) -> None:
    options = {**options, "dataset": FakeDataset(with_absent=True)}
    texts, indices = TEXTS * 4, [index for index in range(4) for _ in TEXTS]
    order = np.random.default_rng(0).permutation(len(texts)).tolist()  # TRL may mix the answers of groups
    expected = []
    for place in order:
        env = make_env(**options)
        env.reset(options={"episode_index": indices[place]})
        expected.append(env.step(texts[place])[1])
    assert len(set(expected)) > 2
    completions = [[{"role": "assistant", "content": texts[place]}] if as_messages else texts[place] for place in order]
    found = TRLReward(make_env(**options))(
        completions=completions,
        episode_index=[indices[place] for place in order],
        prompts=[],
        completion_ids=[],
        trainer_state=None,
    )
    assert found == expected
    assert {type(reward) for reward in found} == {float}


def test_answers_to_an_episode_are_scored_together_without_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(Frame, "image", lambda frame: decoded.append(frame.name))
    seen: list[tuple[str | None, ...]] = []

    def term(answers: AnswerBatch) -> np.ndarray[Any, Any]:
        seen.append(answers.texts)
        return np.array([float(text or 0) for text in answers.texts])

    dataset = FakeDataset()
    env = make_env(dataset=dataset, reward=WeightedReward({"mine": (term, 1.0)}))
    assert TRLReward(env)(["1", "2", "3", "4", "5"], [3, 0, 3, 1, 0]) == [1, 2, 3, 4, 5]
    assert seen == [("1", "3"), ("2", "5"), ("4",)]
    assert (dataset.num_loads, decoded) == (3, [])


def test_an_answer_for_each_episode() -> None:
    with pytest.raises(ValueError, match="shorter"):
        TRLReward(make_env())([GOLD, GOLD], [0])


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="datasets is not installed; pip install 'trl"):
        trl_dataset(make_env(), [0])


def test_a_step_of_trls_trainer(tmp_path: Path) -> None:
    """Each answer comes to the reward with its own question, and TRL learns from the rewards that ours are."""
    from trl import GRPOConfig, GRPOTrainer

    name, data = "focus-small-sft", {"level": 3, "shots": 2, "image_size": 64, "distractors": "any"}
    processor, template = load_processor(name), load_template(name)
    env = make_env(dataset="synthetic", dataset_options=data, template=template)
    reward = RecordedReward(env)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, at names that TRL uses
        config = GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=9,
            num_generations=3,
            max_completion_length=24,
            generation_kwargs={"suppress_tokens": list(processor.banned_token_ids)},
            temperature=1.5,
            bf16=False,
            gradient_checkpointing=False,
            use_cpu=True,
            dataloader_pin_memory=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model=load_model(name),
            reward_funcs=reward,
            args=config,
            train_dataset=trl_dataset(env, [5, 8, 2]),
            processing_class=trl_processor(processor),
        )
        trainer.train()

    ((given, rewards),) = reward.calls
    assert sorted(given["episode_index"]) == [2, 2, 2, 5, 5, 5, 8, 8, 8]
    assert len(set(rewards)) > 3
    fresh = make_env(dataset="synthetic", dataset_options=data, template=template)
    for prompt, completion, index, paid in zip(
        given["prompts"], given["completions"], given["episode_index"], rewards, strict=True
    ):
        messages = template.render(fresh.reset(options={"episode_index": index})[0])
        parts = [part for turn in prompt for part in turn["content"]]
        assert_same_pictures([part["image"] for part in parts if part["type"] == "image"], pictures_of(messages))
        assert fresh.step(completion[0]["content"])[1] == paid
    assert trainer.state.log_history[0]["rewards/focus_reward/mean"] == pytest.approx(np.mean(rewards), abs=1e-6)
