"""Control terms, which do not measure how good an answer is: if one trains as well as IoU, IoU is not the cause.

Controls are for comparison. A right answer does not earn their maximum, nor a wrong answer their minimum.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from focus_env.rewards.answers import AnswerBatch


def area_reward(answers: AnswerBatch) -> npt.NDArray[np.float64]:
    """Share of the picture that the answer's box covers, in [0, 1]; 0 without a readable box."""
    shares = answers.box_shares
    areas = (shares[:, 2] - shares[:, 0]) * (shares[:, 3] - shares[:, 1])
    return np.where(answers.has_box, np.clip(areas, 0.0, 1.0), 0.0)


@dataclass(frozen=True)
class RandomReward:
    """A number in [0, 1) that the seed, the episode and the answer decide, and nothing else.

    The same answer to the same episode earns the same in every process and at every time, so that a run can be
    repeated and resumed; answers that differ by a character earn independently.
    """

    seed: float

    def __post_init__(self) -> None:
        if not (0 <= self.seed < 2**32 and float(self.seed).is_integer()):
            raise ValueError(f"random: expected a whole number from 0 to 4294967295 as a seed, got {self.seed}")

    def __call__(self, answers: AnswerBatch) -> npt.NDArray[np.float64]:
        """Return [N] in [0, 1)."""
        episodes = {name: zlib.crc32(name.encode(errors="surrogatepass")) for name in set(answers.episode_ids)}
        keys = np.fromiter(
            (
                zlib.crc32(box.tobytes() if text is None else text.encode(errors="surrogatepass"), episodes[name])
                for text, name, box in zip(answers.texts, answers.episode_ids, answers.boxes, strict=True)
            ),
            dtype=np.uint64,
            count=len(answers),
        )
        mixed = _mix(keys | (np.uint64(self.seed) << np.uint64(32)))
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return numbers without a pattern, one for each key; arithmetic is modulo 2^64 (the finalizer of SplitMix64)."""
    # A checksum alone is linear: texts that differ in the same way would earn rewards that differ in the same way.
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
