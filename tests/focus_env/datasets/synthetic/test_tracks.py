"""Tracks: where an object is expected, given where it was."""

from __future__ import annotations

import numpy as np

from focus_env.datasets.synthetic.tracks import expected_last


def test_the_expected_place() -> None:
    """One place tells no way; a straight line goes on; three places tell the bow as well."""
    np.testing.assert_allclose(expected_last([0.0], [[0.2, 0.7]]), [0.2, 0.7], atol=0.01)
    line = [[0.2, 0.7], [0.4, 0.6], [0.6, 0.5]]
    np.testing.assert_allclose(expected_last([0, 0.25, 0.5], line), [1.0, 0.3], atol=0.02)
    bow = [[0.5, 0.5 + 4 * t * (1 - t) * 0.1] for t in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(expected_last([0, 0.25, 0.5, 0.75], bow), [0.5, 0.5], atol=0.01)
