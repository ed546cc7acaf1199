"""Files of the hub that are read over the network, where they are asked for, and never kept."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import ExitStack

from prune.model import hub

ATTEMPTS = 4
"""Tries in a row that bring nothing."""

BUFFER_BYTES = 2**16

FIRST_BYTES, MOST_BYTES = 2**18, 2**26
"""Asked for after a jump, and at most: each request that reads on asks for twice as much as the
one before, so that no more than what was read is transferred in vain."""


def open_stream(repository: hub.Repository, name: str) -> io.BufferedReader:
    """A file of a repository, to be read from any place; about what is read is transferred.

    Args:
        repository: as `hub.resolve` gave it. name: of the file in it.
    """
    return io.BufferedReader(_Stream(repository, name), BUFFER_BYTES)


class _Stream(io.RawIOBase):
    def __init__(self, repository: hub.Repository, name: str) -> None:
        self._repository, self._name = repository, name
        self._size = repository.files[name].size
        self._place = 0
        self._ahead = FIRST_BYTES
        self._transfer = ExitStack()
        self._chunks: Iterator[bytes] | None = None
        self._rest = b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if start + offset != self._place:
            self._stop()
            self._ahead = FIRST_BYTES
            self._place = start + offset
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer with what comes next, or a part of it; 0 at the end of the file.

        Raises:
            hub.BrokenTransferError: the network broke.
            huggingface_hub.errors.HfHubHTTPError: the hub refused.
        """
        if self._place >= self._size:
            return 0
        self._rest = self._rest or self._next()
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        self._place += len(part)
        return len(part)

    def close(self) -> None:
        self._stop()
        super().close()

    def _stop(self) -> None:
        self._transfer.close()
        self._chunks, self._rest = None, b""

    def _next(self) -> bytes:
        """The next bytes that arrive, of a new transfer where one is over or broke."""
        failures = 0
        while True:
            try:
                if self._chunks is None:
                    self._chunks = self._begin()
                chunk = next(self._chunks, b"")
            except Exception as error:
                self._stop()
                if hub.is_refusal(error):
                    raise
                failures += 1
                if failures == ATTEMPTS:
                    raise hub.BrokenTransferError(
                        f"{self._repository.repo}/{self._name} broke off at {self._place:,} of "
                        f"{self._size:,} bytes ({error})"
                    ) from error
                time.sleep(failures)
            else:
                if chunk:
                    return chunk
                self._stop()

    def _begin(self) -> Iterator[bytes]:
        """What arrives of a request for the next bytes."""
        stop = min(self._place + self._ahead, self._size)
        self._ahead = min(2 * self._ahead, MOST_BYTES)
        request = hub.request(self._repository, self._name, self._place, stop)
        response = self._transfer.enter_context(request)
        skip = 0 if response.status_code == 206 else self._place  # a server that knows no ranges
        for chunk in response.iter_bytes():
            if skip < len(chunk):
                yield chunk[skip:]
            skip = max(0, skip - len(chunk))
