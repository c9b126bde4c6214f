"""The trainer that computes a prompt once for all its answers, against TRL's own, in float32.

Axis letters: B rows, T answer tokens.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from focus_agents.models.adapters import add_adapters
from focus_agents.models.processing import VLMProcessor
from focus_env.errors import MissingDependencyError
from tests.focus_agents.models.cases import Case, make_case
from tests.focus_agents.models.families import patch_grid

pytest.importorskip("trl", minversion="1.16", reason="TRL is not installed; `pip install trl` for its trainer")

from datasets import Dataset
from transformers import TrainerCallback  # of its parts for TRL, which take seconds to import
from trl import GRPOConfig, GRPOTrainer

from benchmarks.step.setup import Setup, Size
from benchmarks.step.trl_side import trl_trainer
from focus_agents.integrations.trl import SharedPrefixGRPOTrainer
from focus_agents.integrations.trl_trainer import METHOD

TOLERANCE = 1e-5
OWNERS = [0, 2, 1, 0, 1, 0, 0, 1]
"""Which of three prompts each of B rows has: 4, 3 and 1, shuffled as TRL does."""
NUM_TOKENS = 7
LENGTHS = [7, 1, 3, 0, 5, 2, 7, 4]
"""Of the answers; one was cut, and TRL masks it whole."""


@contextlib.contextmanager
def no_warning_of_ours() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="SharedPrefixGRPOTrainer")
        yield


def make_trainer(case: Case, folder: Path, model: Any = None, *, beta: float = 0.0, **options: Any) -> Any:
    """A trainer whose model computes as transformers wrote it; TRL needs no pictures' processor for what is tested.

    Nor a reference, since batches bring its log-probabilities.
    """
    settings = {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "num_generations": 2}
    settings |= {"per_device_train_batch_size": 8, "gradient_checkpointing": False, "max_completion_length": NUM_TOKENS}
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        trainer = SharedPrefixGRPOTrainer(
            model=case.model if model is None else model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(**settings | options),
            train_dataset=Dataset.from_list([{"prompt": "?"}]),
            processing_class=case.processor.tokenizer,
        )
    trainer.processing_class.image_processor = case.processor.image_processor
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = beta
    trainer.model.train()
    return trainer


def make_inputs(case: Case) -> dict[str, Any]:
    """A micro-batch as TRL lays it out, of three prompts whose lengths and pictures differ."""
    generator = torch.Generator().manual_seed(3)
    prompts = case.processor.collate([case.prompts[owner] for owner in OWNERS])
    completion_ids = torch.randint(1, 200, (len(OWNERS), NUM_TOKENS), generator=generator)
    mask = (torch.arange(NUM_TOKENS) < torch.tensor(LENGTHS)[:, None]).long()
    logprobs = -3 - 2 * torch.rand(2, len(OWNERS), NUM_TOKENS, generator=generator)
    inputs: dict[str, Any] = {
        "prompt_ids": prompts.input_ids,
        "prompt_mask": prompts.attention_mask,
        "completion_ids": completion_ids,
        "completion_mask": mask,
        "advantages": torch.randn(len(OWNERS), generator=generator),
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": logprobs[0],
        "ref_per_token_logps": logprobs[1],
        "pixel_values": prompts.images["pixel_values"],
        "num_images": list(prompts.num_images),
    }
    if "qwen" in case.family.name:
        inputs["image_grid_thw"] = patch_grid(prompts.grids)
        inputs["mm_token_type_ids"] = torch.nn.functional.pad(prompts.image_mask.int(), (0, NUM_TOKENS))
    else:
        inputs["num_tiles"] = list(prompts.image_rows["pixel_values"])
    return inputs


def learn(trainer: Any, inputs: dict[str, Any], *, by_trl: bool) -> tuple[float, dict[str, Any]]:
    """Loss and gradients of one micro-batch."""
    trainer.model.zero_grad()
    own = mock.patch.object(SharedPrefixGRPOTrainer, METHOD, getattr(GRPOTrainer, METHOD))
    with own if by_trl else contextlib.nullcontext():
        loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    named = trainer.model.named_parameters()
    return float(loss.detach()), {n: None if p.grad is None else p.grad.clone() for n, p in named if p.requires_grad}


def assert_same_learning(trainer: Any, inputs: dict[str, Any], tolerance: float = TOLERANCE) -> None:
    expected, gradients = learn(trainer, inputs, by_trl=True)
    with no_warning_of_ours():
        loss, own = learn(trainer, inputs, by_trl=False)
    assert loss == pytest.approx(expected, rel=tolerance, abs=tolerance)
    total = torch.cat([g.flatten() for g in gradients.values() if g is not None]).norm()
    for name, right in gradients.items():
        if right is not None:
            assert (own[name] - right).norm() <= tolerance * max(right.norm(), 1e-3 * total), name


@contextlib.contextmanager
def counted(model: Any) -> Iterator[list[tuple[int, int]]]:
    """(Tokens, rows of pictures) of each pass through a model."""
    passes: list[tuple[int, int]] = []

    def count(module: Any, args: Any, given: dict[str, Any]) -> None:
        passes.append((given["input_ids"].numel(), len(given["pixel_values"])))

    handle = model.model.register_forward_pre_hook(count, with_kwargs=True)
    yield passes
    handle.remove()


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_loss_and_gradients_are_trls_and_a_prompt_is_computed_once(
    model_type: str, processor: VLMProcessor, tmp_path: Path
) -> None:
    case = make_case(model_type, processor)
    trainer, inputs = make_trainer(case, tmp_path, beta=0.04, temperature=0.7), make_inputs(case)
    assert_same_learning(trainer, inputs)
    with counted(case.model) as passes:
        learn(trainer, inputs, by_trl=False)
        learn(trainer, inputs, by_trl=True)
    (tokens, pictures), (all_tokens, all_pictures) = passes
    num_columns = inputs["prompt_ids"].shape[1]
    assert all_tokens == 8 * (num_columns + NUM_TOKENS)
    # The longest of three rows has answers of 7, 2, 7 and none, whose places for their first tokens are in front.
    assert tokens == 3 * (num_columns - 1 + 16)
    assert all_pictures == len(inputs["pixel_values"])
    assert pictures == sum(len(case.processor.collate([p]).images["pixel_values"]) for p in case.prompts)


@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "grpo", "top_entropy_quantile": 0.3},
        {"loss_type": "bnpo", "importance_sampling_level": "sequence"},
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        {"loss_type": "cispo", "epsilon_high": 2.0},
        {"loss_type": "sapo", "beta": 0.1},
        {"gradient_checkpointing": True},
        {"cast_lm_head_to_fp32": True},
    ],
    ids=str,
)
def test_settings_of_trl_hold(options: dict[str, Any], processor: VLMProcessor, tmp_path: Path) -> None:
    case = make_case("qwen2_vl", processor)
    trainer = make_trainer(case, tmp_path, **options)
    if options.get("gradient_checkpointing"):
        trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same_learning(trainer, make_inputs(case))


def test_adapters(processor: VLMProcessor, tmp_path: Path) -> None:
    case = make_case("qwen2_5_vl", processor)
    model = add_adapters(case.model, rank=4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    assert_same_learning(make_trainer(case, tmp_path, model), make_inputs(case))


def test_half_precision(processor: VLMProcessor, tmp_path: Path) -> None:
    """Rounding apart, which is TRL's too."""
    case = make_case("qwen2_vl", processor)
    assert_same_learning(make_trainer(case, tmp_path, bf16=True), make_inputs(case), tolerance=0.1)


def scores(trainer: Any, inputs: dict[str, Any], owner: type = SharedPrefixGRPOTrainer, **options: Any) -> Any:
    pictures = {n: inputs[n] for n in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    ids, masks = (torch.cat([inputs[f"prompt_{n}"], inputs[f"completion_{n}"]], 1) for n in ("ids", "mask"))
    with torch.no_grad():
        return getattr(owner, METHOD)(
            trainer, trainer.model, ids, masks, NUM_TOKENS, compute_entropy=True, **options, **pictures
        )


@pytest.mark.parametrize("batch_size", [None, 3])
def test_log_probabilities_and_entropies(batch_size: int | None, processor: VLMProcessor, tmp_path: Path) -> None:
    """In parts as TRL cuts a batch, too, which cut groups; 0 at padding."""
    case = make_case("qwen3_vl", processor)
    trainer, inputs = make_trainer(case, tmp_path), make_inputs(case)
    with no_warning_of_ours():  # which would say that TRL's own way was taken
        ours = scores(trainer, inputs, batch_size=batch_size)
    theirs = scores(trainer, inputs, GRPOTrainer, batch_size=batch_size)
    for mine, right in zip(ours[:2], theirs[:2], strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=2e-5)
        assert not mine[inputs["completion_mask"] == 0].any()


def test_rows_with_other_pictures_are_no_group(processor: VLMProcessor, tmp_path: Path) -> None:
    """The tokens of two prompts may be the same while their pictures differ."""
    case = make_case("qwen2_vl", processor)
    trainer, inputs = make_trainer(case, tmp_path), make_inputs(case)
    with no_warning_of_ours():
        before = scores(trainer, inputs)[0]
        inputs["pixel_values"][0] += 1.0  # of the first row
        after = scores(trainer, inputs)[0]
    expected = scores(trainer, inputs, GRPOTrainer)[0]
    torch.testing.assert_close(after, expected, rtol=0, atol=2e-5)
    assert (after[0] - before[0]).abs().max() > 1e-3
    torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=2e-5)


def test_what_cannot_be_shared_is_left_to_trl_with_a_warning(processor: VLMProcessor, tmp_path: Path) -> None:
    case = make_case("qwen2_vl", processor)
    trainer, inputs = make_trainer(case, tmp_path), make_inputs(case)

    def left_to_trl(reason: str, inputs: dict[str, Any] = inputs, **options: Any) -> None:
        trainer._warned.clear()
        with pytest.warns(UserWarning, match=f"as by TRL's own trainer: .*{reason}"):
            ours = scores(trainer, inputs, **options)
        with no_warning_of_ours():
            scores(trainer, inputs, **options)  # warned once
        for mine, right in zip(ours[:2], scores(trainer, inputs, GRPOTrainer, **options)[:2], strict=True):
            assert torch.equal(mine, right)

    with mock.patch.object(trainer, "is_fsdp_enabled", True):
        left_to_trl("FSDP or DeepSpeed")
    with mock.patch("focus_agents.integrations.trl_trainer.can_share_prefix", return_value=False):
        left_to_trl("recurrent layers or sliding windows")
    left_to_trl("no two rows", batch_size=1)
    gap = inputs["completion_mask"].clone()
    gap[0, 2] = 0
    left_to_trl("answers have gaps", inputs | {"completion_mask": gap})
    film = inputs["image_grid_thw"].clone()
    film[0, 0], film[0, 1] = 2, film[0, 1] // 2
    with pytest.warns(UserWarning, match="laid out in a way that is not known"), contextlib.suppress(Exception):
        scores(trainer, inputs | {"image_grid_thw": film})  # and TRL's own may raise
    case.model.set_attn_implementation({"text_config": "eager"})
    left_to_trl("attention is 'eager'")
    case.model.set_attn_implementation({"text_config": "sdpa"})
    case.model.config.text_config.attention_dropout = 0.1
    trainer.model.train()
    with pytest.warns(UserWarning, match="dropout is on"):
        scores(trainer, inputs)


def test_numbers_that_differ_in_the_first_batch_are_not_used(processor: VLMProcessor, tmp_path: Path) -> None:
    case = make_case("qwen2_vl", processor)
    trainer, inputs = make_trainer(case, tmp_path), make_inputs(case)
    wrong = mock.patch.object(
        type(case.family), "text_positions", lambda self, positions: positions.expand(3, -1, -1) * 2
    )
    with wrong, pytest.warns(UserWarning, match=r"log-probabilities of the first batch differ from TRL's by"):
        ours = scores(trainer, inputs)[0]
    assert torch.equal(ours, scores(trainer, inputs, GRPOTrainer)[0])
    assert torch.equal(scores(trainer, inputs)[0], ours)  # and from then on


def test_a_trl_with_another_method_is_refused(processor: VLMProcessor, tmp_path: Path) -> None:
    def other(self: Any, model: Any, batch: Any) -> None: ...

    case = make_case("qwen2_vl", processor)
    with (
        mock.patch.object(GRPOTrainer, METHOD, other),
        pytest.raises(MissingDependencyError, match=r"TRL 1\.16.*expected GRPOTrainer\._get_per.*'trl>=1\.16,<1\.17'"),
    ):
        make_trainer(case, tmp_path)


CUT = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_iterations": 2, "beta": 0.05}


@pytest.mark.parametrize("options", [{}, CUT], ids=["groups whole", "groups cut, two passes, a reference"])
def test_training_gives_the_weights_of_trls(options: dict[str, Any], tmp_path: Path) -> None:
    """From the same seed both sample the same answers, in all steps."""
    weights: dict[bool, dict[str, torch.Tensor]] = {}
    sgd = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 1.0, "loss_type": "dapo"} | options
    for shares in (False, True):
        setup = Setup.build(Size(prompt_tokens=128, group_size=4, answer_tokens=5), num_prompts=2)
        start = {name: value.detach().clone() for name, value in setup.model.named_parameters()}
        setup.model.save_pretrained(tmp_path)  # TRL loads a reference by its name
        setup.model.config._name_or_path = str(tmp_path)
        setup.use_stock_attention()
        told = pytest.warns(UserWarning, match=r"of 4 answers has 2 prompts, so each is computed for 2\.0")
        with (
            told if shares and options else no_warning_of_ours(),
            trl_trainer(setup, 3, TrainerCallback(), shares_prefix=shares, **sgd) as trainer,
        ):
            trainer.train()
        weights[shares] = {name: value.detach() for name, value in setup.model.named_parameters()}
    gap, way = (
        torch.cat([(one[name] - other[name]).flatten() for name in start]).abs().max()
        for one, other in ((weights[True], weights[False]), (weights[False], start))
    )
    assert way > 1e-2
    assert gap <= TOLERANCE
