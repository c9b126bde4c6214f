"""OWLv2 guided by pictures: the geometry of its padded squares by hand, the rest with small random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor

from focus_agents.errors import CheckpointError
from focus_agents.policies.owlv2 import OWLv2Localizer, best_box, boxes_in_pixels, closest_box
from focus_agents.policies.registry import PolicySpec
from focus_agents.rollout.records import Sampling
from focus_env.env import observe
from focus_env.prompts import get_template
from focus_env.spaces import Observation
from focus_env.types import Box, ImageArray
from tests.fakes import make_episode

RNG = np.random.default_rng(0)
SIDE = 32
CONFIG = Owlv2Config(
    text_config={
        "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
    },
    vision_config={
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 8,
    },
    projection_dim=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owlv2")
    torch.manual_seed(0)
    model = Owlv2ForObjectDetection(CONFIG)
    for parameter in model.parameters():  # else all patches look nearly alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    # Of another size than the model's, which must not matter.
    Owlv2ImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def localizer(folder: Path) -> OWLv2Localizer:
    return OWLv2Localizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def by_cosine(folder: Path) -> OWLv2Localizer:
    """Its logits are the plain cosine of class embeddings, whose lengths differ."""
    localizer = OWLv2Localizer.from_pretrained(str(folder))
    head = localizer.model.class_head
    for parameter in (*head.logit_shift.parameters(), *head.logit_scale.parameters()):
        parameter.zero_()
    head.dense0.weight[0] *= 20
    return localizer


def noise(width: int, height: int, seed: int = 0) -> ImageArray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def ask(query: ImageArray, *supports: tuple[ImageArray, Any]) -> Observation:
    return {
        "support_images": tuple(image for image, _ in supports),
        "support_boxes": np.array([box for _, box in supports], np.float64),
        "query_image": query,
    }


class TestGeometry:
    @pytest.mark.parametrize(
        ("predicted", "image_wh", "expected"),
        [
            pytest.param((0.5, 0.5, 1, 1), (80, 80), (0, 0, 80, 80), id="a square"),
            pytest.param((0.5, 0.25, 1, 0.5), (80, 40), (0, 0, 80, 40), id="all of a wide picture"),
            pytest.param((0.25, 0.5, 0.5, 1), (40, 80), (0, 0, 40, 80), id="all of a high picture"),
            pytest.param((0.2, 0.1, 0.1, 0.2), (100, 50), (15, 0, 25, 20), id="in a wide picture"),
            pytest.param((0.5, 0.75, 0.5, 0.5), (80, 40), (20, 40, 60, 80), id="in the padding"),
            pytest.param((0.5, 0.0, 0.5, 0.1), (1000, 1), (250, -50, 750, 50), id="beyond the edge"),
        ],
    )
    def test_boxes_are_shares_of_the_padded_square(
        self, predicted: Any, image_wh: tuple[int, int], expected: Any
    ) -> None:
        np.testing.assert_allclose(boxes_in_pixels(np.array([predicted], float), image_wh), [expected], atol=1e-9)

    @pytest.mark.parametrize("image_wh", [(80, 40), (40, 80), (64, 64), (90, 9), (60, 3)])
    def test_the_image_processor_pads_at_the_right_and_below(
        self, localizer: OWLv2Localizer, image_wh: tuple[int, int]
    ) -> None:
        """A bright patch comes out of it where `boxes_in_pixels` says that it is."""
        width, height = image_wh
        image = np.zeros((height, width, 3), np.uint8)
        image[height // 2 :, width // 2 :] = 255
        seen: list[torch.Tensor] = []
        hook = localizer.model.owlv2.vision_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
        )
        try:
            localizer._predict_boxes(image)
        finally:
            hook.remove()
        assert seen[0].shape == (1, 3, SIDE, SIDE)
        channel = seen[0][0, 0].numpy()
        rows, columns = np.nonzero(channel > (channel.max() + channel.min()) / 2)
        x1, y1, x2, y2 = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SIDE
        predicted = np.array([[(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]])
        pixel = max(image_wh) / SIDE
        np.testing.assert_allclose(
            boxes_in_pixels(predicted, image_wh), [(width // 2, height // 2, width, height)], atol=pixel
        )

    @pytest.mark.parametrize("image_wh", [(1, 1), (3, 3), (3, 50), (50, 3), (300, 2)])
    def test_pictures_of_any_size(self, localizer: OWLv2Localizer, image_wh: tuple[int, int]) -> None:
        patches, boxes = localizer._predict_boxes(noise(*image_wh))
        assert patches.shape == (1, 16, 16)
        assert boxes.shape == (16, 4)
        assert np.isfinite(boxes).all()


class TestChoice:
    BOXES = np.array([(0, 0, 10, 10), (20, 0, 40, 10), (0, 20, 10, 60), (np.nan,) * 4])

    @pytest.mark.parametrize(
        ("box", "index"),
        [
            pytest.param((1, 1, 9, 9), 0, id="within one"),
            pytest.param((8, 0, 32, 10), 1, id="more of the second"),
            pytest.param((15, 40, 16, 41), 2, id="none overlaps"),
            pytest.param((90, 0, 95, 1), 1, id="far away"),
        ],
    )
    def test_the_box_that_overlaps_most_or_is_nearest(self, box: Any, index: int) -> None:
        assert closest_box(self.BOXES, np.array(box, float)) == index

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [
            pytest.param([1, 3, 2, 0], 1, id="best"),
            pytest.param([1, 2, 3, 0], 1, id="one in the padding"),
            pytest.param([-9, np.nan, np.inf, 5], 0, id="no numbers"),
            pytest.param([np.nan] * 4, None, id="none is a number"),
        ],
    )
    def test_the_best_that_shows_something(self, scores: list[float], expected: int | None) -> None:
        found = best_box(self.BOXES, np.array(scores, float), (30, 15))
        assert found == (None if expected is None else Box(*self.BOXES[expected]))

    def test_all_in_the_padding(self) -> None:
        assert best_box(self.BOXES[2:], np.ones(2), (30, 15)) is None


class TestLocalizer:
    @pytest.mark.parametrize("shots", [1, 2])
    def test_a_patch_of_the_support_finds_itself(self, by_cosine: OWLv2Localizer, shots: int) -> None:
        picture = noise(80, 60)
        _, boxes = by_cosine._predict_boxes(picture)
        seen = [Box(*box) for box in boxes.tolist() if box[0] < 80 and box[1] < 60]
        assert len(seen) > 4
        for box in seen:
            assert by_cosine(ask(picture, *[(picture, box)] * shots), RNG) == box

    def test_supports_count_alike(self, by_cosine: OWLv2Localizer) -> None:
        """The best box is that of the largest sum of cosines to the supports' embeddings."""
        supports = [(noise(40, 32, 1), (5, 5, 20, 30)), (noise(30, 50, 2), (1, 30, 12, 50))]
        num_decided_by_both = 0
        for seed in range(3, 13):
            query = noise(80, 60, seed)
            patches, boxes = by_cosine._predict_boxes(query)
            cosines = []
            for image, box in supports:
                others, other_boxes = by_cosine._predict_boxes(image)
                index = closest_box(other_boxes, np.array(box, float))
                embeddings = [by_cosine.model.class_head.dense0(cells)[0] for cells in (patches, others[:, [index]])]
                cosines.append(torch.cosine_similarity(*embeddings).numpy())
            expected = best_box(boxes, np.sum(cosines, axis=0), (80, 60))
            assert by_cosine(ask(query, *supports), RNG) == expected
            alone = [by_cosine(ask(query, support), RNG) for support in supports]
            assert alone == [best_box(boxes, cosine, (80, 60)) for cosine in cosines]
            num_decided_by_both += expected not in alone
        assert num_decided_by_both > 0, "supports that lead to the same box show nothing"

    @pytest.mark.parametrize("query_wh", [(1, 1), (300, 2), (2, 300)])
    def test_ugly_pictures(self, localizer: OWLv2Localizer, query_wh: tuple[int, int]) -> None:
        question = ask(noise(*query_wh), (noise(40, 32), (39, 31, 40, 32)), (noise(1, 1), (0, 0, 1, 1)))
        box = localizer(question, RNG)
        assert box is None or np.isfinite(box).all()

    def test_weights_that_are_no_numbers(self, folder: Path) -> None:
        localizer = OWLv2Localizer.from_pretrained(str(folder))
        for parameter in localizer.model.parameters():
            parameter.fill_(torch.nan)
        assert localizer(observe(make_episode(1)), RNG) is None

    def test_by_name_it_answers_a_prompt(self, folder: Path) -> None:
        policy = PolicySpec(text=f"owlv2:{folder}").build()
        template = get_template("default")
        prompt = template.render(observe(make_episode(1)))
        (generation,) = policy.generate([prompt], num_completions=2, sampling=Sampling(), seeds=[0])
        boxes = [template.parse(completion.text, (80, 60)).box for completion in generation.completions]
        assert boxes[0] is not None
        assert boxes[0] == boxes[1]


class TestFoldersThatCannotBeLoaded:
    def test_another_model(self) -> None:
        with pytest.raises(CheckpointError, match="model 'focus-small': expected one of type owlv2, got qwen"):
            OWLv2Localizer.from_pretrained("focus-small")

    def test_no_image_processor(self, tmp_path: Path) -> None:
        Owlv2ForObjectDetection(CONFIG).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"could not be loaded: .* containing a preprocessor_config.json"):
            OWLv2Localizer.from_pretrained(str(tmp_path))

    def test_nothing(self, tmp_path: Path) -> None:
        expected = "there is no config.json; expected a folder with its weights and the settings of its image"
        with pytest.raises(CheckpointError, match=f"could not be loaded: {expected}"):
            OWLv2Localizer.from_pretrained(str(tmp_path))
