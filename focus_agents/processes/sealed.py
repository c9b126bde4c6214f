"""Things that travel through processes which have no use for them."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ray import cloudpickle

T = TypeVar("T")


class Sealed(Generic[T]):
    """Holds a thing which a process that only passes it on does not unpickle, and so imports nothing for.

    Ray Train's controller is one: it would load torch and transformers for the plan of its workers, who wait meanwhile.

    Args:
        content: What cloudpickle takes.
    """

    def __init__(self, content: T) -> None:
        self._content: T | None = content
        self._text = repr(content)
        self._packed = b""

    def open(self) -> T:
        """Return the thing itself."""
        if self._content is None:
            self._content = cloudpickle.loads(self._packed)
        content: T = self._content
        return content

    def __repr__(self) -> str:
        return self._text

    def __getstate__(self) -> dict[str, Any]:
        packed = self._packed or cloudpickle.dumps(self._content)
        return {"_content": None, "_text": self._text, "_packed": packed}
