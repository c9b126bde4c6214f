"""The memory of pictures decoded lately."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focus_env.images import PictureCache
from tests.focus_env.pictures import Pixels, refuse


def _pixels(value: int, num_bytes: int = 300) -> Pixels:
    return np.full((num_bytes // 3, 1, 3), value, np.uint8)


class TestCache:
    """What is remembered, and how much of it."""

    def test_what_was_asked_for_last_stays(self) -> None:
        cache = PictureCache(900)
        for key in (1, 2, 3):
            cache.get(key, lambda key=key: _pixels(key))  # type: ignore[misc]
        assert cache.num_bytes == 900
        assert cache.get(1, refuse)[0, 0, 0] == 1
        cache.get(4, lambda: _pixels(4))
        assert cache.num_bytes == 900
        for key in (1, 3, 4):
            assert cache.get(key, refuse)[0, 0, 0] == key
        with pytest.raises(AssertionError, match="made again"):
            cache.get(2, refuse)

    @given(sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 500)), max_size=60), bound=st.integers(0, 1500))
    def test_the_bound_holds(self, sizes: list[tuple[int, int]], bound: int) -> None:
        cache = PictureCache(bound)
        for key, num_pixels in sizes:
            cache.get(key, lambda key=key, n=num_pixels: _pixels(key, 3 * n))  # type: ignore[misc]
            assert cache.num_bytes <= bound
            assert cache.num_bytes == sum(picture.nbytes for picture in cache._pictures.values())

    @pytest.mark.parametrize("bound", [0, 299])
    def test_what_is_too_large_is_not_kept_and_drives_nothing_out(self, bound: int) -> None:
        cache = PictureCache(bound)
        if bound:
            cache.get("small", lambda: _pixels(1, 30))
        assert cache.get("large", lambda: _pixels(7))[0, 0, 0] == 7
        with pytest.raises(AssertionError, match="made again"):
            cache.get("large", refuse)
        assert cache.num_bytes == (30 if bound else 0)
        if bound:
            cache.get("small", refuse)

    def test_another_bound(self) -> None:
        cache = PictureCache(900)
        for key in range(3):
            cache.get(key, lambda: _pixels(0))
        cache.max_bytes = 300
        cache.get(3, lambda: _pixels(3))
        assert cache.num_bytes == 300
        cache.get(3, refuse)

    def test_two_who_make_the_same_at_once(self) -> None:
        cache = PictureCache(900)

        def make() -> Pixels:
            cache.get(1, lambda: _pixels(1))  # another thread is faster
            return _pixels(1)

        assert cache.get(1, make)[0, 0, 0] == 1
        assert cache.num_bytes == 300

    def test_an_error_leaves_nothing_behind(self) -> None:
        cache = PictureCache(900)
        with pytest.raises(AssertionError, match="made again"):
            cache.get(1, refuse)
        assert cache.get(1, lambda: _pixels(1)).nbytes == cache.num_bytes == 300

    def test_threads(self) -> None:
        cache = PictureCache(2_000)
        together = threading.Barrier(8)

        def work(seed: int) -> None:
            together.wait()
            for key in np.random.default_rng(seed).integers(12, size=400).tolist():
                picture = cache.get(key, lambda key=key: _pixels(key, 30 * (key + 1)))  # type: ignore[misc]
                assert picture.nbytes == 30 * (key + 1)
                assert (picture == key).all()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert 0 < cache.num_bytes <= 2_000
        assert cache.num_bytes == sum(picture.nbytes for picture in cache._pictures.values())
