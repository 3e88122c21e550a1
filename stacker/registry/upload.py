"""Upload one blob into one repository: in one request or in chunks, resumed after an interruption.

A blob's bytes and the response that started an upload come in; a blob that the registry has
verified goes out.  The caller decides whether the upload is necessary.
Sources: OCI distribution-spec 1.1, "Pushing blobs"; Docker Registry HTTP API V2, "Blob Upload".
"""

from __future__ import annotations

import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from stacker.errors import NetworkError, StackerError
from stacker.image.document import quoted
from stacker.registry.client import status_error
from stacker.registry.http.origin import check_scheme, is_loopback, origin_of
from stacker.registry.http.response import TransferInterruptedError, parse_number
from stacker.stream.compression import read_chunks
from stacker.stream.verify import verified

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stacker.image.descriptor import Descriptor
    from stacker.registry.client import Client
    from stacker.registry.http.response import Response
    from stacker.stream.compression import BlobOpener
    from stacker.stream.verify import ByteProgress

CHUNK_BYTES = 8 << 20
"""Bytes per request, all in memory; a blob of at most that size goes in one request."""
_LARGEST_CHUNK = 256 << 20
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})")
_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LOST = frozenset({404, 410})
_OCTETS = "application/octet-stream"


class _LostUploadError(StackerError):
    """The registry has no such upload any more, or has another offset than we do.

    :param busy: the response that may have a Retry-After.
    """

    def __init__(self, message: str, busy: Response | None = None) -> None:
        super().__init__(message)
        self.busy = busy


class Upload:
    """Uploads the blob that `descriptor` describes through `client`.

    :param chunk_bytes: bytes per request.
    """

    def __init__(self, client: Client, descriptor: Descriptor, *, chunk_bytes: int) -> None:
        self._client = client
        self._blob = descriptor
        self._chunk_bytes = chunk_bytes
        self._what = f"{client.what}@{descriptor.digest}"
        self._failures = self._furthest = 0

    def send(self, blob: SeekableBlob, started: Response | None, report: ByteProgress) -> None:
        """Send the blob, from the start again if the registry loses the upload.

        :param started: the response that started the upload; without one, it is started here.
        :raises NetworkError: too many failures.
        :raises AuthenticationError: the registry refuses the upload.
        :raises IntegrityError: the bytes do not match the descriptor.
        """
        while True:
            response = started or self.start()
            started = None
            try:
                self._send(blob, response, report)
            except _LostUploadError as error:
                self._count_failure(error.message, error.busy)
                if exists(self._client, self._blob):
                    return
            else:
                return

    def start(self, query: str = "") -> Response:
        """Start an upload, or mount the blob if `query` asks for it: status 202 or 201."""
        url = self._client.url(f"blobs/uploads/{query}")
        response = self._client.request("POST", url, {"Content-Length": "0"}, b"")
        if response.status not in (201, 202):
            raise status_error(response, self._what, 202)
        response.drain()
        return response

    def cancel(self, started: Response) -> None:
        """Cancel an upload; if this fails, the registry expires the upload later."""
        with suppress(NetworkError):
            url = self._location(started)
            self._client.request("DELETE", url, {}, once=True).drain()

    def _send(self, blob: SeekableBlob, started: Response, report: ByteProgress) -> None:
        url = self._location(started)
        if self._blob.size <= self._chunk_bytes:
            self._finish(url, blob.read_at(0, self._chunk_bytes))
        else:
            chunk_bytes = max(self._chunk_bytes, _shortest_chunk(started, self._what))
            self._finish(self._send_chunks(blob, chunk_bytes, url, report), b"")
        report(self._blob.size)

    def _send_chunks(
        self, blob: SeekableBlob, chunk_bytes: int, url: str, report: ByteProgress
    ) -> str:
        """Send all chunks, and return the URL that finishes the upload."""
        offset = 0
        while offset < self._blob.size:
            offset, url = self._send_chunk(url, offset, blob.read_at(offset, chunk_bytes))
            if offset > self._furthest:
                self._failures, self._furthest = 0, offset
            report(offset)
        return url

    def _send_chunk(self, url: str, offset: int, data: bytes) -> tuple[int, str]:
        """Send a chunk; return the offset and the URL at which the upload continues."""
        end = offset + len(data)
        headers = {
            "Content-Type": _OCTETS,
            "Content-Length": str(len(data)),
            "Content-Range": f"{offset}-{end - 1}",
        }
        try:
            response = self._client.request("PATCH", url, headers, data, once=True)
        except TransferInterruptedError as error:
            return self._resume(url, error.message)
        if response.status in _TRANSIENT or response.status == 416:
            return self._resume(url, self._interruption(response), response)
        self._check(response, 202)
        reached = _reached(response)
        if reached is None:
            reached = end
        if reached <= offset:
            self._count_failure(
                f"upload makes no progress: {self._what}: got {reached} bytes, want {end}"
            )
        return self._checked_offset(reached, end), self._location(response, url)

    def _resume(self, url: str, message: str, busy: Response | None = None) -> tuple[int, str]:
        """Wait, and ask for the offset at which an interrupted upload continues."""
        self._count_failure(message, busy)
        response = self._client.request("GET", url, {})
        if response.status not in (200, 202, 204):
            status = response.status
            response.drain()
            # Debian's registry drops an upload after an incomplete chunk.
            raise _LostUploadError(f"{message}; cannot resume: got status {status}, want 204")
        response.drain()
        reached = _reached(response)
        offset = self._checked_offset(reached or 0, self._blob.size)
        return offset, self._location(response, url)

    def _finish(self, url: str, data: bytes) -> None:
        """Finish the upload: with the whole blob, or without data after the chunks."""
        joint = "&" if "?" in url else "?"
        headers = {"Content-Type": _OCTETS, "Content-Length": str(len(data))}
        try:
            response = self._client.request(
                "PUT", f"{url}{joint}digest={self._blob.digest}", headers, data, once=True
            )
        except TransferInterruptedError as error:
            raise _LostUploadError(error.message) from error
        if response.status in _TRANSIENT and not data:
            self._count_failure(self._interruption(response), response)
            self._finish(url, data)  # repeating it is harmless: the registry has all chunks
        elif response.status in _TRANSIENT or response.status == 416:
            raise _LostUploadError(self._interruption(response), response)
        else:
            self._check(response, 201)

    def _check(self, response: Response, want: int) -> None:
        if response.status in _LOST:
            raise _LostUploadError(status_error(response, self._what, want).message)
        if response.status not in (want, 201, 204):  # 204: older registries
            raise status_error(response, self._what, want)
        response.drain()

    def _interruption(self, response: Response) -> str:
        response.drain()
        return f"upload interrupted: {self._what}: got status {response.status}"

    def _count_failure(self, message: str, busy: Response | None = None) -> None:
        """Count a failure and wait.

        :raises NetworkError: it was the last attempt.
        """
        self._failures += 1
        if self._failures >= self._client.access.timeouts.attempts:
            raise NetworkError(f"{message}; gave up after {self._failures} attempts")
        self._client.wait(self._failures, busy)

    def _checked_offset(self, reached: int, most: int) -> int:
        if reached > most:
            raise _LostUploadError(
                f"wrong upload offset: {self._what}: got {reached} bytes, want at most {most}"
            )
        return reached

    def _location(self, response: Response, before: str = "") -> str:
        """Return the URL at which an upload continues; each response may name another one."""
        location = response.header("Location")
        if not (location or before):
            raise NetworkError(f"no upload URL: {self._what}: got no Location header, want one")
        try:
            url = urljoin(before or self._client.url("blobs/uploads/"), location)
        except ValueError:
            url = ""
        own, target = origin_of(self._client.base, self._what), origin_of(url, self._what)
        check_scheme(target, own, self._what, insecure=self._client.access.insecure)
        if is_loopback(target.host) and not is_loopback(own.host):
            raise NetworkError(
                f"refused to upload: {self._what}: got loopback host {quoted(target.host)}, "
                "want a remote one"
            )
        return url


class SeekableBlob:
    """The bytes of the blob that `descriptor` describes, from any offset and verified.

    Reading forward costs nothing extra, nor does going back within the last chunk.  Going back
    further reads the blob from the start again.

    :param opener: opens the blob.
    """

    def __init__(self, descriptor: Descriptor, opener: BlobOpener) -> None:
        self._descriptor = descriptor
        self._opener = opener
        self._chunks: Iterator[bytes] | None = None
        self._data = b""
        self._start = 0

    def read_at(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset`, fewer at the blob's end.

        When it returns the last byte, the whole blob is verified.

        :raises IntegrityError: the blob does not match the descriptor.
        """
        if offset < self._start or self._chunks is None:
            self._restart()
        self._advance(offset, min(offset + size, self._descriptor.size))
        if self._start + len(self._data) == self._descriptor.size:
            self._verify()
        return self._data[offset - self._start : offset - self._start + size]

    def close(self) -> None:
        """Close the blob."""
        if self._chunks is not None:
            self._chunks.close()  # type: ignore[attr-defined]  # a generator
        self._chunks = None

    def _restart(self) -> None:
        self.close()
        self._data, self._start = b"", 0
        what = f"blob {self._descriptor.digest}"
        self._chunks = verified(
            self._read_through(),
            digest=self._descriptor.digest,
            size=self._descriptor.size,
            what=what,
        )

    def _read_through(self) -> Iterator[bytes]:
        with closing(self._opener()) as file:
            yield from read_chunks(file)

    def _advance(self, offset: int, end: int) -> None:
        """Read up to `end`, and keep the bytes from `offset`."""
        parts, start = [self._data], self._start
        reached = start + len(self._data)
        while True:
            while parts and start + len(parts[0]) <= offset:
                start += len(parts.pop(0))
            if reached >= end:
                break
            parts.append(self._next_chunk())
            reached += len(parts[-1])
        self._data, self._start = b"".join(parts), start

    def _next_chunk(self) -> bytes:
        for chunk in self._chunks or ():
            return chunk
        raise AssertionError  # a blob that is too short fails its verification before this

    def _verify(self) -> None:
        """Reach the end of the stream, where `verified` checks the digest."""
        for _ in self._chunks or ():
            pass


def exists(client: Client, wanted: Descriptor, kind: str = "blobs") -> bool:
    """Return whether a repository has a blob or a document; False if the answer is unclear.

    :param kind: ``blobs`` or ``manifests``.
    """
    accept = wanted.media_type if kind == "manifests" else "*/*"
    response = client.request("HEAD", client.url(f"{kind}/{wanted.digest}"), {"Accept": accept})
    found = response.status == 200 and response.length in (None, wanted.size)
    response.close()
    return found


def _shortest_chunk(started: Response, what: str) -> int:
    """Return the minimum bytes per chunk, except for the last one.

    Source: distribution-spec, "Pushing a blob in chunks", OCI-Chunk-Min-Length.
    """
    shortest = parse_number(started.header("OCI-Chunk-Min-Length")) or 0
    if shortest > _LARGEST_CHUNK:
        raise NetworkError(
            f"chunks too large: {what}: got a minimum of {shortest} bytes, "
            f"want at most {_LARGEST_CHUNK}"
        )
    return shortest


def _reached(response: Response) -> int | None:
    """Return how many bytes the registry has of an upload, None if it does not say.

    ``0-0`` means one byte, but some registries send it for none.  It is read as none here, since
    no chunk has a single byte.
    """
    match = _RANGE.fullmatch(response.header("Range").strip())
    if match is None:
        return None
    last = int(match[1])
    return last + 1 if last else 0
