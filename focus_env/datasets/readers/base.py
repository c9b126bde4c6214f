"""The base of adapters: tracks that are read when one is asked for."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Generic, TypeVar, overload

from focus_env.types import Track

K = TypeVar("K")


class ReadTracks(Sequence[Track], Generic[K]):
    """Tracks by index, each read anew; an adapter sets `_keys` and defines `_read`.

    Attributes:
        _keys: What to read, in order, e.g. names of folders.
    """

    _keys: Sequence[K]

    @abc.abstractmethod
    def _read(self, key: K) -> Track:
        """Read a track.

        Raises:
            DatasetError: If its files are missing or malformed.
        """

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Track: ...
    @overload
    def __getitem__(self, index: slice) -> list[Track]: ...
    def __getitem__(self, index: int | slice) -> Track | list[Track]:
        if isinstance(index, slice):
            return [self._read(key) for key in self._keys[index]]
        return self._read(self._keys[index])
