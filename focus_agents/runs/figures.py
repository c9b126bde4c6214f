"""Figures with their intervals, in as many digits as it takes to see that an interval is one."""

from __future__ import annotations

from collections.abc import Sequence

MOST_MORE_DIGITS = 3
"""Beyond those that are asked for."""


def in_digits(mean: float, interval: Sequence[float], *, digits: int, is_signed: bool = False) -> tuple[str, str, str]:
    """Return a mean and the bounds of its interval; with more decimals where both bounds would look the same.

    Args:
        mean: The figure.
        interval: Its bounds; where they are the same, so are their texts.
        digits: Decimals.
        is_signed: Whether a positive number has its sign, as a difference.

    >>> in_digits(12.34, (11.0, 14.0), digits=1)
    ('12.3', '11.0', '14.0')
    >>> in_digits(0.002, (0.0, 0.004), digits=1)
    ('0.002', '0.000', '0.004')
    """
    low, high = interval
    styles = [f"{'+' if is_signed else ''}.{digits + more}f" for more in range(MOST_MORE_DIGITS + 1)]
    told_apart = (style for style in styles if float(format(low, style)) != float(format(high, style)))  # -0.0 is 0.0
    style = next(told_apart, styles[0])  # bounds that are the same but for rounding need no more
    return format(mean, style), format(low, style), format(high, style)
