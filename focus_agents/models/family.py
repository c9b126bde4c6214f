"""A model family: all that the package has to know of an architecture, in one record.

    family = family_of(model)                  found by the `model_type` of its configuration
    family.preprocess(image_processor, images)           the grids of the pictures' tokens, and the family's arrays
    positions, _ = family.prompt_positions(model, prompts)
    family.parts(model).backbone(..., position_ids=positions, **family.image_inputs(model, prompts))

Nothing outside `focus_agents.models` names a token, a field or a module of a family. To add one, subclass
`ModelFamily` and make an object of the class known, by an entry point or by `register` (see `registry.py`). The model's
class, configuration, tokenizer and image processor must be known to transformers' Auto classes. Its layers must use
transformers' attention interface, so that `attention.py` can stand in, and hand keywords down to it.

Axis letters: N prompts, P prompt tokens, C answer columns, K pictures of all prompts together.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from focus_agents.models.inputs import PromptBatch
from focus_agents.models.views import ImageSize, View, num_image_tokens
from focus_env.boxes import CoordinateFrame
from focus_env.types import ImageArray


class PreprocessedImages(NamedTuple):
    """Pictures as a family's vision tower takes them.

    Attributes:
        grids: [K, 2] int64, (rows, columns) of each picture: of its tokens, or of its tiles where a family cuts tiles.
            `ModelFamily.views` says which tokens they stand for.
        arrays: By name; the first axis of each runs through picture after picture, some rows for each.
    """

    grids: npt.NDArray[np.int64]
    arrays: dict[str, npt.NDArray[Any]]


class ModelParts(NamedTuple):
    """The modules that code outside a model calls or trains.

    Attributes:
        vision_tower: Encodes pictures.
        backbone: Makes hidden states from token ids, positions and the family's image inputs.
        layers: The language model's decoder layers.
        head: Makes logits from hidden states; linear, or with the linear layer as its `linear`.
        projections: Modules and parameters outside the tower that make its outputs into the language model's inputs.
            They are frozen with the tower.
    """

    vision_tower: Any
    backbone: Any
    layers: Sequence[torch.nn.Module]
    head: Any
    projections: tuple[torch.nn.Module | torch.nn.Parameter, ...] = ()

    def vision_parameters(self) -> list[torch.nn.Parameter]:
        """Return all parameters that image features depend on."""
        found: list[torch.nn.Parameter] = []
        for part in (self.vision_tower, *self.projections):
            found += [part] if isinstance(part, torch.nn.Parameter) else list(part.parameters())
        return found


@dataclass(frozen=True, kw_only=True)
class ModelFamily(abc.ABC):
    """The facts that the package needs of models of one architecture. Picklable: processors carry it to workers.

    Methods that take a model want the transformers model itself, out of PEFT and DDP (`adapters.base_model`).

    Attributes:
        name: Names the family in messages and entry points.
        model_types: The `model_type` of the configurations of its models.
        frame: The unit in which its models were trained to write coordinates, unless they were trained on here.
        image_token: Stands in a prompt for each token of a picture.
        never_sampled: Tokens that no answer may hold, the image token among them: an answer with one would break the
            count of image tokens in the next forward pass. Those that a tokenizer lacks do not matter.
        lora_targets: Regular expression of the modules that get LoRA adapters: the language model's, none of the tower.
        end_token: Ends an answer; None: the tokenizer's own.
        placeholder: Stands for a picture in the chat template's text; None: the image token.
        old_placeholder: What stood for it in the chat templates of early conversions; None: the same.
        native_template: The template in whose form its models were trained to write boxes.
        chat_template: Of tokenizers that come without one, in Jinja; None: they have their own.
        picture_size: The field of `preprocessor_config.json` that gives `pixel_values` its height and width.
        vllm_fault: Why vLLM cannot answer prompts of its models, as the end of a sentence about it; "": it can.
    """

    name: str
    model_types: tuple[str, ...]
    frame: CoordinateFrame
    image_token: str
    never_sampled: tuple[str, ...]
    lora_targets: str
    end_token: str | None = None
    placeholder: str | None = None
    old_placeholder: str | None = None
    native_template: str = "default"
    chat_template: str | None = None
    picture_size: str = "size"
    vllm_fault: str = ""

    def for_config(self, config: Any) -> ModelFamily:
        """Return the family as it is for one model, where its pictures depend on more than the image processor.

        Args:
            config: The model's configuration, of transformers.
        """
        return self

    @property
    def usage(self) -> str:
        """The name; a family takes no arguments."""
        return self.name

    @property
    def summary(self) -> str:
        """Models that belong to the family."""
        return f"models of type {', '.join(self.model_types)}"

    # ---- pictures, by the image processor

    @abc.abstractmethod
    def preprocess(self, image_processor: Any, images: Sequence[ImageArray]) -> PreprocessedImages:
        """Resize pictures, normalize them, and cut them as the vision tower wants.

        Args:
            image_processor: The model's, of transformers.
            images: At least one, [H, W, 3] uint8 each; left as they are.
        """

    @abc.abstractmethod
    def limit_image_tokens(self, image_processor: Any, max_image_tokens: int) -> None:
        """Set an image processor so that a picture has at most so many tokens, or a few more if it is very long.

        Args:
            image_processor: Changed in place.
            max_image_tokens: The limit. Smaller pictures stay as they were, and so does the least size, to which the
                smallest are scaled up, unless it is beyond the limit.

        Raises:
            ValueError: If the model sees nothing in so few.
        """

    @abc.abstractmethod
    def image_to_input_wh(self, image_processor: Any) -> Callable[[ImageSize], ImageSize]:
        """Return the rule by which a picture's size becomes the size at which the model sees it.

        The frame `RESIZED_PIXEL` counts in pixels of that size. The rule is picklable, and rules that do the same are
        equal.
        """

    def pixel_shape(self, config: Any) -> tuple[int, ...] | None:
        """Return the last axes of `pixel_values` as the vision tower of a model takes them; None: nobody knows.

        Args:
            config: The model's configuration, of transformers.
        """
        return None

    def views(self, image_processor: Any, grid: tuple[int, int], image_wh: ImageSize) -> tuple[View, ...]:
        """Return which part of a picture each of its image tokens shows.

        By default a picture is one grid of tokens.

        Args:
            image_processor: The model's.
            grid: (rows, columns) of the picture in `PreprocessedImages.grids`.
            image_wh: (width, height) of the picture in pixels, before it is resized.
        """
        return (View(*grid),)

    def image_text(self, views: Sequence[View]) -> tuple[str, tuple[int, ...]]:
        """Return the text that takes a placeholder's place, with one image token for each run of them.

        By default a picture is a run of image tokens, and nothing else.

        Args:
            views: The picture's.

        Returns:
            (The text, how many image tokens each run has.)
        """
        return self.image_token, (num_image_tokens(views),)

    def complete_text(self, text: str) -> str:
        """Return a prompt's text with what the family's processor in transformers adds to it.

        By default that is nothing.

        Args:
            text: The chat template's, up to where the answer starts, with a placeholder for each picture.
        """
        return text

    # ---- the model

    @abc.abstractmethod
    def parts(self, model: Any) -> ModelParts:
        """Return the modules of a model."""

    @abc.abstractmethod
    def prompt_positions(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the positions of the prompts' tokens, and those at which their answers start.

        Returns:
            ([..., N, P] int64, in the shape of the backbone's `position_ids`; [N] int64).
        """

    @abc.abstractmethod
    def text_positions(self, positions: torch.Tensor) -> torch.Tensor:
        """Return the positions of answers' tokens in the shape of `position_ids`.

        Args:
            positions: [N, C] int64, counted on from where a prompt's answers start.

        Returns:
            [..., N, C] int64, to be laid behind positions of prompts.
        """

    def prompt_reach(self, prompts: PromptBatch) -> torch.Tensor | None:
        """Return the last column that each token of a prompt sees; padding is never seen.

        By default a token sees all that stands before it, and itself. Here alone a family says something else; it hands
        transformers' own words for it over by `image_inputs`.

        Args:
            prompts: N prompts.

        Returns:
            [N, P] int64, at least a token's own column, and never less than that of the token before it; None: its own.
        """
        return None

    @abc.abstractmethod
    def image_inputs(self, model: Any, prompts: PromptBatch, num_answer_tokens: int = 0) -> dict[str, Any]:
        """Return the keyword arguments that hand pictures to a forward pass.

        With the features of a tower in the prompts the tower is not run. Without `position_ids` the model must be able
        to count its positions from these arguments, the token ids and the attention mask.

        Args:
            model: The model that will be called.
            prompts: N prompts.
            num_answer_tokens: Tokens that follow behind the prompts in the same rows.
        """

    @abc.abstractmethod
    def image_features(self, model: Any, prompts: PromptBatch) -> tuple[torch.Tensor, ...]:
        """Run the vision tower alone.

        Returns:
            As many tensors as the language model takes from the tower, each [image tokens of all K pictures, ...], as
            `PromptBatch.image_features` holds them.
        """

    # ---- what a family may do better

    def batch_pictures(self, model: Any) -> None:  # noqa: B027 - most families have nothing to do
        """Let the vision tower run many pictures at once where that is faster. Results stay the same but for rounding.

        By default nothing changes.
        """

    def transformers_processor(self, tokenizer: Any, image_processor: Any) -> Any:
        """Return a processor of transformers around these two, for trainers of other packages.

        Raises:
            NotImplementedError: If the family has none.
        """
        raise NotImplementedError(f"model family {self.name!r}: expected a processor of transformers, got none")
