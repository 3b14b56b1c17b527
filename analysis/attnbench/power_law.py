# SPDX-License-Identifier: Apache-2.0
"""y = a + b*n^p with a >= 0, b > 0: least squares of relative errors, for many series at once.

Curves are rows ``[fits, 3]`` of a, b, p. What is said of them, with intervals, is fit.py's.
"""

from __future__ import annotations

import numpy as np

LARGEST_EXPONENT = 6.0


def fit_many(n: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Variable projection: for a given p, a and b are linear; p by a grid, then golden section.

    n: [sizes]; y: [fits, sizes]. Returns [fits, 3]: a, b, p.
    """
    scaled = n / n[-1]
    grid = np.linspace(0.0, LARGEST_EXPONENT, 121)
    powers = scaled[None, :] ** grid[:, None]
    sums = _sums(1 / y, powers)
    best = grid[np.argmin(_loss(_coefficients(*sums), sums, len(n)), axis=1)]
    low, high = np.maximum(best - 0.05, 0), np.minimum(best + 0.05, LARGEST_EXPONENT)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(22):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        better = _project(scaled, y, left)[2] <= _project(scaled, y, right)[2]
        high, low = np.where(better, right, high), np.where(better, low, left)
    p = (low + high) / 2
    a, b, _ = _project(scaled, y, p)
    return np.stack([a, b / n[-1] ** p, p], axis=1)


def _sums(u: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, ...]:
    """The normal equations' sums for every fit (rows) and p (columns); u = 1/y."""
    u2 = u * u
    return (
        u2.sum(1)[:, None], u2 @ powers.T, u2 @ (powers * powers).T,
        u.sum(1)[:, None], u @ powers.T,
    )  # fmt: skip


def _coefficients(
    uu: np.ndarray, uv: np.ndarray, vv: np.ndarray, su: np.ndarray, sv: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best a >= 0, b > 0 of two linear unknowns."""
    determinant = uu * vv - uv * uv
    safe = determinant > 1e-12 * uu * vv
    divisor = np.where(safe, determinant, 1)
    a = np.where(safe, (su * vv - sv * uv) / divisor, 0)
    b = np.where(safe & (a >= 0), (sv * uu - su * uv) / divisor, sv / vv)
    a = np.where(b <= 0, su / uu, np.maximum(a, 0))
    return a, np.maximum(b, 1e-12 * sv / vv)


def _loss(
    coefficients: tuple[np.ndarray, np.ndarray], sums: tuple[np.ndarray, ...], count: int
) -> np.ndarray:
    (a, b), (uu, uv, vv, su, sv) = coefficients, sums
    return a * a * uu + 2 * a * b * uv + b * b * vv - 2 * a * su - 2 * b * sv + count


def _project(
    scaled: np.ndarray, y: np.ndarray, p: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best a >= 0, b > 0 for each fit's own p, and the loss: sum of ((a + b*n^p)/y - 1)^2."""
    u, v = 1 / y, scaled[None, :] ** p[:, None] / y
    a, b = _coefficients((u * u).sum(1), (u * v).sum(1), (v * v).sum(1), u.sum(1), v.sum(1))
    residual = a[:, None] * u + b[:, None] * v - 1
    return a, b, (residual**2).sum(1)


def largest(draws: np.ndarray, budget: float) -> np.ndarray:
    """The n at which each curve ``[fits, 3]`` reaches ``budget``; 0 where a alone exceeds it."""
    room = np.maximum(budget - draws[:, 0], 0) / draws[:, 1]
    return room ** (1 / np.maximum(draws[:, 2], 1e-9))


def last_crossing(first: np.ndarray, second: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Where the curves last cross on the grid, interpolated in log n; nan where they do not."""

    def curve(p: np.ndarray) -> np.ndarray:
        return np.log(p[:, :1] + p[:, 1:2] * grid[None, :] ** p[:, 2:3])

    gap = curve(first) - curve(second)
    changes = np.signbit(gap[:, 1:]) != np.signbit(gap[:, :-1])
    last = changes.shape[1] - 1 - np.argmax(changes[:, ::-1], axis=1)
    rows = np.arange(len(gap))
    left, right = gap[rows, last], gap[rows, last + 1]
    part = np.clip(left / np.where(left == right, 1, left - right), 0, 1)
    crossing = np.exp(np.log(grid[last]) * (1 - part) + np.log(grid[last + 1]) * part)
    return np.where(changes.any(axis=1), crossing, np.nan)
