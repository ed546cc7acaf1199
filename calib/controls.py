"""Controls: calibration text without meaning (Bandari et al. 2024, section 4)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from calib.pool import Pool, Tokens

if TYPE_CHECKING:
    import numpy as np

DOCUMENTS = 512
"""Documents of a control's pool, each of twice the window's length."""


def random_tokens(vocabulary: Sequence[int], seqlen: int, documents: int = DOCUMENTS) -> np.ndarray:
    """Uniformly random token ids, int32 [documents, 2 * seqlen], the same on every machine.

    Args:
        vocabulary: the ids to choose from, those of special tokens left out.
        seqlen: length of a window.
        documents: how many documents.
    """
    import numpy as np

    count = 2 * seqlen * documents
    bits = hashlib.shake_256(b"random_tokens").digest(8 * count)
    chosen = np.frombuffer(bits, "<u8") % np.uint64(len(vocabulary))
    return np.asarray(vocabulary, np.int32)[chosen.astype(np.int64)].reshape(documents, 2 * seqlen)


def random_pool(ids: np.ndarray, decode: Callable[[list[int]], str]) -> tuple[Pool, Tokens]:
    """The documents that random token ids spell, and the ids themselves as their tokens.

    The ids are not made from the text again: a tokenizer would merge them into others.
    """
    import numpy as np

    texts = [decode(row) for row in ids.tolist()]
    pool = Pool.of(texts, len(texts))
    row_of = {text: i for i, text in enumerate(texts)}
    order = [row_of[text] for text in pool.texts]
    ends = np.arange(1, len(order) + 1, dtype=np.int64) * ids.shape[1]
    return pool, Tokens(ids[order].reshape(-1), ends, pool.ids)


def ellipses(seqlen: int, tokens: Callable[[str], int], documents: int = DOCUMENTS) -> list[str]:
    """Texts of ellipses alone, all of different length and each longer than two windows.

    Args:
        seqlen: length of a window.
        tokens: counts the tokens of a text.
        documents: how many texts.
    """
    count = seqlen
    while tokens(" ..." * count) < 2 * seqlen:
        count *= 2
    return [" ..." * (count + i) for i in range(documents)]
