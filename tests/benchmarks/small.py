"""The smallest size that shows something."""

from __future__ import annotations

from benchmarks.step.setup import Size

SIZE = Size(prompt_tokens=128, group_size=2, answer_tokens=4)
