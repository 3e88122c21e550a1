"""One blob into one repository: in one request or in pieces, going on where it broke off.

In come a blob's bytes and the location where an upload began, out comes a blob that the registry
has checked.  Whether it was needed is not known here.
Sources: OCI distribution-spec 1.1, "Pushing blobs"; Docker Registry HTTP API V2, "Blob Upload".
"""

from __future__ import annotations

import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from stacker.errors import NetworkError, StackerError
from stacker.image.document import quoted
from stacker.registry.client import refusal
from stacker.registry.http.origin import check_plain, is_loopback, origin_of
from stacker.registry.http.response import BrokenOffError, number
from stacker.stream.compression import read_chunks
from stacker.stream.verify import verified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.descriptor import Descriptor
    from stacker.registry.client import Client
    from stacker.registry.http.response import Answer
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress

PIECE = 8 << 20
"""Bytes of one request; a blob of no more goes in one.  A piece is held in memory."""
_LARGEST_PIECE = 256 << 20
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_LOST = frozenset({404, 410})
_OCTETS = "application/octet-stream"


class _LostError(StackerError):
    """The registry knows nothing of this upload any more, or not what we know.

    :param busy: the answer that may say how long to wait.
    """

    def __init__(self, message: str, busy: Answer | None = None) -> None:
        super().__init__(message)
        self.busy = busy


class Upload:
    """Sends the blob that `descriptor` describes through `client`.

    :param piece: bytes of one request.
    """

    def __init__(self, client: Client, descriptor: Descriptor, *, piece: int) -> None:
        self._client = client
        self._blob = descriptor
        self._piece = piece
        self._what = f"{client.what}@{descriptor.digest}"
        self._failures = self._furthest = 0

    def send(self, feed: Feed, begun: Answer | None, report: ByteProgress) -> None:
        """Send the blob.

        :param feed: its bytes.
        :param begun: the registry's answer to an upload's beginning; without one, it is begun.
        :raises NetworkError: it fails too often.
        :raises AuthenticationError: the registry does not let us.
        :raises IntegrityError: the bytes are not what the descriptor says.
        """
        while True:
            answer = begun or self.begin()
            begun = None
            try:
                self._send(feed, answer, report)
            except _LostError as error:
                self._count(error.message, error.busy)
                if exists(self._client, self._blob):
                    return
            else:
                return

    def begin(self, query: str = "") -> Answer:
        """Begin an upload, or have the blob mounted when `query` says so: 202, or 201."""
        url = self._client.url(f"blobs/uploads/{query}")
        answer = self._client.ask("POST", url, {"Content-Length": "0"}, b"")
        if answer.status not in (201, 202):
            raise refusal(answer, self._what, 202)
        answer.refusal()  # the connection can be used again
        return answer

    def cancel(self, begun: Answer) -> None:
        """Tell the registry that an upload will not go on; it would find out by itself."""
        with suppress(NetworkError):
            answer = self._client.ask("DELETE", self._location(begun), {}, once=True)
            answer.refusal()

    def _send(self, feed: Feed, begun: Answer, report: ByteProgress) -> None:
        place = self._location(begun)
        if self._blob.size <= self._piece:
            self._close(place, feed.at(0, self._piece))
        else:
            piece = max(self._piece, _shortest(begun, self._what))
            self._close(self._send_pieces(feed, piece, place, report), b"")
        report(self._blob.size)

    def _send_pieces(self, feed: Feed, piece: int, place: str, report: ByteProgress) -> str:
        """Send everything piece by piece, and return where the upload is to be closed."""
        offset = 0
        while offset < self._blob.size:
            offset, place = self._send_piece(place, offset, feed.at(offset, piece))
            if offset > self._furthest:
                self._failures, self._furthest = 0, offset
            report(offset)
        return place

    def _send_piece(self, place: str, offset: int, data: bytes) -> tuple[int, str]:
        """Send a piece; return how far the upload got, and where it goes on."""
        end = offset + len(data)
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(len(data)),
            "Content-Range": f"{offset}-{end - 1}",
        }
        try:
            answer = self._client.ask("PATCH", place, headers, data, once=True)
        except BrokenOffError as error:
            return self._resumed(place, error.message)
        if answer.status in _PASSING or answer.status == 416:
            return self._resumed(place, self._busy(answer), answer)
        self._check(answer, 202)
        reached = _reached(answer)
        if reached is None:
            reached = end
        if reached <= offset:
            self._count(f"upload gets no further: {self._what}: got {reached} bytes, want {end}")
        return self._believed(reached, end), self._location(answer, place)

    def _resumed(self, place: str, message: str, busy: Answer | None = None) -> tuple[int, str]:
        """Ask how far an upload got that broke off, after a while."""
        self._count(message, busy)
        answer = self._client.ask("GET", place, {})
        if answer.status not in (200, 202, 204):
            said = answer.status
            answer.refusal()
            # Debian's registry gives an upload up when part of a piece came.
            raise _LostError(f"{message}; the upload cannot go on: got status {said}, want 204")
        answer.refusal()
        reached = _reached(answer)
        return self._believed(reached or 0, self._blob.size), self._location(answer, place)

    def _close(self, place: str, data: bytes) -> None:
        """End the upload: with the whole blob, or with nothing when the registry has it all."""
        joint = "&" if "?" in place else "?"
        url = f"{place}{joint}digest={self._blob.digest}"
        headers = {"Content-Type": _OCTETS, "Content-Length": str(len(data))}
        try:
            answer = self._client.ask("PUT", url, headers, data, once=True)
        except BrokenOffError as error:
            raise _LostError(error.message) from error
        if answer.status in _PASSING and not data:
            self._count(self._busy(answer), answer)
            self._close(place, data)  # the registry has it all; what it has not, it says
        elif answer.status in _PASSING or answer.status == 416:
            raise _LostError(self._busy(answer), answer)
        else:
            self._check(answer, 201)

    def _check(self, answer: Answer, want: int) -> None:
        if answer.status in _LOST:
            raise _LostError(refusal(answer, self._what, want).message)
        if answer.status not in (want, 201, 204):  # 204: older registries
            raise refusal(answer, self._what, want)
        answer.refusal()

    def _busy(self, answer: Answer) -> str:
        answer.refusal()
        return f"upload interrupted: {self._what}: got status {answer.status}"

    def _count(self, message: str, busy: Answer | None = None) -> None:
        """Count a failure and wait.

        :raises NetworkError: it was the last one.
        """
        self._failures += 1
        if self._failures >= self._client.access.timeouts.attempts:
            raise NetworkError(f"{message}; gave up after {self._failures} attempts")
        self._client.wait(self._failures, busy)

    def _believed(self, reached: int, most: int) -> int:
        if reached > most:
            raise _LostError(
                f"upload at a wrong place: {self._what}: got {reached} bytes, want at most {most}"
            )
        return reached

    def _location(self, answer: Answer, before: str = "") -> str:
        """Return where an upload goes on; the registry may name another place in each answer."""
        said = answer.header("Location")
        if not (said or before):
            raise NetworkError(f"no place to upload to: {self._what}: got no Location, want one")
        try:
            place = urljoin(before or self._client.url("blobs/uploads/"), said)
        except ValueError:
            place = ""
        mine, theirs = origin_of(self._client.base, self._what), origin_of(place, self._what)
        check_plain(theirs, mine, self._what, insecure=self._client.access.insecure)
        if is_loopback(theirs.host) and not is_loopback(mine.host):
            raise NetworkError(
                f"refused to upload: {self._what}: got {quoted(theirs.host)}, want another machine"
            )
        return place


class Feed:
    """Gives the bytes of the blob that `descriptor` describes; closed by `close`."""

    def __init__(self, descriptor: Descriptor, opened: BlobOpener) -> None:
        self._descriptor = descriptor
        self._opened = opened
        self._chunks: Iterator[bytes] | None = None
        self._piece = b""
        self._start = 0

    def at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer at the blob's end.

        With its last byte the whole blob has been verified.

        :raises IntegrityError: it is not what the descriptor says.
        """
        if offset < self._start or self._chunks is None:
            self._restart()
        self._advance(offset, min(offset + size, self._descriptor.size))
        if self._start + len(self._piece) == self._descriptor.size:
            self._finish()
        return self._piece[offset - self._start : offset - self._start + size]

    def close(self) -> None:
        """Close the blob."""
        if self._chunks is not None:
            self._chunks.close()  # type: ignore[attr-defined]  # a generator
        self._chunks = None

    def _restart(self) -> None:
        self.close()
        self._piece, self._start = b"", 0
        what = f"blob {self._descriptor.digest}"
        self._chunks = verified(
            self._read_through(),
            digest=self._descriptor.digest,
            size=self._descriptor.size,
            what=what,
        )

    def _read_through(self) -> Iterator[bytes]:
        with closing(self._opened()) as file:
            yield from read_chunks(file)

    def _advance(self, offset: int, end: int) -> None:
        """Read up to `end`, and keep what lies from `offset` on."""
        parts, start = [self._piece], self._start
        reached = start + len(self._piece)
        while True:
            while parts and start + len(parts[0]) <= offset:
                start += len(parts.pop(0))
            if reached >= end:
                break
            parts.append(self._next())
            reached += len(parts[-1])
        self._piece, self._start = b"".join(parts), start

    def _next(self) -> bytes:
        for chunk in self._chunks or ():
            return chunk
        raise AssertionError  # whoever verifies fails before there is nothing left

    def _finish(self) -> None:
        """Reach the end of the stream, where its digest is judged."""
        for _ in self._chunks or ():
            pass


def exists(client: Client, wanted: Descriptor, kind: str = "blobs") -> bool:
    """Return whether a repository has something; who does not say so plainly does not.

    :param kind: ``blobs`` or ``manifests``.
    """
    accept = wanted.media_type if kind == "manifests" else "*/*"
    answer = client.ask("HEAD", client.url(f"{kind}/{wanted.digest}"), {"Accept": accept})
    there = answer.status == 200 and answer.length in (None, wanted.size)
    answer.close()
    return there


def _shortest(begun: Answer, what: str) -> int:
    """Return the bytes a piece must have at least; the last one may have fewer.

    Source: distribution-spec, "Pushing a blob in chunks", OCI-Chunk-Min-Length.
    """
    shortest = number(begun.header("OCI-Chunk-Min-Length")) or 0
    if shortest > _LARGEST_PIECE:
        raise NetworkError(
            f"pieces too large: {what}: got a minimum of {shortest} bytes, "
            f"want at most {_LARGEST_PIECE}"
        )
    return shortest


def _reached(answer: Answer) -> int | None:
    """Return how many bytes an upload has, None when the registry does not say.

    ``0-0`` is said of one byte, and by some of none: none is meant, since no piece is that short.
    """
    match = _RANGE.fullmatch(answer.header("Range").strip())
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last else 0
