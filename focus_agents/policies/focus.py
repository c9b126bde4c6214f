"""A localizer to call: pictures with boxes in, a box out, and where the model looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from focus_agents.engine.forward import image_inputs, prompt_reach
from focus_agents.models.adapters import base_model, can_merge, family_of, merge_adapters
from focus_agents.models.attention import choose_attention, full_attention_layers
from focus_agents.models.devices import chosen_device
from focus_agents.models.inputs import EncodedPrompt
from focus_agents.models.loading import check_model, load_model, load_template
from focus_agents.models.pictures import picture_budget
from focus_agents.models.processing import VLMProcessor
from focus_agents.models.settings import Precision
from focus_agents.models.shipped import model_name
from focus_agents.models.support_mass import SupportProbe
from focus_agents.models.views import View, box_tokens, num_image_tokens, paint
from focus_agents.policies.vlm import VLMPolicy
from focus_agents.rollout.collect import ask_policy
from focus_agents.rollout.records import MAX_COMPLETION_TOKENS, Generation, Policy, Sampling
from focus_env.arrays import Picture, as_picture
from focus_env.pictures import FourNumbers, as_supports
from focus_env.prompts import PromptTemplate
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray, ParseStatus


@dataclass(frozen=True, slots=True)
class Localization:
    """An answer.

    Attributes:
        box: `xyxy` in pixels of the query picture; None unless the status is `OK`.
        status: What the text holds.
        text: What the model wrote.
        attention: For each picture, the supports in their order and then the query, [rows, columns] float32 shares of
            attention, averaged over who looks, heads and layers. The supports' are what the query picture's tokens
            inside the answered box paid to each cell, or all of its tokens where there is no box: the attention that
            stage 1 directs. The query's are what the answer's coordinates paid, as they were about to be written. None
            if it was not asked for.
        error: Why there is no answer, see `focus_agents.rollout.records.Completion`.
    """

    box: Box | None
    status: ParseStatus
    text: str
    attention: tuple[npt.NDArray[np.float32], ...] | None = None
    error: str | None = None


class FocusPolicy(VLMPolicy):
    """A trained policy with the prompt that it was trained on; satisfies `focus_agents.rollout.records.Policy`, too.

    Args:
        model: A model of a known family.
        processor: What encodes its prompts.
        template: The prompt; where its unit is the resized picture's pixel, the processor says how large those are.
        precision: "bf16" computes under autocast.
    """

    def __init__(
        self, model: Any, processor: VLMProcessor, template: PromptTemplate, *, precision: Precision = "fp32"
    ) -> None:
        super().__init__(model.eval(), processor, precision=precision)
        self.template = processor.fit_template(template)
        choose_attention(model, "auto", precision)
        family_of(model).batch_pictures(base_model(model))

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path = "focus-small",
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        max_image_tokens: int | None = None,
    ) -> FocusPolicy:
        """Load a policy, to answer with: its weights have no gradients, and an adapter is merged into them.

        Args:
            name_or_path: "focus-small", which comes with the package, or any other name or folder that
                `focus_agents.models.loading.load_model` takes.
            device: Where it computes; "auto": on a GPU where this process sees one, else on the CPU.
            precision: "bf16" holds the weights in bfloat16, in half the memory, and computes under autocast.
            max_image_tokens: Larger pictures are scaled down to at most so many tokens; None: the limit at which the
                policy was validated, as its folder records it, else the model's own.

        Raises:
            CheckpointError: If there is no such model.
        """
        name_or_path = model_name(name_or_path)
        limit = picture_budget(name_or_path, validation=max_image_tokens).validation
        processor = check_model(name_or_path, max_image_tokens=limit)
        model = load_model(name_or_path, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
        if can_merge(model):  # nothing is learned here, so no step of decoding has to add them
            model = merge_adapters(model)
        # Under autocast each weight that has a gradient would be there twice.
        model = model.requires_grad_(False).to(chosen_device(str(device)))
        return cls(model, processor, load_template(name_or_path), precision=precision)

    def locate(
        self, supports: Sequence[tuple[Picture, FourNumbers]], query: Picture, *, with_attention: bool = False
    ) -> Localization:
        """Find in a picture what the boxes in other pictures show.

        Args:
            supports: At least one picture with a box. A picture is a path, one of Pillow, or an array, see
                `focus_env.arrays`; a box is a `Box`, tuple, list or array of x1, y1, x2, y2 in pixels of its picture.
            query: The picture to answer for, likewise.
            with_attention: Whether to tell where the model looked.

        Raises:
            ValueError: If there is no support, one is no picture with a box, or a box is not inside its picture.
        """
        query = as_picture(query, "query")
        found, generation = _ask(self, self.template, supports, query)
        if with_attention and generation.prompt is not None:
            box = found.box or Box(0, 0, query.shape[1], query.shape[0])
            pictures = [*(as_picture(image, "supports") for image, _ in supports), query]
            views = self.processor.views(pictures, generation.prompt.grids)
            looking = box_tokens(box, (query.shape[1], query.shape[0]), views[-1])
            attention = self._attention(generation.prompt, views, looking, generation.completions[0].token_ids)
            return replace(found, attention=attention)
        return found

    @torch.no_grad()
    def _attention(
        self,
        prompt: EncodedPrompt,
        views: Sequence[Sequence[View]],
        query_looking: npt.NDArray[np.int64],
        completion: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.float32], ...]:
        """See `Localization.attention`; `query_looking` are tokens of the query picture that look at the supports."""
        device = next(self.model.parameters()).device
        batch = self.processor.collate([prompt]).to(device)
        answer = torch.tensor(completion, device=device)[None]
        num_prompt, num_answer = batch.input_ids.shape[1], answer.shape[1]
        texts = [self.processor.decode([token]) for token in completion.tolist()]
        # A token is predicted at the position before it.
        looking = [num_prompt - 1 + index for index, text in enumerate(texts) if text.strip().isdecimal()]
        if not looking:
            looking = [num_prompt - 1]
        image_tokens = np.flatnonzero(prompt.input_ids == self.processor.image_token_id)
        support_tokens, query_tokens = np.split(image_tokens, [-num_image_tokens(views[-1])])
        rows = torch.zeros(1, num_prompt + num_answer, dtype=torch.bool, device=device)
        rows[0, [*query_tokens[query_looking], *looking]] = True
        ones = torch.ones_like(rows, dtype=torch.long)
        layers, reach = full_attention_layers(self.model.config), prompt_reach(self.model, batch)
        probe = SupportProbe.build(rows, torch.zeros_like(rows), ones, layers, reach=reach)
        probe.keeps_maps = True
        self.model(
            input_ids=torch.cat([batch.input_ids, answer], dim=1),
            attention_mask=ones,
            **image_inputs(self.model, batch, num_answer),
            use_cache=False,
            logits_to_keep=1,
            support_probe=probe,
        )
        maps = torch.stack(list(probe.maps.values())).mean(0)[0].cpu().numpy()  # the query's rows come first
        by_query, by_answer = maps[: len(query_looking)].mean(0), maps[len(query_looking) :].mean(0)
        shares = np.concatenate([by_query[support_tokens], by_answer[query_tokens]])
        parts = np.split(shares, np.cumsum([num_image_tokens(picture) for picture in views])[:-1])
        return tuple(paint(part, picture) for part, picture in zip(parts, views, strict=True))


def locate(
    policy: Policy, template: PromptTemplate, supports: Sequence[tuple[Picture, FourNumbers]], query: Picture
) -> Localization:
    """Find in a picture what the boxes in other pictures show, with any policy; see `FocusPolicy.locate`.

    Args:
        policy: Answers.
        template: Words the question, and reads the answer.
        supports: At least one picture with a box, as for `FocusPolicy.locate`.
        query: The picture to answer for, likewise.

    Raises:
        ValueError: If there is no support, one is no picture with a box, a box is not inside its picture, or the policy
            gives something else than one answer.
    """
    return _ask(policy, template, supports, as_picture(query, "query"))[0]


def _ask(
    policy: Policy, template: PromptTemplate, supports: Sequence[tuple[Picture, FourNumbers]], query: ImageArray
) -> tuple[Localization, Generation]:
    shown = as_supports(supports)
    question: Observation = {
        "support_images": tuple(image for image, _ in shown),
        "support_boxes": np.array([box for _, box in shown], dtype=np.float64),
        "query_image": query,
    }
    sampling = Sampling(temperature=0.0, max_completion_tokens=MAX_COMPLETION_TOKENS)
    generation = ask_policy(policy, [template.render(question)], num_completions=1, sampling=sampling, seeds=[0])[0]
    completion = generation.completions[0]
    parse = template.parse(completion.text, (query.shape[1], query.shape[0]))
    return Localization(parse.box, parse.status, completion.text, error=completion.error), generation
