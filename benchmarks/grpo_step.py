"""What sharing a group's prompt saves: sampling, learning, and a whole GRPO step, against what is usual.

    python benchmarks/grpo_step.py [--prompt-tokens 512 1024 2048] [--group-sizes 4 8 16] [--answer-tokens 32]
                                   [--cases sampling learning step fused without_signal] [--repetitions 3]
                                   [--device cpu|cuda] [--model small|7b]

Each case has two sides, which take turns within a run. `ratio` is the median over the rounds of peer / ours, both from
the same round: above 1, ours is so many times faster, or takes so many times fewer FLOPs or less memory. What time,
FLOPs and memory are, `measuring.py` says.

    sampling        ours: a prompt's G answers from one encoding of it. Peer: `generate(num_return_sequences=G)`, which
                    encodes the pictures once and the prompt G times.
    learning        ours: forward and backward over one row with prompt and answers. Peer: over G rows, each with the
                    prompt, its pictures and an answer.
    step            ours: from messages to an optimizer step. Peer: a step of TRL's `GRPOTrainer`.
    fused           ours: a step whose sampling prefill, with gradient, is the learner's prompt forward too, which it
                    can be where one process samples and learns on-policy. Peer: our step that encodes prompts twice.
    without_signal  ours: a step of two groups, one of which has equal rewards and is left out of learning; without a
                    KL penalty this changes no gradient. Peer: the step learns from both.

Before anything is measured, the sides must agree, in float32 and on the small model: sampled and greedy answers are
the same tokens; log-probabilities and gradients of shared, fused and repeated prompts differ by at most 1e-5 of their
norm, as do the gradients with and without the group that has no signal; and so do TRL's gradients, before clipping,
from those of our scoring and loss on TRL's own completions and advantages.

All answers have T tokens, since in each case and on each side the end token is banned, as are the pad token and those
of pictures. The pictures are noise. A reward is a function of the text, the same on both sides.

Equal in `step`: the model, which both sides update in turn, the prompt (token ids and pixels are compared), G, T,
temperature, rewards and advantages (these are compared too), loss "grpo" without KL, entropies as a metric, AdamW
without weight decay, clipping at norm 1, no gradient checkpointing. Log-probabilities count banned tokens in, as TRL's
do. Not equal:

    for TRL      Reading a row of its data is outside the measured time, while all of our step is inside. On the CPU, it
                 would put each position through the output head, and is made to take the answers' only, as it does on
                 a GPU.
    against TRL  It keeps metrics and logs in memory, goes through accelerate, has the processor read the pictures
                 twice, G times each, and its sampling encodes them G times. On a GPU it can sample with vLLM, which
                 encodes a prompt once; that would change `step` there, but not its learning. Nothing is logged to disk,
                 no bar is drawn.

With `--model 7b` (on CUDA) the model has the shape of Qwen2-VL-7B and random weights in bfloat16, which LoRA adapters
of rank 8 leave frozen; the small tokenizer knows few of its ids, so the rewards of its answers hardly differ, which
costs the same. A peer that runs out of memory has null for its figures.

Prints one JSON line for each case, size and measure, then tables. `tokens_per_second` counts completion tokens;
`peak_share` is the share of the device's peak FLOP/s, known for bfloat16 on some devices or by `--peak-tflops`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import re
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, Qwen2VLForConditionalGeneration, TrainerCallback

from benchmarks.measuring import (
    NUM_PICTURES,
    PER_UNIT,
    UNITS,
    Readings,
    command,
    machine,
    meter,
    print_line,
    run_quietly_on_one_thread,
    small_config,
    take_turn,
    take_turns,
)
from focus_agents.cli.common import quiet_libraries, user_errors
from focus_agents.engine.forward import image_inputs, prefill
from focus_agents.engine.generation import Prefix, sample_completions
from focus_agents.engine.scoring import score_completions
from focus_agents.grpo.advantage import group_advantages, has_signal
from focus_agents.grpo.loss import LossSettings, StepTotals, policy_loss
from focus_agents.integrations.trl import trl_processor, trl_row
from focus_agents.models.adapters import add_adapters, base_model
from focus_agents.models.attention import set_focus_attention
from focus_agents.models.inputs import EncodedPrompt, PromptBatch
from focus_agents.models.loading import TINY, load_processor
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.tiny import MERGE_SIZE, build_config
from focus_agents.rollout.records import Sampling
from focus_env.prompts import TEMPLATES
from focus_env.types import Message, TextPart

CaseName = Literal["sampling", "learning", "step", "fused", "without_signal"]
ModelName = Literal["small", "7b"]
Line = dict[str, Any]
Step = Callable[[], object]

SIDES = ("ours", "peer")
MEASURES = ("FLOPs", "memory")
"""What is measured once, in this order, before time; the first warms up."""

TEXT_TOKENS = 104
"""Of a prompt, what is neither a cell of a picture nor filled in: markers, four boxes, question, chat template."""
LEAST_PICTURE_SIDE = 2
"""In tokens; the image processor scales up what is smaller."""
LORA_RANK = 8
LEARNING_RATE = 1e-6
TOLERANCE = 1e-5
"""Of log-probabilities and gradients, relative to the norm of all."""
ADVANTAGE_TOLERANCE = 1e-5
"""Of advantages, absolute; TRL computes them in float32."""

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "GH200": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
}
"""Dense bfloat16 of devices whose name has all of the key's words, by their vendor's data sheets."""

SEED = 0


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        ours: The name of our side.
        peer: The name of the other.
        num_prompts: Groups in a step.
    """

    ours: str
    peer: str
    num_prompts: int = 1


CASES: dict[CaseName, Case] = {
    "sampling": Case("one encoding of the prompt", "transformers' generate(num_return_sequences=G)"),
    "learning": Case("prompt and answers in one row", "the prompt repeated for each answer"),
    "step": Case("a step from messages to weights", "a step of TRL's GRPOTrainer"),
    "fused": Case("a step that encodes prompts once", "a step that encodes prompts for sampling and for learning"),
    "without_signal": Case("half of the groups left out of learning", "learning from all groups", num_prompts=2),
}


@dataclass(frozen=True, kw_only=True)
class Args:
    """What sharing a group's prompt saves."""

    prompt_tokens: tuple[int, ...] = (512, 1024, 2048)
    """P, tokens of a prompt."""
    group_sizes: tuple[int, ...] = (4, 8, 16)
    """G, answers to a prompt; each P is measured with each G."""
    answer_tokens: int = 32
    """T, tokens of an answer."""
    repetitions: int = 3
    """Rounds in which each side is timed once."""
    cases: tuple[CaseName, ...] = get_args(CaseName)
    """What to compare."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to run."""
    model: ModelName = "small"
    """small, trained as a whole in float32; or 7b, in bfloat16 with adapters, which needs cuda."""
    peak_tflops: float | None = None
    """The device's peak in TFLOP/s, for the share of it that is reached; else a table of devices is asked."""

    def __post_init__(self) -> None:
        least = {
            "prompt_tokens": (min(self.prompt_tokens), TEXT_TOKENS + NUM_PICTURES * LEAST_PICTURE_SIDE**2),
            "group_sizes": (min(self.group_sizes), 2),
            "answer_tokens": (self.answer_tokens, 1),
            "repetitions": (self.repetitions, 1),
        }
        for name, (value, limit) in least.items():
            if value < limit:
                raise ValueError(f"{name}: expected at least {limit}, got {value}")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device: this machine has no CUDA device that torch can use; measure on cpu")
        if self.model == "7b" and self.device == "cpu":
            raise ValueError("model: 7b is of no use on cpu; add --device cuda")
        if "step" in self.cases and importlib.util.find_spec("trl") is None:
            others = " ".join(name for name in CASES if name != "step")
            raise ValueError(f"cases: step needs TRL; pip install 'trl==1.16.*', or leave it out: --cases {others}")

    @property
    def dtype(self) -> str:
        """Of the weights."""
        return "float32" if self.model == "small" else "bfloat16"


@dataclass(frozen=True)
class Size:
    """P, G and T of a case."""

    prompt_tokens: int
    group_size: int
    answer_tokens: int

    @property
    def token_ratio(self) -> float:
        """Tokens with the prompt repeated for each answer, over those with one prompt."""
        own = self.group_size * self.answer_tokens
        return (self.group_size * self.prompt_tokens + own) / (self.prompt_tokens + own)


@dataclass(frozen=True)
class Setup:
    """A model, what it is asked, and what trains it.

    Attributes:
        model: In training mode; no layer of it behaves otherwise there.
        processor: The project's.
        messages: One conversation for each group.
        optimizer: Of what is trained of the model.
        device: Where the model is.
        size: Of prompts and answers.
    """

    model: Any
    processor: VLMProcessor
    messages: tuple[tuple[Message, ...], ...]
    optimizer: torch.optim.Optimizer
    device: str
    size: Size

    @classmethod
    def build(cls, size: Size, *, model_name: ModelName = "small", device: str = "cpu", num_prompts: int = 1) -> Setup:
        """Random weights, pictures and digits, functions of a seed."""
        tokenizer = load_processor(TINY).tokenizer
        config = small_config(tokenizer) if model_name == "small" else large_config(tokenizer)
        torch.manual_seed(SEED)
        if model_name == "small":
            model: Any = Qwen2VLForConditionalGeneration(config).to(device)
        else:
            with torch.device(device):
                model = Qwen2VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
            model = add_adapters(model, rank=LORA_RANK)
        processor = build_processor(config)
        messages = tuple(build_messages(size.prompt_tokens, processor, seed=seed) for seed in range(num_prompts))
        trained = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
        return cls(model, processor, messages, optimizer, device, size)

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def banned_token_ids(self) -> list[int]:
        """What no answer holds, on any side: its end, padding, and tokens of pictures."""
        processor = self.processor
        return sorted({*processor.banned_token_ids, processor.eos_token_id, processor.pad_token_id})

    def encode(self) -> list[EncodedPrompt]:
        """The prompts as arrays."""
        return [self.processor.encode(messages) for messages in self.messages]

    def collate(self, encoded: Sequence[EncodedPrompt]) -> PromptBatch:
        """Prompts as tensors, where the model is."""
        return self.processor.collate(encoded).to(self.device)

    def use_stock_attention(self) -> None:
        """Have the model compute as transformers wrote it, for peers."""
        base_model(self.model).set_attn_implementation({"text_config": "sdpa"})

    def take_gradients(self) -> torch.Tensor:
        """[values] the gradients of all that is trained, one behind the other; the parameters lose them."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.trained]
        self.optimizer.zero_grad()
        return torch.cat([gradient.flatten() for gradient in gradients])


def large_config(tokenizer: Any) -> Any:
    """The shape of Qwen2-VL-7B, with ids of the small tokenizer."""
    config = build_config(tokenizer, hidden_size=3584, num_layers=28, vision_depth=32)
    text, vision = config.text_config, config.vision_config
    text.vocab_size, text.intermediate_size = 152064, 18944
    text.num_attention_heads, text.num_key_value_heads = 28, 4
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    text.initializer_range = vision.initializer_range = 0.02
    config.tie_word_embeddings = text.tie_word_embeddings = False
    vision.embed_dim, vision.num_heads, vision.mlp_ratio, vision.patch_size = 1280, 16, 4, 14
    return config


def build_processor(config: Any) -> VLMProcessor:
    """The small tokenizer, and an image processor with a model's patches, which scales no picture."""
    processor = load_processor(TINY)
    processor.image_processor.patch_size = config.vision_config.patch_size
    pixels_per_token = (config.vision_config.patch_size * MERGE_SIZE) ** 2
    most = config.text_config.max_position_embeddings
    processor.image_processor.size = {"shortest_edge": pixels_per_token, "longest_edge": most * pixels_per_token}
    return processor


def build_messages(num_tokens: int, processor: VLMProcessor, *, seed: int) -> tuple[Message, ...]:
    """A prompt of `num_tokens`: the project's own, with five square pictures as large as fit, and digits to fill it."""
    rng = np.random.default_rng(seed)
    side = math.isqrt((num_tokens - TEXT_TOKENS) // NUM_PICTURES)
    pixels = side * MERGE_SIZE * processor.image_processor.patch_size
    *support, query = rng.integers(256, size=(NUM_PICTURES, pixels, pixels, 3), dtype=np.uint8)
    (message,) = TEMPLATES["compact"].render(
        {
            "support_images": tuple(support),
            "support_boxes": np.array([[pixels / 4, pixels / 4, 3 * pixels / 4, 3 * pixels / 4]] * len(support)),
            "query_image": query,
        }
    )
    num_missing = num_tokens - len(processor.encode([message]).input_ids)
    # A digit is a token in each place.
    digits = "".join(map(str, rng.integers(10, size=num_missing)))
    return (Message(message.role, [*message.content, TextPart(digits)]),)


def text_reward(text: str) -> float:
    """How varied an answer's characters are, 0 to 1: cheap, and hardly ever the same for two answers of noise."""
    return len(set(text)) / max(1, len(text))


def sample(
    setup: Setup, prompts: PromptBatch, *, temperature: float = 1.0, prefix: Prefix | None = None
) -> torch.Tensor:
    """[N, G, T] our answers."""
    return sample_completions(
        setup.model,
        prompts,
        num_completions=setup.size.group_size,
        sampling=Sampling(temperature, setup.size.answer_tokens),
        seeds=range(SEED, SEED + len(prompts.input_ids)),
        eos_token_id=setup.processor.eos_token_id,
        pad_token_id=setup.processor.pad_token_id,
        banned_token_ids=setup.banned_token_ids,
        prefix=prefix,
    ).token_ids


def generate(setup: Setup, prompts: PromptBatch, *, is_greedy: bool = False) -> torch.Tensor:
    """[1, G, T] the answers of transformers' own loop to one prompt; greedy, it gives one answer, [1, 1, T]."""
    torch.manual_seed(SEED)
    how = {"do_sample": False} if is_greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    tokens = base_model(setup.model).generate(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask,
        **image_inputs(setup.model, prompts),
        num_return_sequences=1 if is_greedy else setup.size.group_size,
        max_new_tokens=setup.size.answer_tokens,
        suppress_tokens=setup.banned_token_ids,
        eos_token_id=setup.processor.eos_token_id,
        pad_token_id=setup.processor.pad_token_id,
        **how,
    )
    return tokens[None, :, prompts.input_ids.shape[1] :]


def learn(
    setup: Setup,
    prompts: PromptBatch,
    token_ids: torch.Tensor,
    advantages: torch.Tensor,
    *,
    num_groups: int | None = None,
    shared_prefix: bool = True,
    prefix: Prefix | None = None,
) -> tuple[float, torch.Tensor]:
    """Forward and backward, on-policy; leaves gradients.

    Args:
        setup: The model.
        prompts: N of them.
        token_ids: [N, G, T] answers, none of which ends before T.
        advantages: [N, G].
        num_groups: Of the step, those included that are left out here; None: N.
        shared_prefix: Whether a prompt is there once.
        prefix: What sampling has left of the prompts, with gradient.

    Returns:
        (The loss, [N, G, T] log-probabilities, detached).
    """
    num_rows, num_answers, num_tokens = token_ids.shape
    num_completions = (num_rows if num_groups is None else num_groups) * num_answers
    lengths = torch.full((num_rows, num_answers), num_tokens, device=token_ids.device)
    logprobs, _ = score_completions(
        setup.model, prompts, token_ids, lengths, shared_prefix=shared_prefix, prefix=prefix
    )
    flat = logprobs.flatten(0, 1)
    loss, _ = policy_loss(
        flat,
        flat.detach(),
        advantages.flatten().to(flat),
        torch.ones_like(flat),
        settings=LossSettings(name="grpo", max_completion_tokens=num_tokens),
        totals=StepTotals(num_completions * num_tokens, num_completions, num_micro_batches=1),
    )
    loss.backward()
    return loss.item(), logprobs.detach()


def take_step(setup: Setup, *, is_fused: bool = False, num_silent: int = 0, skips_silent: bool = False) -> None:
    """Our whole step: encode, sample, reward, learn, clip, update.

    Args:
        setup: Model, conversations and optimizer.
        is_fused: Whether sampling and learning share one encoding of the prompts.
        num_silent: How many of the groups, the last ones, are given equal rewards; those of the others then differ.
        skips_silent: Whether groups without signal are left out of learning.
    """
    encoded = setup.encode()
    prompts = setup.collate(encoded)
    if is_fused:
        set_focus_attention(setup.model)
    prefix = prefill(setup.model, prompts) if is_fused else None
    token_ids = sample(setup, prompts, prefix=prefix)
    rewards = reward_texts(setup, token_ids)
    if num_silent:
        rewards[:-num_silent, 0] += 1.0  # for a model whose tokens the tokenizer does not know: their texts are equal
        rewards[-num_silent:] = 0.0
    advantages = torch.from_numpy(group_advantages(rewards))
    if skips_silent:
        kept = np.flatnonzero(has_signal(rewards)).tolist()
        prompts = setup.collate([encoded[index] for index in kept])
        token_ids, advantages = token_ids[kept], advantages[kept]
    learn(setup, prompts, token_ids, advantages, num_groups=len(encoded), prefix=prefix)
    torch.nn.utils.clip_grad_norm_(setup.trained, 1.0)
    setup.optimizer.step()
    setup.optimizer.zero_grad()


def reward_texts(setup: Setup, token_ids: torch.Tensor) -> npt.NDArray[np.float64]:
    """[N, G] rewards of the answers' texts."""
    return np.array([[text_reward(setup.processor.decode(ids)) for ids in group] for group in token_ids.tolist()])


@contextlib.contextmanager
def trl_trainer(
    setup: Setup, num_steps: int, callback: TrainerCallback, *, learning_rate: float, max_grad_norm: float
) -> Iterator[Any]:
    """A trainer of TRL on the same model and conversations, whose `train` takes `num_steps` steps."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(completions: list[Any], **_: Any) -> list[float]:
        return [text_reward(turns[0]["content"]) for turns in completions]

    processor, num_answers = setup.processor, setup.size.group_size
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore", category=FutureWarning),  # of transformers, at names that TRL uses
        contextlib.ExitStack() as patches,
    ):
        config = GRPOConfig(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=num_answers * len(setup.messages),
            num_generations=num_answers,
            max_completion_length=setup.size.answer_tokens,
            generation_kwargs={"suppress_tokens": setup.banned_token_ids},
            temperature=1.0,
            loss_type="grpo",
            beta=0.0,
            optim="adamw_torch",
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=max_grad_norm,
            bf16=False,  # the weights are what they are; nothing is cast on our side either
            gradient_checkpointing=False,
            use_cpu=setup.device == "cpu",
            dataloader_pin_memory=False,
            shuffle_dataset=False,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            seed=SEED,
        )
        if setup.device == "cpu":
            patches.enter_context(mock.patch("trl.trainer.utils._use_triton", return_value=True))  # on answers only
        trainer = GRPOTrainer(
            model=setup.model,
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list([trl_row(messages) for messages in setup.messages]),
            processing_class=trl_processor(processor),
            callbacks=[callback],
        )
        trainer.remove_callback(PrinterCallback)
        yield trainer


class KeepGradients(TrainerCallback):
    """Takes the gradients of TRL's step before they are used."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.gradients = torch.empty(0)

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.gradients = self.setup.take_gradients()


class Turns(TrainerCallback):
    """Measures TRL's steps from inside its loop, and has ours take its turn after each."""

    def __init__(self, setup: Setup, schedule: Sequence[str]) -> None:
        self.setup = setup
        self.rounds = iter(schedule)
        self.readings: Readings = {name: {side: [] for side in SIDES} for name in dict.fromkeys(schedule)}
        self.opened = contextlib.ExitStack()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.name = next(self.rounds)
        self.reading = self.opened.enter_context(meter(self.name, self.setup.device))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer."""
        self.opened.close()
        readings = self.readings[self.name]
        readings["peer"].append(self.reading.amount / PER_UNIT[self.name])
        set_focus_attention(self.setup.model)
        readings["ours"].append(take_turn(lambda: take_step(self.setup), self.name, self.setup.device))
        self.setup.use_stock_attention()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of the other."""
    return float((one - other).norm() / other.norm())


def check_same_answers(setup: Setup) -> None:
    """Our sampler and transformers' draw the same tokens, by likelihood and by chance."""
    prompts = setup.collate(setup.encode())
    answers = {}
    for is_greedy in (True, False):
        setup.use_stock_attention()
        peer = generate(setup, prompts, is_greedy=is_greedy)
        ours = sample(setup, prompts, temperature=0.0 if is_greedy else 1.0)
        how = "greedy" if is_greedy else "sampled"
        same = peer.expand(-1, ours.shape[1], -1)
        assert ours.tolist() == same.tolist(), f"{how} answers: {ours.tolist()}, generate {peer.tolist()}"
        answers[how] = ours
    assert len(answers["sampled"].unique(dim=1)[0]) > 1, "sampled answers: all the same, which shows nothing"


def random_answers(setup: Setup) -> tuple[torch.Tensor, torch.Tensor]:
    """([N, G, T] tokens, each a byte; [N, G] advantages), to learn from."""
    generator = torch.Generator().manual_seed(SEED)
    size = setup.size
    token_ids = torch.randint(256, (len(setup.messages), size.group_size, size.answer_tokens), generator=generator)
    advantages = torch.randn(len(setup.messages), size.group_size, generator=generator)
    return token_ids.to(setup.device), advantages.to(setup.device)


def check_same_learning(setup: Setup) -> float:
    """Shared, fused and repeated prompts give equal log-probabilities and gradients; returns the gap of gradients."""
    prompts = setup.collate(setup.encode())
    token_ids, advantages = random_answers(setup)
    setup.use_stock_attention()
    _, peer_logprobs = learn(setup, prompts, token_ids, advantages, shared_prefix=False)
    peer = setup.take_gradients()
    gaps = []
    for name in ("shared", "fused"):
        set_focus_attention(setup.model)
        prefix = prefill(setup.model, prompts) if name == "fused" else None
        if prefix is not None:
            sample(setup, prompts, prefix=prefix)  # which is to leave the prefix as it was
        _, logprobs = learn(setup, prompts, token_ids, advantages, prefix=prefix)
        gaps.append(difference(setup.take_gradients(), peer))
        for what, gap in (("log-probabilities", difference(logprobs, peer_logprobs)), ("gradients", gaps[-1])):
            assert gap <= TOLERANCE, f"{what}: {name} and repeated prompts differ by {gap:.1e} of their norm"
    return max(gaps)


def check_same_without_silent(setup: Setup) -> float:
    """A group without signal adds nothing to the gradients; returns the gap."""
    encoded = setup.encode()
    token_ids, advantages = random_answers(setup)
    advantages[1:] = 0.0
    learn(setup, setup.collate(encoded), token_ids, advantages)
    peer = setup.take_gradients()
    learn(setup, setup.collate(encoded[:1]), token_ids[:1], advantages[:1], num_groups=len(encoded))
    gap = difference(setup.take_gradients(), peer)
    assert gap <= TOLERANCE, f"gradients: with and without groups that have no signal, they differ by {gap:.1e}"
    return gap


def check_same_as_trl(setup: Setup) -> float:
    """From TRL's prompts, answers and advantages our code has the gradients that TRL has; returns the gap."""
    kept = KeepGradients(setup)
    setup.use_stock_attention()
    with (
        trl_trainer(setup, 1, kept, learning_rate=0.0, max_grad_norm=0.0) as trainer,
        mock.patch.object(trainer, "_compute_loss", wraps=trainer._compute_loss) as spy,
    ):
        peer_loss = trainer.train().training_loss
    inputs = spy.call_args.args[1]
    prompts = setup.collate(setup.encode())
    repeated = prompts.repeat(setup.size.group_size)
    for name, ours in (("prompt_ids", repeated.input_ids), ("pixel_values", repeated.images["pixel_values"])):
        assert torch.equal(ours, inputs[name].to(ours)), f"{name}: TRL has others"
    shape = len(setup.messages), setup.size.group_size, setup.size.answer_tokens
    assert bool(inputs["completion_mask"].all()), "completions: expected none of TRL's to end before the limit"
    token_ids = inputs["completion_ids"].view(shape)
    advantages = inputs["advantages"].view(shape[:2])
    ours = torch.from_numpy(group_advantages(reward_texts(setup, token_ids))).to(advantages)
    gap = float((ours - advantages).abs().max())
    assert gap <= ADVANTAGE_TOLERANCE, f"advantages: ours and TRL's differ by {gap:.1e}"
    loss, _ = learn(setup, prompts, token_ids, advantages)
    # Advantages sum to 0 and so does the loss of the policy that sampled.
    assert math.isclose(loss, peer_loss, abs_tol=ADVANTAGE_TOLERANCE), f"loss: ours {loss}, TRL's {peer_loss}"
    gap = difference(setup.take_gradients(), kept.gradients)
    assert gap <= TOLERANCE, f"gradients: ours and TRL's differ by {gap:.1e} of their norm"
    return gap


CHECKS: dict[CaseName, Callable[[Setup], float | None]] = {
    "sampling": check_same_answers,
    "learning": check_same_learning,
    "step": check_same_as_trl,
    "fused": check_same_learning,
    "without_signal": check_same_without_silent,
}


def prepare(case: CaseName, setup: Setup) -> Callable[[str], Step]:
    """What gives a side's next step, in all cases but `step`."""
    prompts = setup.collate(setup.encode())
    token_ids, advantages = random_answers(setup)

    def prepare_side(side: str) -> Step:
        is_ours = side == "ours"
        setup.optimizer.zero_grad()
        if is_ours or case not in ("sampling", "learning"):
            set_focus_attention(setup.model)
        else:
            setup.use_stock_attention()
        match case:
            case "sampling":
                return lambda: (sample if is_ours else generate)(setup, prompts)
            case "learning":
                return lambda: learn(setup, prompts, token_ids, advantages, shared_prefix=is_ours)
            case "fused":
                return lambda: take_step(setup, is_fused=is_ours)
            case _:
                return lambda: take_step(setup, num_silent=len(setup.messages) // 2, skips_silent=is_ours)

    return prepare_side


def measure(case: CaseName, size: Size, args: Args) -> tuple[Readings, float | None]:
    """(Readings in `UNITS` by measure and side, the gap between the sides' gradients), once the sides have agreed."""
    num_prompts = CASES[case].num_prompts
    gap = CHECKS[case](Setup.build(size, device=args.device, num_prompts=num_prompts))
    setup = Setup.build(size, model_name=args.model, device=args.device, num_prompts=num_prompts)
    schedule = [*MEASURES, *["time"] * args.repetitions]
    if case != "step":
        return take_turns(prepare(case, setup), SIDES, schedule, args.device), gap
    turns = Turns(setup, schedule)
    setup.use_stock_attention()
    with (
        turns.opened,
        contextlib.suppress(torch.OutOfMemoryError),
        trl_trainer(setup, len(schedule), turns, learning_rate=LEARNING_RATE, max_grad_norm=1.0) as trainer,
    ):
        trainer.train()
        return turns.readings, gap
    setup.optimizer.zero_grad()
    alone = take_turns(lambda side: lambda: take_step(setup), ["ours"], schedule, args.device)
    return {name: {**sides, "peer": [math.nan] * len(sides["ours"])} for name, sides in alone.items()}, gap


def peak_flops(args: Args) -> float:
    """The device's peak FLOP/s at the weights' type; nan if it is not known."""
    if args.peak_tflops is not None:
        return args.peak_tflops * 1e12
    if args.device == "cuda" and args.dtype == "bfloat16":
        words = set(re.split(r"[\s-]", torch.cuda.get_device_name()))
        for name, tflops in PEAK_TFLOPS.items():
            if words.issuperset(name.split()):
                return tflops * 1e12
    return math.nan


def compare_all(
    case: CaseName, size: Size, readings: Readings, gap: float | None, *, peak: float = math.nan
) -> list[Line]:
    """A JSON line for each measure of a case.

    Args:
        case: Its name.
        size: Of its prompts and answers.
        readings: By measure and side, in `UNITS`, both sides' rounds in the same order.
        gap: Between the sides' gradients; None where there are none.
        peak: FLOP/s of the device.
    """
    num_tokens = CASES[case].num_prompts * size.group_size * size.answer_tokens
    middle = {name: {side: statistics.median(sides[side]) for side in SIDES} for name, sides in readings.items()}
    seconds = {side: middle["time"][side] / 1e3 for side in SIDES}
    speeds = {
        "tokens_per_second": {side: round(num_tokens / seconds[side], 2) for side in SIDES},
        "peak_share": {side: round(middle["FLOPs"][side] * 1e9 / seconds[side] / peak, 4) for side in SIDES},
    }
    lines = []
    for name in UNITS:
        ratios = [peer / ours for ours, peer in zip(*(readings[name][side] for side in SIDES), strict=True)]
        lines.append(
            {
                "case": f"{case}, P {size.prompt_tokens}, G {size.group_size}: {name}",
                "name": case,
                "measure": name,
                **{side: round(middle[name][side], 4) for side in SIDES},
                "ratio": round(statistics.median(ratios), 4),
                "ratio_range": [round(min(ratios), 4), round(max(ratios), 4)],
                "unit": UNITS[name],
                "ours_name": CASES[case].ours,
                "peer_name": CASES[case].peer,
                "prompts": CASES[case].num_prompts,
                **dataclasses.asdict(size),
                "token_ratio": round(size.token_ratio, 4),
                "gradient_difference": gap,
                **speeds,
            }
        )
    return lines


def build_table(case: CaseName, lines: Sequence[Line], args: Args) -> Table:
    """One case in all its sizes.

    Args:
        case: Its name.
        lines: Of all cases, sizes and measures.
        args: Where and what was measured.
    """
    has_peak = any(line["peak_share"]["ours"] > 0 for line in lines)  # nan is not
    table = Table(
        title=f"{case}: {CASES[case].ours},\nagainst {CASES[case].peer}",
        caption=f"{'CPU time' if args.device == 'cpu' else 'Time'}; x: so many times more in the peer, median of rounds"
        + ("; peak: share of peak FLOP/s" if has_peak else ""),
        box=SIMPLE,
        padding=0,
    )
    table.add_column("P", justify="right")
    table.add_column("G", justify="right")
    table.add_column("tokens\nx", justify="right")
    for name, unit in UNITS.items():
        for column in (f"{name}\n{unit}", *(["\npeer"] if name == "time" else []), "\nx"):
            table.add_column(column, justify="right")
    table.add_column("tokens\n/ s", justify="right")
    if has_peak:
        table.add_column("peak", justify="right")
    chosen = [line for line in lines if line["name"] == case]
    for start in range(0, len(chosen), len(UNITS)):
        measures = chosen[start : start + len(UNITS)]
        first = measures[0]
        cells = [f"{first['prompt_tokens']:,}", str(first["group_size"]), f"{first['token_ratio']:.2f}"]
        for line in measures:
            sides = SIDES if line["measure"] == "time" else SIDES[:1]
            cells += [*(f"{line[side]:,.0f}" for side in sides), f"{line['ratio']:.2f}"]
        cells.append(f"{first['tokens_per_second']['ours']:,.0f}")
        table.add_row(*cells, *([f"{first['peak_share']['ours']:.0%}"] if has_peak else []))
    return table


def main() -> None:
    quiet_libraries()
    with user_errors():
        args = tyro.cli(Args)
    run_quietly_on_one_thread()
    packages = ("torch", "transformers", *(["trl"] if "step" in args.cases else []))
    common = {
        "device": args.device,
        "dtype": args.dtype,
        "model": args.model,
        "repetitions": args.repetitions,
        "machine": machine(args.device, packages),
        "command": command(),
    }
    lines: list[Line] = []
    for case in args.cases:
        for prompt_tokens in args.prompt_tokens:
            for group_size in args.group_sizes:
                size = Size(prompt_tokens, group_size, args.answer_tokens)
                for line in compare_all(case, size, *measure(case, size, args), peak=peak_flops(args)):
                    print_line({**line, **common})
                    lines.append(line)
    console = Console()
    for case in args.cases:
        console.print(build_table(case, lines, args))


if __name__ == "__main__":
    main()
