"""Estimate the cost of a GRPO step of a 7B model on 8 to 512 GPUs: arithmetic from assumptions, not a measurement.

    python benchmarks/scaling_model.py

Prints the tables of docs/scaling.md in Markdown: the assumptions, and what follows from them. Nothing is run. Half of
the GPUs sample and half learn, each process on a GPU of its own.

Letters: P prompt tokens, G answers per group, T tokens of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

KILO, MEGA, GIGA, TERA = 1e3, 1e6, 1e9, 1e12
FLOPS_PER_PRODUCT = 2
"""A multiplication and an addition."""
PATCHES_PER_TOKEN = 4
BF16_BYTES, FP32_BYTES = 2, 4


def assume(value: float, text: str, source: str) -> Any:
    """Return a field with what a reader has to know of it."""
    return field(default=value, metadata={"text": text, "source": source})


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """All that the tables rest on."""

    num_layers: int = assume(28, "decoder layers", "Qwen2-VL-7B's configuration")
    hidden_size: int = assume(3584, "hidden size", "the same")
    key_value_size: int = assume(512, "key-value heads x head size", "the same, 4 x 128")
    intermediate_size: int = assume(18944, "intermediate size", "the same")
    vocab_size: int = assume(152064, "vocabulary", "the same")
    vision_parameters: int = assume(675_000_000, "parameters of the vision tower, frozen", "its report")
    vision_layers: int = assume(32, "its layers", "its configuration")
    vision_size: int = assume(1280, "its width", "the same")
    lora_rank: int = assume(8, "LoRA rank, on the seven projections of each layer", "`--lora-rank 8`")

    prompt_tokens: int = assume(2048, "P", "chosen")
    num_pictures: int = assume(5, "pictures of a prompt", "4 shots and the query")
    picture_tokens: int = assume(361, "tokens of a picture, each of 4 patches", "19 x 19, what P leaves room for")
    group_size: int = assume(8, "G", "chosen")
    answer_tokens: int = assume(32, "T", "chosen")
    host_seconds: float = assume(
        0.18, "seconds until five pictures are decoded, scaled, cut and laid out for the tower", "1 CPU core"
    )
    host_threads: float = assume(4, "threads of a runner that do so, as if none waited; up to 8 do", "guess")
    rollout_batch_groups: int = assume(16, "most groups that a runner samples together", "the default")

    peak_flops: float = assume(989e12, "peak FLOP/s of a GPU in bfloat16", "H100 SXM, data sheet")
    memory_bandwidth: float = assume(3.35e12, "bytes/s of its memory", "the same")
    compute_share: float = assume(0.4, "share of peak FLOP/s in prefill and learning", "guess")
    memory_share: float = assume(0.7, "share of its memory's bytes/s in decoding", "guess")
    launch_seconds: float = assume(0.025, "least seconds of a decoding step, bound by launches", "guess")
    gpus_per_node: int = assume(8, "GPUs of a node", "chosen")
    reduce_bandwidth: float = assume(20e9, "bytes/s of an all-reduce between nodes", "guess")
    reduce_latency: float = assume(20e-6, "seconds of each of its hops", "guess")
    transfer_bandwidth: float = assume(2.5e9, "bytes/s into or out of a node through Ray", "guess")
    write_bandwidth: float = assume(0.7e9, "bytes/s of a process that puts tensors into the object store", "1 CPU core")
    read_bandwidth: float = assume(3e9, "bytes/s of one that gets them", "1 CPU core")
    driver_in_seconds: float = assume(
        0.001, "seconds in which the driver takes in a group without its prompt", "1 CPU core"
    )
    driver_out_seconds: float = assume(0.0004, "seconds in which it deals one to a learner", "1 CPU core")


@dataclass(frozen=True)
class Cost:
    """A step of `num_groups` groups on `num_gpus` GPUs.

    Attributes:
        num_gpus: Half of them sample, half of them learn.
        num_groups: Of the step.
        sampling: Seconds, until the prompts are in the object stores.
        learning: Seconds, from the fetching of prompts to the exchange of gradients.
        reducing: Seconds of that exchange.
        sync_bytes: Weights and the snapshot that travel between nodes.
        sync: Seconds until the runners have the weights.
        prompt_bytes: Prompts that travel from runners to learners.
        driver_bytes: Answers and log-probabilities that the driver takes in; as many go out again.
        driver_in: Seconds until it has them.
        driver_out: Seconds until the learners have them.
    """

    num_gpus: int
    num_groups: int
    sampling: float
    learning: float
    reducing: float
    sync_bytes: float
    sync: float
    prompt_bytes: float
    driver_bytes: float
    driver_in: float
    driver_out: float

    @property
    def on_policy(self) -> float:
        """Seconds of a step, one thing after the other."""
        return self.sampling + self.driver_in + self.driver_out + self.learning + self.sync

    @property
    def ahead(self) -> float:
        """Seconds of a step whose successor is sampled in the meantime."""
        return self.driver_in + max(self.sampling, self.driver_out + self.learning + self.sync)


def projection_shapes(a: Assumptions) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the seven projections of a layer: q, k, v, o, gate, up, down."""
    hidden, kv, wide = a.hidden_size, a.key_value_size, a.intermediate_size
    return [
        (hidden, hidden),
        (hidden, kv),
        (hidden, kv),
        (hidden, hidden),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    ]


def layer_parameters(a: Assumptions) -> int:
    """Return weights that each token passes, without embedding and output head."""
    return a.num_layers * sum(inputs * outputs for inputs, outputs in projection_shapes(a))


def lora_parameters(a: Assumptions) -> int:
    """Count the trained parameters: two matrices for each projection."""
    return a.num_layers * sum(a.lora_rank * (inputs + outputs) for inputs, outputs in projection_shapes(a))


def answer_columns(a: Assumptions) -> int:
    """Answer tokens that the model is fed; an answer's last token predicts nothing."""
    return a.group_size * (a.answer_tokens - 1)


def attention_flops(a: Assumptions, num_pairs: float) -> float:
    """Return scores of (query, key) pairs in all decoder layers, and their products with the values."""
    return 2 * FLOPS_PER_PRODUCT * num_pairs * a.hidden_size * a.num_layers


def vision_flops(a: Assumptions) -> float:
    """Return the pictures of a prompt, forward; attention stays within a picture."""
    patches = PATCHES_PER_TOKEN * a.picture_tokens
    attention = 2 * FLOPS_PER_PRODUCT * patches**2 * a.vision_size * a.vision_layers
    return a.num_pictures * (FLOPS_PER_PRODUCT * a.vision_parameters * patches + attention)


def prefill_flops(a: Assumptions) -> float:
    """Return a prompt with its pictures, forward."""
    attention = attention_flops(a, a.prompt_tokens**2 / 2)
    return vision_flops(a) + FLOPS_PER_PRODUCT * layer_parameters(a) * a.prompt_tokens + attention


def learning_flops(a: Assumptions) -> float:
    """Return a group as one row, forward and backward.

    The base is frozen: gradients pass through it, which costs another forward, but its weights have none, so that it is
    twice a forward and not three times. The vision tower's output came with the group. Attention costs 2.5 times as
    much backward, where its scores are computed again.
    """
    columns = answer_columns(a)
    tokens = a.prompt_tokens + columns
    pairs = a.prompt_tokens**2 / 2 + columns * (a.prompt_tokens + a.answer_tokens / 2)
    head = a.hidden_size * a.vocab_size * a.group_size * a.answer_tokens
    return 2 * FLOPS_PER_PRODUCT * (layer_parameters(a) * tokens + head) + 3.5 * attention_flops(a, pairs)


def decoding_step(a: Assumptions, num_groups: float) -> float:
    """Return seconds of a token for each answer of a batch: to read weights, keys and values, or to launch."""
    weights = layer_parameters(a) + a.hidden_size * a.vocab_size
    cache = num_groups * a.prompt_tokens * a.num_layers * 2 * a.key_value_size
    reading = BF16_BYTES * (weights + cache) / (a.memory_bandwidth * a.memory_share)
    return max(a.launch_seconds, reading)


def prompt_bytes(a: Assumptions) -> float:
    """Return the bytes of a prompt on its way from store to store: the frozen tower's features in bfloat16, and ids."""
    return BF16_BYTES * a.num_pictures * a.picture_tokens * a.hidden_size + 8 * a.prompt_tokens


def answer_bytes(a: Assumptions) -> float:
    """Return the bytes of a group on its way through the driver: ids of its answers, and log-probabilities."""
    return (8 + 4) * a.group_size * a.answer_tokens


def pixel_bytes(a: Assumptions) -> float:
    """Count the bytes of a prompt's pictures as float32 patches of 14 x 14 pixels, 3 colours, 2 frames."""
    return FP32_BYTES * a.num_pictures * a.picture_tokens * PATCHES_PER_TOKEN * 3 * 2 * 14 * 14


def estimate(a: Assumptions, *, num_gpus: int, num_groups: int) -> Cost:
    """Return the cost of a step.

    Args:
        a: What is assumed.
        num_gpus: 2 or more; with more than a node, samplers and learners have nodes of their own.
        num_groups: Of the step; processes beyond one for each group stand idle.
    """
    num_processes = num_gpus // 2
    speed = a.peak_flops * a.compute_share
    share = math.ceil(num_groups / num_processes)
    batches = [min(a.rollout_batch_groups, share - start) for start in range(0, share, a.rollout_batch_groups)]
    decoding = sum((a.answer_tokens - 1) * decoding_step(a, batch) for batch in batches)
    lora_bytes = FP32_BYTES * lora_parameters(a)
    reducing = 2 * (num_processes - 1) * (lora_bytes / num_processes / a.reduce_bandwidth + a.reduce_latency)
    num_nodes = math.ceil(num_gpus / a.gpus_per_node)
    # Learner 0 writes its weights and two moments of AdamW, and the driver's node fetches them.
    snapshot = 3 * lora_bytes
    sync_bytes = lora_bytes * (num_nodes // 2) + (snapshot if num_nodes > 1 else 0)
    sync = snapshot / a.write_bandwidth + sync_bytes / a.transfer_bandwidth + lora_bytes / a.read_bandwidth
    prompts = share * prompt_bytes(a)
    # The learners of a node share what goes into it. Each reads a prompt twice, first to see that none is lost.
    crossing = min(num_processes, a.gpus_per_node) * prompts / a.transfer_bandwidth if num_nodes > 1 else 0.0
    return Cost(
        num_gpus=num_gpus,
        num_groups=num_groups,
        sampling=share * (a.host_seconds / a.host_threads + prefill_flops(a) / speed)
        + decoding
        + prompts / a.write_bandwidth,
        learning=crossing + 2 * prompts / a.read_bandwidth + share * learning_flops(a) / speed + reducing,
        reducing=reducing,
        sync_bytes=sync_bytes,
        sync=sync,
        prompt_bytes=num_groups * prompt_bytes(a),
        driver_bytes=num_groups * answer_bytes(a),
        driver_in=num_groups * a.driver_in_seconds,
        driver_out=num_groups * a.driver_out_seconds,
    )


SIZES = ((8, 32), (64, 256), (512, 2048), (8, 256), (512, 256))
"""(GPUs, groups): four groups for each GPU, then 256 groups for all."""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def assumption_table(a: Assumptions) -> str:
    """Return the assumptions, with their sources."""
    rows = [
        [entry.metadata["text"], _readable(getattr(a, entry.name)), entry.metadata["source"]] for entry in fields(a)
    ]
    return markdown(["assumption", "value", "from"], rows)


def _readable(value: float) -> str:
    for unit, name in ((TERA, "T"), (GIGA, "G"), (MEGA, "M")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g}"


def parameter_table(a: Assumptions) -> str:
    """Return the figures for one group, whatever the number of GPUs."""
    speed = a.peak_flops * a.compute_share
    rows = [
        ["weights that a token passes", f"{layer_parameters(a):,}"],
        ["LoRA parameters", f"{lora_parameters(a):,}"],
        ["weights of a sync, float32", f"{FP32_BYTES * lora_parameters(a) / MEGA:.1f} MB"],
        ["the same in bfloat16, which is not what is sent", f"{BF16_BYTES * lora_parameters(a) / MEGA:.1f} MB"],
        ["prefill of a group, of which vision", f"{prefill_flops(a) / TERA:.1f}, {vision_flops(a) / TERA:.1f} TFLOP"],
        ["learning from a group", f"{learning_flops(a) / TERA:.1f} TFLOP"],
        ["prefill and learning", f"{prefill_flops(a) / speed:.3f}, {learning_flops(a) / speed:.3f} s"],
        ["a prompt with features", f"{prompt_bytes(a) / MEGA:.1f} MB"],
        ["a prompt with pixels instead", f"{pixel_bytes(a) / MEGA:.1f} MB"],
        ["answers and log-probabilities", f"{answer_bytes(a) / KILO:.1f} kB"],
    ]
    return markdown(["of one group", "amount"], rows)


def cost_table(a: Assumptions) -> str:
    """Return the costs of a step."""
    header = [
        "GPUs", "groups", "sampling s", "learning s", "of it all-reduce s", "weights MB", "sync s", "prompts GB",
        "driver MB", "driver s", "step s", "ahead s", "groups/s ahead",
    ]  # fmt: skip
    rows = []
    for num_gpus, num_groups in SIZES:
        cost = estimate(a, num_gpus=num_gpus, num_groups=num_groups)
        rows.append(
            [
                f"{num_gpus}",
                f"{num_groups:,}",
                f"{cost.sampling:.2f}",
                f"{cost.learning:.2f}",
                f"{cost.reducing:.3f}",
                f"{cost.sync_bytes / MEGA:,.0f}",
                f"{cost.sync:.2f}",
                f"{cost.prompt_bytes / GIGA:.2f}",
                f"{cost.driver_bytes / MEGA:.2f}",
                f"{cost.driver_in + cost.driver_out:.2f}",
                f"{cost.on_policy:.2f}",
                f"{cost.ahead:.2f}",
                f"{num_groups / cost.ahead:.1f}",
            ]
        )
    return markdown(header, rows)


def driver_limit(a: Assumptions) -> float:
    """Return groups a second that a driver can pass on, however many GPUs there are."""
    return 1 / (a.driver_in_seconds + a.driver_out_seconds)


def main() -> None:
    a = Assumptions()
    for table in (assumption_table(a), parameter_table(a), cost_table(a)):
        print(table, end="\n\n")
    print(f"A driver passes on at most {driver_limit(a):,.0f} groups a second.")


if __name__ == "__main__":
    main()
