"""Check that each way to compute the same is as near to float32 as the plain way is, in bfloat16.

The truth is transformers' own code in float32, prompts repeated. The plain way is the same under bfloat16 autocast, and
its distance from the truth is what rounding makes. A path agrees if it is at most `FACTOR` times as far. A control, the
plain way with pictures in another order, has to be further away than that, or the check would see no fault.

The model has two layers, heads of 128 numbers as Qwen2-VL has them, adapters that change what it says, and weights so
wide that attention is not uniform.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from transformers import Qwen2VLForConditionalGeneration

from benchmarks.attention.setup import Setup as AttentionSetup
from benchmarks.step.checks import difference, random_answers
from benchmarks.step.setup import LORA_RANK, SEED, Setup, Size, build_messages
from benchmarks.step.sides import draw, learn
from focus_agents.engine import scoring
from focus_agents.engine.forward import encode_images, prefill
from focus_agents.engine.scoring import score_completions
from focus_agents.models.adapters import add_adapters, base_model, family_of
from focus_agents.models.attention import choose_attention, set_focus_attention
from focus_agents.models.inputs import PromptBatch
from focus_agents.models.lean_adapters import lean_adapters
from focus_agents.models.loading import TINY, load_processor
from focus_agents.models.settings import Attention
from focus_agents.models.tiny import build_config
from focus_agents.policies.reuse import ReusingPolicy
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.records import Sampling
from focus_env.errors import MissingDependencyError

FACTOR = 2.0
"""How many times as far from float32 as the plain way a path may be."""
WIDTH = 512
"""Of the model: four heads of 128 numbers."""
GROUP_SIZE, ANSWER_TOKENS = 4, 40
"""Of two groups: more answer tokens than a chunk of logits has rows."""
SHORTER = 24
"""Tokens by which the second prompt is shorter, so that the first columns of its row are padding."""
ATTENTION_WEIGHT = 1e4
"""Of the attention loss, so that it makes the gradients, of which it is otherwise a small part."""
LOGPROBS, GRADIENTS = "log-probabilities", "gradients"

Values = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Gap:
    """The distance of a path from the truth, as a share of the truth's norm; `limit` is what it may be."""

    what: str
    gap: float
    limit: float
    must_exceed: bool = False

    @property
    def verdict(self) -> str:
        """The word for the gap; nan agrees with nothing."""
        if self.must_exceed:
            return "seen" if self.gap > self.limit else "blind"
        return "agrees" if self.gap <= self.limit else "differs"


class Bench:
    """The same model twice, in float32 and as a training in bfloat16 holds it, with two prompts and their answers."""

    def __init__(self, device: str, prompt_tokens: int, *, width: int = WIDTH) -> None:
        size = Size(prompt_tokens, GROUP_SIZE, ANSWER_TOKENS)
        config = build_config(load_processor(TINY).tokenizer, hidden_size=width, num_layers=2)
        config.text_config.initializer_range = 0.1
        torch.manual_seed(SEED)
        model = add_adapters(Qwen2VLForConditionalGeneration(config).to(device), rank=LORA_RANK)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.05)
        self.wide = self._around(model, size, device, is_narrow=False)
        narrow = copy.deepcopy(model)
        for parameter in narrow.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
        self.narrow = self._around(narrow, size, device, is_narrow=True)
        self.prompts = self.wide.collate(self.wide.encode())
        self.token_ids, self.advantages = random_answers(self.wide)
        self.truth = self.learn(self.wide, is_shared=False)
        self.plain = self.learn(self.narrow, is_shared=False)

    @staticmethod
    def _around(model: Any, size: Size, device: str, *, is_narrow: bool) -> Setup:
        setup = Setup.around(model, size, device=device, is_narrow=is_narrow)
        lengths = (size.prompt_tokens, size.prompt_tokens - SHORTER)
        messages = tuple(build_messages(length, setup.processor, seed=seed) for seed, length in enumerate(lengths))
        setup.use_stock_attention()
        return dataclasses.replace(setup, messages=messages)

    def copy(self) -> Setup:
        """Return the model in bfloat16 once more, to be changed."""
        return self._around(copy.deepcopy(self.narrow.model), self.narrow.size, self.narrow.device, is_narrow=True)

    def learn(
        self, setup: Setup, *, is_shared: bool, prompts: PromptBatch | None = None, is_fused: bool = False
    ) -> Values:
        """Return log-probabilities of the answers, and gradients."""
        prompts = self.prompts if prompts is None else prompts
        with setup.precision():
            prefix = prefill(setup.model, prompts) if is_fused else None
        how: Any = {"shared_prefix": is_shared, "prefix": prefix}
        _, logprobs = learn(setup, prompts, self.token_ids, self.advantages, **how)
        return {LOGPROBS: logprobs, GRADIENTS: setup.take_gradients()}

    @torch.no_grad()
    def score(self, setup: Setup, token_ids: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities of sampled answers by transformers' attention, prompts repeated."""
        setup.use_stock_attention()
        lengths = torch.full(token_ids.shape[:2], token_ids.shape[2], device=token_ids.device)
        banned = setup.banned_token_ids
        with setup.precision():
            return score_completions(
                setup.model, self.prompts, token_ids, lengths, banned_token_ids=banned, shared_prefix=False
            )[0]

    def gaps(self, ours: Values, *, must_exceed: bool = False) -> list[Gap]:
        """Compare with the truth, by what rounding does to the plain way."""
        return [compare(what, ours[what], self.plain[what], self.truth[what], must_exceed) for what in ours]


def compare(what: str, ours: torch.Tensor, plain: torch.Tensor, truth: torch.Tensor, must_exceed: bool = False) -> Gap:
    """Return the gap of ours from the truth beside `FACTOR` times that of the plain way."""
    ours, plain, truth = (part.detach().float().cpu() for part in (ours, plain, truth))
    return Gap(what, difference(ours, truth), FACTOR * difference(plain, truth), must_exceed)


def own_attention(bench: Bench) -> list[Gap]:
    """Learn by our attention function, prompts repeated."""
    set_focus_attention(bench.narrow.model)
    return bench.gaps(bench.learn(bench.narrow, is_shared=False))


def shared_prompts(bench: Bench) -> list[Gap]:
    """Learn from a group as one row; the second prompt is padded."""
    return bench.gaps(bench.learn(bench.narrow, is_shared=True))


def answers_over_cache(bench: Bench) -> list[Gap]:
    """Learn from answers behind the keys and values of the sampler, with gradient through both."""
    set_focus_attention(bench.narrow.model)
    return bench.gaps(bench.learn(bench.narrow, is_shared=True, is_fused=True))


def logits_in_chunks(bench: Bench) -> list[Gap]:
    """Make the logits of some tokens at a time, and again in the backward pass."""
    assert bench.token_ids.numel() > 256  # else there is one chunk
    with mock.patch.object(scoring, "LOGITS_PER_CHUNK", 1):
        return bench.gaps(bench.learn(bench.narrow, is_shared=True))


def layers_made_again(bench: Bench) -> list[Gap]:
    """Learn from a group as one row under gradient checkpointing."""
    setup = bench.copy()
    base_model(setup.model).activation_checkpointing_enable({"use_reentrant": False})
    return bench.gaps(bench.learn(setup, is_shared=True))


def flash_attention(bench: Bench) -> list[Gap]:
    """Learn by flash attention, with repeated prompts and with what it can do of a shared row."""
    gaps: list[Gap] = []
    for is_shared in (False, True):
        setup = bench.copy()
        attention: Attention = "flash"
        choose_attention(setup.model, attention, "bf16")
        values = bench.learn(setup, is_shared=is_shared)
        named = {f"{what}, {'shared' if is_shared else 'repeated'}": values[what] for what in values}
        gaps += [
            compare(name, value, bench.plain[what], bench.truth[what])
            for (name, value), what in zip(named.items(), values, strict=True)
        ]
    return gaps


def decoding(bench: Bench) -> list[Gap]:
    """Compare log-probabilities of sampled tokens, with our cache and lean adapters, with those of scoring."""
    setup, gaps = bench.narrow, []
    set_focus_attention(setup.model)
    for copies, name in ((True, "merged copies"), (False, "adapters apart")):
        with setup.precision(), lean_adapters(setup.model, copies=copies):
            sampled = draw(setup, bench.prompts)
        plain, truth = (bench.score(of, sampled.token_ids) for of in (bench.narrow, bench.wide))
        gaps.append(compare(f"{LOGPROBS}, {name}", sampled.logprobs, plain, truth))
    return gaps


def beginnings_once(bench: Bench) -> list[Gap]:
    """Sample answers behind supports that are encoded alone."""
    setup = bench.narrow
    policy = VLMPolicy(setup.model, setup.processor, precision="bf16")
    reusing = ReusingPolicy(policy)
    set_focus_attention(setup.model)
    with mock.patch.object(setup.processor, "banned_token_ids", tuple(setup.banned_token_ids)):
        generations = reusing.generate(
            setup.messages, num_completions=GROUP_SIZE, sampling=Sampling(1.0, ANSWER_TOKENS), seeds=(SEED, SEED + 1)
        )
    assert reusing.num_encoded == len(setup.messages), "expected the beginning of each prompt to be encoded alone"
    answers = [generation.completions for generation in generations]
    token_ids = torch.tensor([[one.token_ids.tolist() for one in group] for group in answers], device=setup.device)
    logprobs = torch.tensor([[one.logprobs.tolist() for one in group] for group in answers])
    plain, truth = (bench.score(of, token_ids) for of in (bench.narrow, bench.wide))
    return [compare(LOGPROBS, logprobs, plain, truth)]


def lean(bench: Bench) -> list[Gap]:
    """Run adapters by the shortest way, to the bit what PEFT computes."""
    setup = bench.narrow
    setup.use_stock_attention()
    states = []
    for context in (contextlib.nullcontext(), lean_adapters(setup.model, copies=False)):
        with torch.no_grad(), setup.precision(), context:
            states.append(prefill(setup.model, bench.prompts).hidden.float())
    peft, ours = states
    return [Gap("hidden states", difference(ours, peft), 0.0)]


def pictures_in_one_call(bench: Bench) -> list[Gap]:
    """Encode equal pictures as one batch of the vision tower's attention."""
    features = []
    for setup, is_batched in ((bench.wide, False), (bench.narrow, False), (bench.copy(), True)):
        if is_batched:
            family_of(setup.model).batch_pictures(base_model(setup.model))
        with setup.precision():
            features.append(torch.cat([part.float().flatten() for part in encode_images(setup.model, bench.prompts)]))
    truth, plain, ours = features
    return [compare("features", ours, plain, truth)]


def support_masses(bench: Bench) -> list[Gap]:
    """Take stage 1's step by measured attention, and by the maps that transformers returns."""
    values: list[torch.Tensor] = []
    num_tokens = bench.narrow.size.prompt_tokens
    for dtype, variant in (("float32", "eager"), ("bfloat16", "eager"), ("bfloat16", "focus")):
        setup = AttentionSetup.build(num_tokens, is_checkpointed=False, dtype=dtype, device=bench.narrow.device)
        setup = dataclasses.replace(setup, config=dataclasses.replace(setup.config, beta=ATTENTION_WEIGHT))
        setup.prepare(variant)()
        gradients = [p.grad.flatten() for p in setup.model.parameters() if p.grad is not None]
        values.append(torch.cat(gradients))
    truth, plain, ours = values
    return [compare(GRADIENTS, ours, plain, truth)]


def collectives(bench: Bench) -> list[Gap]:
    """Send gradients through NCCL, or gloo on a CPU, with one process: they come back as they were."""
    is_cuda = bench.narrow.device == "cuda"
    before = bench.plain[GRADIENTS]
    own = contextlib.ExitStack()
    with own:
        if not dist.is_initialized():
            store = dist.HashStore()  # type: ignore[attr-defined]  # not said to be exported
            dist.init_process_group("nccl" if is_cuda else "gloo", store=store, rank=0, world_size=1)
            own.callback(dist.destroy_process_group)
        reduced, sent = before.clone(), before.clone()
        dist.all_reduce(reduced)
        dist.broadcast(sent, src=0)
        gathered = [torch.empty_like(before)]
        dist.all_gather(gathered, before)
        dist.barrier()
    named = {"all_reduce": reduced, "broadcast": sent, "all_gather": gathered[0]}
    return [Gap(name, difference(after, before), 0.0) for name, after in named.items()]


def other_pictures(bench: Bench) -> list[Gap]:
    """Look at wrong pictures, as a control: the limit has to see it."""
    features = encode_images(bench.narrow.model, bench.prompts)
    prompts = dataclasses.replace(bench.prompts, image_features=tuple(part.flip(0) for part in features))
    bench.narrow.use_stock_attention()
    return bench.gaps(bench.learn(bench.narrow, is_shared=False, prompts=prompts), must_exceed=True)


PATHS: Mapping[str, Callable[[Bench], list[Gap]]] = {
    "control: pictures in another order": other_pictures,
    "own attention function": own_attention,
    "shared prompts": shared_prompts,
    "answers over the sampler's cache": answers_over_cache,
    "logits in chunks": logits_in_chunks,
    "gradient checkpointing": layers_made_again,
    "flash attention": flash_attention,
    "decoding with lean adapters": decoding,
    "beginnings encoded once": beginnings_once,
    "lean adapters": lean,
    "pictures in one call": pictures_in_one_call,
    "support attention": support_masses,
    "collectives, one process": collectives,
}
"""All paths by name. The code has none by torch's flex attention."""


def check_path(name: str, bench: Bench) -> list[dict[str, Any]]:
    """Return a row for each thing that a path is compared in, or one that says why there is none."""
    try:
        gaps = PATHS[name](bench)
    except MissingDependencyError as error:
        return [{"path": name, "status": "left out", "reason": str(error)}]
    return [{"path": name, "status": gap.verdict, "what": gap.what, "gap": gap.gap, "limit": gap.limit} for gap in gaps]
