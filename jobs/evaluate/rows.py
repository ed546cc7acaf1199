"""How requests share computation: requests that begin alike go through a model as one row.

A row is a common beginning and the tails that follow it; a group is rows that begin alike, with a
beginning (the examples of a few-shot prompt) that is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

LEAST_SHARED = 64
"""A row holds at most about twice its beginning in tails, or twice so many tokens where the
beginning is shorter: what is saved by sharing must pay for attention over the whole row."""

LEAST_SAVING = 0.25
"""A request joins a row where that saves so much of its tokens."""

LEAST_FILL = 31 / 32
"""Rows of a part are at least so long, relative to its longest: the rest is padding."""

LEAST_PREFIX = 64
"""A group shares at least so many tokens, and at least half of each request, ..."""

LEAST_SAVED = 1024
"""... and saves at least so many over rows alone: its prefix is a pass through the model."""


Tokens = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Scored:
    """One request.

    Attributes:
        tokens: what goes through the model: context and continuation, without the last token.
        wanted: the continuation; its tokens are predicted by the last positions of `tokens`.
    """

    tokens: np.ndarray
    wanted: np.ndarray


def cut_request(context: Tokens, continuation: Tokens, max_length: int) -> Scored:
    """A request of at most `max_length` tokens, cut from the left as lm-eval does.

    Raises:
        ValueError: the context or continuation is empty, or the continuation is too long.
    """
    if len(context) == 0 or len(continuation) == 0:
        raise ValueError("a request needs a context and a continuation of at least one token")
    if len(continuation) > max_length:
        raise ValueError(
            f"a continuation has {len(continuation)} tokens, and the model takes {max_length}; "
            "set evaluate.max_length to more, where the model has the positions, or leave the "
            "task out"
        )
    wanted = np.asarray(continuation, np.int32)
    tokens = np.concatenate([np.asarray(context, np.int32), wanted])
    return Scored(tokens[-(max_length + 1) :][:-1], wanted)


@dataclass
class Row:
    """One sequence: a beginning, and the tails that follow it, each seeing only itself.

    Attributes:
        beginning: token ids that all requests of the row share.
        tails: the rest of each distinct request; may be empty.
        requests: (index, number of its tail, scored tokens) of each request.
    """

    beginning: np.ndarray
    tails: list[np.ndarray]
    requests: list[tuple[int, int, int]]

    def __len__(self) -> int:
        return len(self.beginning) + sum(map(len, self.tails))

    @property
    def longest(self) -> int:
        """Tokens of its longest request."""
        return len(self.beginning) + max(map(len, self.tails))

    def first(self, tails: int) -> Row:
        """The row with its first tails only."""
        kept = [request for request in self.requests if request[1] < tails]
        return Row(self.beginning, self.tails[:tails], kept)

    def tokens(self, start: int = 0) -> np.ndarray:
        """The sequence, from a position of the beginning."""
        return np.concatenate([self.beginning[start:], *self.tails])

    def places(self) -> list[np.ndarray]:
        """Where in `tokens()` the scored tokens of each request are predicted."""
        shared = len(self.beginning)
        starts = np.cumsum([0, *map(len, self.tails)])
        found = []
        for _, tail, scored in self.requests:
            end = shared + len(self.tails[tail])
            wanted = np.arange(end - scored, end)
            found.append(np.where(wanted < shared, wanted, wanted + starts[tail]))
        return found

    def separate(self) -> Iterator[Row]:
        """A row for each distinct request."""
        for number, tail in enumerate(self.tails):
            own = [(index, 0, scored) for index, n, scored in self.requests if n == number]
            yield Row(np.concatenate([self.beginning, tail]), [NONE], own)


NONE = np.zeros(0, np.int32)


@dataclass
class Group:
    """Rows that go through the model after a prefix that is computed once.

    Attributes:
        prefix: token ids all rows begin with, shorter than the beginning of each; may be empty.
        rows: the rows, prefix included.
    """

    prefix: np.ndarray
    rows: list[Row] = field(default_factory=list)


def groups_of(requests: Sequence[Scored]) -> list[Group]:
    """Requests as rows, and rows as groups; the same for any order of the requests."""
    same: dict[bytes, list[int]] = {}
    for i, request in enumerate(requests):
        same.setdefault(request.tokens.astype(">u4").tobytes(), []).append(i)
    distinct = [same[key] for key in sorted(same)]  # big-endian bytes sort as the tokens do
    groups: list[Group] = []
    alone = Group(NONE)
    for family, prefix in _families(requests, distinct):
        rows = _rows(requests, family, 0)
        if (len(rows) - 1) * prefix >= LEAST_SAVED:
            shared = requests[family[0][0]].tokens[:prefix]
            groups.append(Group(shared, _rows(requests, family, prefix)))
        else:
            alone.rows += rows
    return [*groups, alone] if alone.rows else groups


def _families(
    requests: Sequence[Scored], distinct: Sequence[list[int]]
) -> Iterator[tuple[list[list[int]], int]]:
    """Neighbours that begin with the same tokens, and how many; the others one by one."""
    family: list[list[int]] = []
    shared = 0
    for indices in distinct:
        tokens = requests[indices[0]].tokens
        # what predicts its first scored token is computed with a request, not with the prefix
        own = len(tokens) - max(len(requests[i].wanted) for i in indices)
        if family:
            common = min(shared, own, common_length(requests[family[-1][0]].tokens, tokens))
            if common >= max(LEAST_PREFIX, len(tokens) / 2):
                family.append(indices)
                shared = common
                continue
            yield family, shared
        family, shared = [indices], own
    if family:
        yield family, shared


def _rows(requests: Sequence[Scored], distinct: Sequence[list[int]], prefix: int) -> list[Row]:
    """Sorted requests as rows; their first `prefix` tokens, which all share, cost nothing."""
    rows: list[Row] = []
    members: list[list[int]] = []  # of the row being filled
    shared = total = 0  # without the prefix

    def finish() -> None:
        sequences = [requests[indices[0]].tokens for indices in members]
        end = prefix + shared
        owners = [
            (i, n, len(requests[i].wanted)) for n, indices in enumerate(members) for i in indices
        ]
        rows.append(Row(sequences[0][:end], [s[end:] for s in sequences], owners))

    for indices in distinct:
        tokens = requests[indices[0]].tokens
        length = len(tokens) - prefix
        if members:
            common = common_length(requests[members[-1][0]].tokens, tokens) - prefix
            common = min(shared, common)
            joint = total + (len(members) - 1) * (shared - common) + length - common
            fits = joint <= 3 * max(common, LEAST_SHARED)
            if fits and total + length - joint >= LEAST_SAVING * length:
                members.append(indices)
                shared, total = common, joint
                continue
            finish()
        members, shared, total = [indices], length, length
    finish()
    return rows


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def batch_size(rows: Sequence[Row], prefix: int, tokens: int) -> int:
    """How many of the rows, longest first, make a batch of about `tokens` tokens; at least one.

    Where a prefix is shared, its keys and values are copied for every row: four tokens of it
    count as one.
    """
    lengths = np.fromiter((len(row) - prefix for row in rows), np.int64, len(rows))
    costs = np.maximum(lengths, (lengths + prefix) // 4)
    return max(1, int(np.searchsorted(np.cumsum(costs), tokens, "right")))


def parts_of(rows: Sequence[Row], prefix: int) -> Iterator[list[Row]]:
    """Rows, longest first, by nearly equal length: each part is padded to its longest row."""
    part: list[Row] = []
    for row in rows:
        if part and len(row) - prefix < LEAST_FILL * (len(part[0]) - prefix):
            yield part
            part = []
        part.append(row)
    if part:
        yield part


@dataclass
class Packed:
    """Rows as arrays [rows, length], padded at the end.

    Attributes:
        ids, positions: of tokens. segments: 0 for a beginning, then the number of the tail.
        places: where in the flat arrays each scored token is predicted. wanted: those tokens.
    """

    ids: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    places: np.ndarray
    wanted: np.ndarray


def pack(rows: Sequence[Row], requests: Sequence[Scored], prefix: int) -> Packed:
    """Rows from position `prefix` on."""
    length = max(map(len, rows)) - prefix
    ids, positions, segments = (np.zeros((len(rows), length), np.int64) for _ in range(3))
    places, wanted = [], []
    for number, row in enumerate(rows):
        tokens = row.tokens(prefix)
        ids[number, : len(tokens)] = tokens
        shared = len(row.beginning)
        positions[number, : shared - prefix] = np.arange(prefix, shared)
        end = shared - prefix
        for tail, own in enumerate(row.tails, 1):
            positions[number, end : end + len(own)] = np.arange(shared, shared + len(own))
            segments[number, end : end + len(own)] = tail
            end += len(own)
        for (index, _, _), own in zip(row.requests, row.places(), strict=True):
            places.append(own - prefix + number * length)
            wanted.append(requests[index].wanted)
    return Packed(ids, positions, segments, np.concatenate(places), np.concatenate(wanted))
