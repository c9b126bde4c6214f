"""Print the memory of the processes of a 7B model: the count that commands print before a run, as a table.

    python benchmarks/memory_model.py

Prints a table of docs/scaling.md in Markdown. Nothing is run: it is `focus_agents.models.budget` for the sizes of
Qwen2-VL-7B and prompts of five pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.scaling_model import markdown
from benchmarks.step.setup import large_config
from focus_agents.grpo.budget import SAMPLING, learner_memory, sampler_memory
from focus_agents.grpo.settings import GRPOSettings
from focus_agents.models import budget
from focus_agents.models.budget import Memory, PromptSize
from focus_agents.models.loading import TINY, load_processor
from focus_agents.models.settings import FinetuningSettings, Precision
from focus_agents.models.shape import ModelShape, shape_of
from focus_agents.sft.budget import TRAINING, VALIDATION, worker_memory
from focus_agents.sft.settings import SFTConfig, SFTSchedule

NUM_PICTURES = 5
TEXT_TOKENS = 252
"""Of the default template in Qwen2-VL's own tokens: four boxes, the question, the chat template."""
PICTURE_TOKENS = {"352": 350, "1280x720": 1196, "1920x1080": 2691}
"""By the budget, or the size of a picture that is shown as it is."""
LORA = FinetuningSettings(lora_rank=8, precision="bf16")
PARTS = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "vision",
    "logits",
    "prompts",
    "cache",
    "merged copies",
    "pictures",
)


def prompt_of(pictures: str) -> PromptSize:
    """Return a prompt of four supports and a query."""
    visual = NUM_PICTURES * PICTURE_TOKENS[pictures]
    patches = 4 * visual
    return PromptSize(
        tokens=visual + TEXT_TOKENS,
        visual_tokens=visual,
        num_pictures=NUM_PICTURES,
        patches=patches,
        pixel_bytes=4 * patches * 3 * 2 * 14 * 14,
    )


def cases(shape: ModelShape) -> list[tuple[str, str, Memory]]:
    """Return the kind of case, the pictures, and the episodes."""
    found: list[tuple[str, str, Memory]] = []
    paper = SFTConfig(lora_rank=8, precision="bf16", labels="full", micro_batch_size=1)
    schedule = SFTSchedule(max_completion_tokens=50)
    settings = GRPOSettings(micro_batch_groups=1, max_completion_tokens=50)
    checkpointing = FinetuningSettings(lora_rank=8, precision="bf16", gradient_checkpointing=True)
    for pictures in PICTURE_TOKENS:
        prompt = prompt_of(pictures)
        worker = worker_memory(shape, paper, schedule, prompts=(prompt, prompt))
        found.append(("stage 1, one episode in a pass", pictures, worker[TRAINING]))
        found.append(("stage 1, validation", pictures, worker[VALIDATION]))
    for pictures in PICTURE_TOKENS:
        prompt = prompt_of(pictures)
        for name, gigabytes in (("on 40 GB", 40), ("on 80 GB", 80)):
            memory = sampler_memory(shape, LORA, settings, prompts=(prompt, prompt), device_bytes=gigabytes * budget.GB)
            found.append((f"stage 2, sampling 16 groups of 8, {name}", pictures, memory[SAMPLING]))
        for name, model in (("", LORA), (", checkpointing", checkpointing)):
            learner = learner_memory(shape, model, settings, prompt=prompt)
            found.append((f"stage 2, learning from a group of 8{name}", pictures, learner))
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    for precision in precisions:
        prompt = prompt_of("1280x720")
        answered = budget.answering(shape, precision, prompt=prompt, num_prompts=32, answer_tokens=50)
        weights = {"weights": shape.parameters * float(budget.NUMBER_BYTES[precision])}
        found.append((f"evaluation, {precision}", "1280x720", budget.add(weights, answered)))
    return found


def memory_table(found: Sequence[tuple[str, str, Memory]]) -> str:
    """Return gigabytes of each case, in all and by what holds them."""
    rows = []
    for what, pictures, memory in found:
        parts = [memory.get(name, 0.0) / budget.GB for name in PARTS]
        rows.append([what, pictures, f"{budget.total(memory) / budget.GB:.1f}", *(f"{part:.1f}" for part in parts)])
    return markdown(["a process of", "pictures", "GB", *PARTS], rows)


def main() -> None:
    shape = shape_of(large_config(load_processor(TINY).tokenizer))
    print(memory_table(cases(shape)))


if __name__ == "__main__":
    main()
