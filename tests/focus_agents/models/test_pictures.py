"""How large a model sees pictures, as its folder says it, and what stays the model's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from focus_agents.errors import CheckpointError
from focus_agents.models.loading import POLICY_FILE, load_model, load_processor
from focus_agents.models.pictures import PictureBudget, picture_budget, recorded_budget
from focus_agents.models.qwen import QWEN2_VL
from focus_agents.policies.focus import FocusPolicy
from focus_agents.policies.registry import PolicySpec
from focus_agents.runs.checkpoint import save_policy

OWN = {"shortest_edge": 4 * 256, "longest_edge": 64 * 256}
"""Of `tiny`, whose tokens are 16 x 16 pixels."""


def save(folder: Path, pictures: PictureBudget | None, *, limit: int | None = None) -> Path:
    processor = load_processor("tiny", max_image_tokens=limit)
    return save_policy(folder / "policy", load_model("tiny"), processor, pictures=pictures)


def limits(folder: Path) -> dict[str, Any]:
    size: dict[str, Any] = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    return size


class TestFolder:
    """What `save_policy` leaves."""

    def test_the_models_own_limits_stay(self, tmp_path: Path) -> None:
        """However small pictures were in training: other programs that serve it are not bound by that."""
        folder = save(tmp_path, PictureBudget(16, 36), limit=16)
        assert limits(folder) == OWN
        assert load_processor(str(folder)).image_processor.size == load_processor("tiny").image_processor.size

    def test_the_budgets_are_recorded(self, tmp_path: Path) -> None:
        folder = save(tmp_path, PictureBudget(16, 36))
        stored = json.loads((folder / POLICY_FILE).read_text())
        assert stored["pictures"] == {"max_image_tokens": 16, "validation_max_image_tokens": 36}
        assert recorded_budget(folder) == PictureBudget(16, 36)

    @pytest.mark.parametrize("pictures", [None, PictureBudget()])
    def test_nothing_is_said_where_the_models_own_limit_holds(
        self, tmp_path: Path, pictures: PictureBudget | None
    ) -> None:
        folder = save(tmp_path, pictures)
        assert "pictures" not in json.loads((folder / POLICY_FILE).read_text())
        assert recorded_budget(folder) == PictureBudget()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[1]", "expected a saved policy's description in JSON"),
            ('{"pictures": 3}', "expected a saved policy's description in JSON"),
            ('{"pictures": [9, 9]}', r"expected an object in braces as pictures, got \[9, 9\]"),
            (
                '{"pictures": {"max_image_tokens": "16"}}',
                "a whole number above 0 as max_image_tokens, or null, got '16'",
            ),
            ('{"pictures": {"validation_max_image_tokens": 0}}', "as validation_max_image_tokens, or null, got 0"),
            ('{"pictures": {"max_image_tokens": true}}', "got True"),
        ],
    )
    def test_what_is_no_record(self, tmp_path: Path, text: str, message: str) -> None:
        folder = save(tmp_path, None)
        (folder / POLICY_FILE).write_text(text)
        with pytest.raises(CheckpointError, match=message):
            recorded_budget(folder)


@pytest.mark.parametrize("name", ["tiny", "focus-small", "Qwen/Qwen2-VL-7B-Instruct"])
def test_other_models_have_no_record(name: str) -> None:
    assert recorded_budget(name) == PictureBudget()


@pytest.mark.parametrize(
    ("record", "asked", "expected"),
    [
        (None, {}, (None, None)),
        (None, {"training": 9}, (9, 9)),
        (None, {"training": 9, "validation": 25}, (9, 25)),
        (None, {"validation": 25}, (None, 25)),
        ((16, 36), {}, (16, 36)),
        ((16, 36), {"training": 9}, (9, 36)),
        ((16, 36), {"validation": 9}, (16, 9)),
        ((None, 36), {}, (None, 36)),
        ((16, None), {}, (16, None)),
        ((16, 36), {"training": 9, "validation": 25}, (9, 25)),
    ],
)
def test_what_is_asked_for_comes_first(
    tmp_path: Path, record: tuple[int | None, int | None] | None, asked: dict[str, int], expected: tuple[Any, Any]
) -> None:
    folder = save(tmp_path, None if record is None else PictureBudget(*record))
    assert picture_budget(folder, **asked) == PictureBudget(*expected)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((1, 16), "focus.json: max_image_tokens: expected at least 4, got 1; correct it there, or write null"),
        ((None, 3), "focus.json: validation_max_image_tokens: expected at least 4, got 3; correct it there"),
    ],
)
def test_a_record_in_which_nothing_is_seen_is_told_with_its_place(
    record: tuple[int | None, int | None], message: str, tmp_path: Path
) -> None:
    folder = save(tmp_path, PictureBudget(*record))
    for load in (recorded_budget, FocusPolicy.from_pretrained, lambda name: PolicySpec(text=f"vlm:{name}").check()):
        with pytest.raises(CheckpointError, match=f"{tmp_path}.*{message}"):
            load(folder)


def test_a_policy_answers_as_it_was_validated(tmp_path: Path) -> None:
    folder = save(tmp_path, PictureBudget(4, 9))
    for policy in (FocusPolicy.from_pretrained(folder), PolicySpec(text=f"vlm:{folder}").build()):
        assert policy.processor.image_processor.size["longest_edge"] == 9 * 256
    policy = FocusPolicy.from_pretrained(folder, max_image_tokens=25)
    assert policy.processor.image_processor.size["longest_edge"] == 25 * 256


class TestLeastSize:
    """A limit lowers the most, never the least."""

    @pytest.mark.parametrize(
        ("token_side", "least", "natural"),
        [
            (32, 64, {(128, 128): 64, (64, 64): 64, (200, 150): 70}),  # Qwen3-VL's
            (28, 4, {(128, 128): 25, (64, 64): 4, (200, 150): 35}),  # Qwen2-VL's and Qwen2.5-VL's
        ],
    )
    @pytest.mark.parametrize("limit", [16, 36, 63, 64, 100, 352, 2938])
    def test_small_pictures(self, token_side: int, least: int, natural: dict[tuple[int, int], int], limit: int) -> None:
        def count(processor: Any, wh: tuple[int, int]) -> int:
            size = processor.size
            height, width = smart_resize(
                wh[1], wh[0], token_side, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"]
            )
            return height * width // token_side**2

        def hub() -> Any:
            size = {"shortest_edge": least * token_side**2, "longest_edge": 16_384 * token_side**2}
            return Qwen2VLImageProcessorPil(patch_size=token_side // 2, merge_size=2, size=size)

        limited, own = hub(), hub()
        QWEN2_VL.limit_image_tokens(limited, limit)
        for wh, expected in natural.items():
            assert count(own, wh) == expected
            if expected <= limit:
                assert count(limited, wh) == expected
        for wh in [*natural, (1280, 720), (720, 1280), (1000, 333), (333, 1000), (97, 211), (28, 28)]:
            # Rounded up, the least size may be passed by a few tokens, as it is without a limit.
            assert count(limited, wh) <= max(limit, count(own, wh) if least <= limit else 0)
            assert count(limited, wh) >= min(count(own, wh), limit) / 2
