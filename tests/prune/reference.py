"""Plain float64 references, one weight at a time, written from the papers.

Weights are [rows, columns]; inputs are windows, [windows, tokens, columns]; masks are True where
pruned. Counts are exact, ties go to the lowest index (row by row in a matrix).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def take_lowest(scores: Array, count: int, already: Mask | None = None) -> Mask:
    """Mark the lowest of `scores` until `count` are, those `already` marked included."""
    mask = np.zeros(scores.shape, bool) if already is None else already.copy()
    places = [index for index in np.ndindex(scores.shape) if not mask[index]]
    for index in sorted(places, key=lambda index: scores[index]):  # sorted() is stable
        if mask.sum() >= count:
            break
        mask[index] = True
    return mask


def n_of_m(scores: Array, n: int, m: int) -> Mask:
    mask = np.zeros(scores.shape, bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], m):
            mask[row, start : start + m] = take_lowest(scores[row, start : start + m], m - n)
    return mask


def rank(scores: Array, sparsity: Fraction, n: int, m: int, by_row: bool) -> Mask:
    mask = n_of_m(scores, n, m) if m else np.zeros(scores.shape, bool)
    if not by_row:
        return take_lowest(scores, int(sparsity * scores.size), mask)
    for row in range(scores.shape[0]):
        mask[row] = take_lowest(scores[row], int(sparsity * scores.shape[1]), mask[row])
    return mask


def norms(X: Array) -> Array:
    return np.sqrt((X**2).sum(axis=(0, 1)))


def magnitude(W: Array, sparsity: Fraction, n: int = 0, m: int = 0) -> Mask:
    return rank(abs(W), sparsity, n, m, by_row=False)


def wanda(W: Array, X: Array, sparsity: Fraction, n: int = 0, m: int = 0) -> Mask:
    return rank(abs(W) * norms(X), sparsity, n, m, by_row=True)


def ria(W: Array, X: Array, sparsity: Fraction, n: int = 0, m: int = 0, a: float = 0.5) -> Mask:
    scores = np.zeros(W.shape)
    size = abs(W)
    for i, j in np.ndindex(W.shape):
        if size[i, j] > 0:
            scores[i, j] = size[i, j] / size[:, j].sum() + size[i, j] / size[i].sum()
        scores[i, j] *= norms(X)[j] ** a
    return rank(scores, sparsity, n, m, by_row=False)


def hessian(X: Array, dampening: float) -> tuple[Array, Mask]:
    """H = 2/N X X^T with 1 for dead inputs, damped; and which inputs are dead."""
    tokens = X.reshape(-1, X.shape[2])
    H = 2 / len(X) * tokens.T @ tokens
    dead = np.diag(H) == 0
    H[dead, dead] = 1
    return H + dampening * np.diag(H).mean() * np.eye(len(H)), dead


def upper_factor(H: Array) -> Array:
    """Upper triangular R with R^T R = H^-1."""
    return np.linalg.cholesky(np.linalg.inv(H)).T


def sparsegpt(
    W: Array,
    X: Array,
    sparsity: Fraction,
    n: int = 0,
    m: int = 0,
    dampening: float = 0.01,
    block_size: int = 128,
) -> tuple[Mask, Array]:
    """Algorithm 1, every update applied to all later columns at once."""
    H, dead = hessian(X, dampening)
    R = upper_factor(H)
    dense, W = W, np.where(dead, 0, W)
    mask = np.zeros(W.shape, bool)
    planned: dict[int, list[int]] = {}
    for j in range(W.shape[1]):
        if j % block_size == 0:
            block = slice(j, min(j + block_size, W.shape[1]))
            scores = W[:, block] ** 2 / np.diag(R)[block] ** 2
            chosen = rank(scores, sparsity, n, m, by_row=False)
            if m:
                for start in range(0, chosen.shape[1], m):
                    planned[j + start] = list(chosen[:, start : start + m].sum(axis=1))
            else:
                mask[:, block] = chosen
        if j in planned:
            for row, count in enumerate(planned[j]):
                scores = W[row, j : j + m] ** 2 / np.diag(R)[j : j + m] ** 2
                mask[row, j : j + m] = take_lowest(scores, count)
        for row in range(W.shape[0]):
            if mask[row, j]:
                W[row, j + 1 :] -= W[row, j] / R[j, j] * R[j, j + 1 :]
                W[row, j] = 0
    return mask, np.where(dead & ~mask, dense, W)


def sparsegpt_scores(W: Array, X: Array, dampening: float = 0.01) -> Array:
    H, dead = hessian(X, dampening)
    return np.where(dead, 0, W) ** 2 / np.diag(upper_factor(H)) ** 2


def lowest_of(places: list[int], scores: Array) -> int:
    return min(places, key=lambda k: (scores[k], k))


def per_variance(contribution: Array, variance: Array, power: float) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(contribution == 0, 0, contribution / variance**power)


def dsnot_paper(
    W: Array,
    X: Array,
    sparsity: Fraction,
    n: int = 0,
    m: int = 0,
    initial: str = "wanda",
    max_cycles: int = 50,
    threshold: float = 0.1,
    power: float = 1.0,
) -> Mask:
    starts = {
        "wanda": lambda: wanda(W, X, sparsity, n, m),
        "magnitude": lambda: magnitude(W, sparsity, n, m),
        "sparsegpt": lambda: sparsegpt(W, X, sparsity, n, m)[0],
    }
    mask = starts[initial]()
    tokens = X.reshape(-1, X.shape[2])
    mean, variance = tokens.mean(axis=0), tokens.var(axis=0)
    for row in range(W.shape[0]):
        c = W[row] * mean
        gain = per_variance(c, variance, power)
        cost = abs(W[row]) * norms(X)
        for _ in range(max_cycles):
            error = c[mask[row]].sum()
            sign = np.sign(error)
            if abs(error) <= threshold:
                break
            pruned = [k for k in range(len(c)) if mask[row, k] and sign * gain[k] > 0]
            kept = [k for k in range(len(c)) if not mask[row, k] and sign * c[k] < 0]
            if m:
                pruned = [k for k in pruned if any(k // m == j // m for j in kept)]
            if not pruned or not kept:
                break
            i = lowest_of(pruned, -sign * gain)
            j = lowest_of([j for j in kept if not m or j // m == i // m], cost)
            mask[row, i], mask[row, j] = False, True
    return mask


def dsnot_released(
    W: Array,
    X: Array,
    sparsity: Fraction,
    n: int = 0,
    m: int = 0,
    initial: str = "wanda",
    max_cycles: int = 50,
    threshold: float = 0.1,
    power: float = 1.0,
) -> Mask:
    """The rules of the authors' code; a row that has nothing left to swap stops."""
    scores = {
        "wanda": abs(W) * norms(X),
        "magnitude": abs(W),
        "sparsegpt": sparsegpt_scores(W, X),
    }[initial]
    mask = rank(scores, sparsity, n, m, by_row=True)
    sums = X.sum(axis=1).mean(axis=0)
    variance = X.var(axis=1).mean(axis=0)  # windows of equal length
    for row in range(W.shape[0]):
        c = W[row] * sums
        gain = per_variance(c, variance, power)
        cost = scores[row] if m else abs(W[row]) * norms(X)
        to_revive = [k for k in range(len(c)) if mask[row, k]]
        to_prune = [k for k in range(len(c)) if not mask[row, k]]
        first = np.sign(c[mask[row]].sum())
        for _ in range(max_cycles):
            error = c[mask[row]].sum()
            sign = np.sign(error)
            if abs(error) <= threshold:
                break
            revivable = [k for k in to_revive if sign * gain[k] > 0]
            prunable = to_prune if m else [k for k in to_prune if sign * c[k] < 0]
            if m:
                revivable = [k for k in revivable if any(k // m == j // m for j in prunable)]
            if not revivable or not prunable:
                break
            i = lowest_of(revivable, -sign * gain)
            j = lowest_of([j for j in prunable if not m or j // m == i // m], cost)
            if m and np.sign(error + c[j] - c[i]) != first:
                break
            mask[row, i], mask[row, j] = False, True
            to_revive.remove(i)
            to_prune.remove(j)
    return mask
