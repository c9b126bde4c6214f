"""`focus demo`: on given pictures and drawn episodes, and what it says to wrong arguments."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from focus_agents.models.loading import load_model, load_processor, load_template
from focus_agents.policies.focus import FocusPolicy, Localization
from focus_agents.runs.checkpoint import save_policy
from focus_env.datasets import SyntheticDataset
from focus_env.rendering import render_localization
from focus_env.types import Box, ParseStatus
from tests.focus_agents.cli.commands import help_text, main_error
from tests.places import load_experiment


@pytest.fixture(scope="module")
def new_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with random weights, which never answers in the format."""
    folder = tmp_path_factory.mktemp("demo") / "policy"
    return save_policy(folder, load_model("small"), load_processor("small"), template=load_template("small"))


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, str]:
    """Two pictures of different shapes, and a file that is none."""
    rng = np.random.default_rng(0)
    for name, (width, height) in {"support.png": (64, 48), "query.png": (80, 48)}.items():
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "words.png").write_text("no picture")
    return {path.stem: str(path) for path in tmp_path.glob("*.png")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--support", "{support}", "1,2,3", "--query", "{query}"], "box '1,2,3': expected four numbers x1,y1,x2,y2"),
        (["--support", "{support}", "1,2,3,4,5", "--query", "{query}"], "box '1,2,3,4,5': expected four numbers"),
        (["--support", "{support}", "a,b,c,d", "--query", "{query}"], "box 'a,b,c,d': expected four numbers"),
        (["--support", "{support}", "1,2,30,49", "--query", "{query}"], "support.png must lie inside the image of (64"),
        (["--support", "{support}", "9,2,3,40", "--query", "{query}"], "support.png must be xyxy with x1 < x2"),
        (["--support", "{support}", "nan,2,3,40", "--query", "{query}"], "support.png must be four finite numbers"),
        (["--support", "/no.png", "1,2,3,4", "--query", "{query}"], "/no.png: expected a picture that Pillow can read"),
        (["--support", "{support}", "1,2,3,4", "--query", "/no.png"], "/no.png: expected a picture that Pillow can"),
        (["--support", "{words}", "1,2,3,4", "--query", "{query}"], "words.png: expected a picture that Pillow can"),
        (["--support", "{support}", "1,2,3,4", "--query", "/"], "/: expected a picture that Pillow can read"),
        (["--support", "{support}", "1,2,3,4"], "--support and --query: expected both, or neither"),
        (["--query", "{query}"], "--support and --query: expected both, or neither"),
        (["--support", "{support}"], "--support"),
        (["--policy", "vlm:no-such-model"], "model 'no-such-model': there is no such folder; expected one of"),
        (["--policy", "vlm:runs/nothing/here"], "model 'runs/nothing/here': there is no such folder; expected one of"),
        (["--policy", "vml"], "policy 'vml': no such policy. Did you mean 'vlm'? Known are random, center, "),
        (["--support", "{support}", "1_0,2,30,40", "--query", "{query}"], "box '1_0,2,30,40': expected four numbers"),
        (["--support", "{support}", "١,2,30,40", "--query", "{query}"], "box '١,2,30,40': expected four numbers"),
        (["--policy", "json:dumps"], "policy 'json:dumps': expected an object with a method `generate`"),
        (["--policy", "center", "--device", "cuda"], "--device: without effect on the policy center; leave it out"),
        (["--out", "answer.psd"], "--out answer.psd: expected a file such as answer.png"),
        (["--out", "x.fli"], "--out x.fli: expected a file such as answer.png"),
        (["--out", "x.xbm"], "--out x.xbm: expected a file such as answer.png"),
        (["--out", "answer"], "--out answer: expected a file such as answer.png"),
        (["--out", "."], "--out .: expected a file such as answer.png"),
        (["--out", "{words}/a.png"], "words.png/a.png': Not a directory"),
        (
            ["--support", "{support}", "1,2,3,4", "--query", "{query}", "--out", "{query}"],
            "query.png: expected another file than the given pictures",
        ),
        (
            ["--support", "{support}", "1,2,3,4", "--query", "{query}", "--out", "{support}"],
            "support.png: expected another file than the given pictures",
        ),
        (["--support", "{support}", "0.1,0.2,0.5,0.6", "--query", "{query}"], "looks like shares of it; multiply x"),
        (["--max-image-tokens", "1", "--policy", "vlm:tiny"], "--max-image-tokens: expected at least 4, got 1"),
    ],
)
def test_demo_names_a_wrong_argument(
    arguments: list[str],
    message: str,
    pictures: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    error = main_error("demo", [word.format(**pictures) for word in arguments], capsys)
    assert message in error, error
    assert not (tmp_path / "answer.png").exists()
    assert not (tmp_path / "runs").exists()


def test_demo_on_given_pictures(
    new_policy: Path,
    pictures: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.png"
    words = ["--policy", f"vlm:{new_policy}", "--query", pictures["query"], "--out", str(out)]
    words += ["--support", pictures["support"], "4,6,40,40", "--support", pictures["query"], "0,0,80,48"]
    monkeypatch.setattr(sys, "argv", ["demo", *words])
    load_experiment("demo").main()
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"no box: no_box; the policy wrote '.*'", first)
    assert second == f"picture: {out}"
    with Image.open(pictures["support"]) as support, Image.open(pictures["query"]) as query, Image.open(out) as drawn:
        supports = [(np.array(support), Box(4, 6, 40, 40)), (np.array(query), Box(0, 0, 80, 48))]
        policy = FocusPolicy.from_pretrained(str(new_policy))
        found = policy.locate(supports, np.array(query), with_attention=True)
        assert repr(found.text) in first
        expected = render_localization(supports, np.array(query), None, found.attention)
        np.testing.assert_array_equal(np.array(drawn), expected)
        # A row of pictures, and one of attention.
        assert drawn.height > 2 * 160


def test_demo_with_a_policy_that_is_no_model(
    pictures: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.png"
    words = ["--policy", "copy_support", "--query", pictures["query"], "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["demo", *words, "--support", pictures["support"], "16,12,48,36"])
    load_experiment("demo").main()
    assert capsys.readouterr().out.splitlines()[0] == "box 20.0,12.0,60.0,36.0 (x1,y1,x2,y2 in pixels of the query)"
    with Image.open(pictures["support"]) as support, Image.open(pictures["query"]) as query, Image.open(out) as drawn:
        expected = render_localization([(np.array(support), Box(16, 12, 48, 36))], np.array(query), Box(20, 12, 60, 36))
        np.testing.assert_array_equal(np.array(drawn), expected)


def test_demo_sees_pictures_as_a_person_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a picture that its EXIF turns, box and answer are in pixels of the upright picture."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    out = tmp_path / "out.png"
    words = ["--policy", "copy_support", "--query", str(tmp_path / "turned.png"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["demo", *words, "--support", str(tmp_path / "turned.png"), "4,50,40,64"])
    load_experiment("demo").main()
    assert capsys.readouterr().out.splitlines()[0] == "box 4.0,50.0,40.0,64.0 (x1,y1,x2,y2 in pixels of the query)"
    upright = np.rot90(stored, -1)
    with Image.open(out) as drawn:
        expected = render_localization([(upright, Box(4, 50, 40, 64))], upright, Box(4, 50, 40, 64))
        np.testing.assert_array_equal(np.array(drawn), expected)


def _bomb(path: Path) -> None:
    Image.new("1", (9000, 9000)).save(path)


@pytest.mark.parametrize(
    ("case", "make", "message"),
    [
        ("a pipe", os.mkfifo, "expected a picture that can be read: [Errno 22] a pipe (FIFO), no regular file"),
        ("a device", lambda path: path.symlink_to("/dev/zero"), "a device, no regular file"),
        ("a bomb", _bomb, "expected at most 64000000 pixels, got 9000 x 9000"),
        ("a program", lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "something else"),
    ],
)  # fmt: skip
def test_demo_opens_pictures_within_the_limits_of_the_package(
    case: str, make: Callable[[Path], object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "a.png")
    error = main_error("demo", ["--support", str(tmp_path / "a.png"), "1,2,3,4", "--query", "/no.png"], capsys)
    assert message in error, error
    assert "on-bad" not in error  # which the demo has not
    assert "on_bad" not in error


@pytest.mark.parametrize("which", ["support", "query"])
def test_demo_names_a_picture_that_the_model_cannot_take_before_it_loads_the_weights(
    which: str,
    new_policy: Path,
    pictures: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FocusPolicy, "from_pretrained", None)
    Image.new("RGB", (2500, 12)).save(pictures[which])
    words = [
        "--support",
        pictures["support"],
        "1,2,9,10",
        "--query",
        pictures["query"],
        "--policy",
        f"vlm:{new_policy}",
    ]
    message = main_error("demo", words, capsys)
    assert f"--{which} {pictures[which]}: 2500 x 12 pixels: the model's image processor cannot take it: " in message
    assert "leave it out, or cut or pad it" in message


def test_demo_makes_the_folder_of_the_answer_and_names_what_is_wrong_before_torch_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--policy", "center", "--out", "new/folder/a.png"])
    load_experiment("demo").main()
    assert capsys.readouterr().out.splitlines()[1] == "picture: new/folder/a.png"
    with Image.open("new/folder/a.png") as drawn:
        assert drawn.width > 100
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it raises
    monkeypatch.setitem(sys.modules, "focus_agents.policies.focus", None)
    for words, message in (
        (["--out", "answer"], "--out answer: expected a file such as answer.png"),
        (["--support", "no.png", "1,2,3,4", "--query", "no.png"], "no.png: expected a picture"),
        (["--policy", "vml"], "policy 'vml': no such policy"),
    ):
        assert message in main_error("demo", words, capsys)


def test_demo_says_why_there_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy_of_the_demo.py").write_text(
        "from focus_agents.rollout.records import Completion, Generation\n"
        "class Silent:\n"
        "    def generate(self, prompts, **options):\n"
        "        return [Generation((Completion('', [], [], True, error='no answer within 3 s'),))]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--policy", "policy_of_the_demo:Silent"])
    with pytest.raises(SystemExit) as exit_info:
        load_experiment("demo").main()
    assert exit_info.value.code == 1
    assert capsys.readouterr().out.splitlines() == ["no answer: no answer within 3 s", "picture: runs/answer.png"]
    assert [path.name for path in tmp_path.glob("*.png")] == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("1 / 0", "raised ZeroDivisionError: division by zero (/"),
        ("sys.exit(0)", "raised RuntimeError: expected answers of the policy, got a call of sys.exit(0)"),
        ("return []", "raised ValueError: expected a Generation of the policy for each of 1 prompts, got 0"),
        ("raise PolicyError('all is lost')", "error: all is lost"),
    ],
)
def test_demo_names_a_policy_that_fails(
    body: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"failing_policy_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(
        "import sys\nfrom focus_agents.errors import PolicyError\n"
        f"class Fails:\n    def generate(self, prompts, **options):\n        {body}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["demo", "--policy", f"{name}:Fails"])
    with pytest.raises(SystemExit) as exit_info:
        load_experiment("demo").main()
    assert exit_info.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "answer.png").exists()


def test_demo_draws_an_episode_and_prints_the_box(
    new_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an answer that is made up: the policy knows none."""
    demo, asked = load_experiment("demo"), []

    def locate(self: FocusPolicy, supports: Any, query: Any, **options: Any) -> Localization:
        asked.append((supports, query))
        return Localization(Box(6.4, 12.8, 32.0, 64.0), ParseStatus.OK, "<answer>[10, 20, 50, 100]</answer>")

    monkeypatch.setattr(FocusPolicy, "locate", locate)
    monkeypatch.setattr(sys, "argv", ["demo", "--policy", f"vlm:{new_policy}", "--out", str(tmp_path / "out.png")])
    demo.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["box 6.4,12.8,32.0,64.0 (x1,y1,x2,y2 in pixels of the query)", f"picture: {tmp_path / 'out.png'}"]
    ((supports, query),) = asked
    episode = SyntheticDataset(split="test", level=3, num_objects=4, distractors="any", image_size=64, shots=2)[0]
    np.testing.assert_array_equal(query, episode.query_frame.image())
    for (image, box), exemplar in zip(supports, episode.support, strict=True):
        np.testing.assert_array_equal(image, exemplar.frame.image())
        assert box == exemplar.box
    with Image.open(tmp_path / "out.png") as drawn:
        expected = render_localization(supports, query, Box(6.4, 12.8, 32.0, 64.0))
        np.testing.assert_array_equal(np.array(drawn), expected)


def test_help_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text("demo", capsys)
    for words in ("--support PATH STR", "repeatable", "--query", "--out", "--policy", "vlm:focus-small", "--device"):
        assert words in text
