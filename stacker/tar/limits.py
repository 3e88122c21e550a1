"""The limits on one layer, and a budget for the names that unpacking has to remember.

Numbers from the command line come in; a :class:`LayerError` goes out when a layer exceeds one.
`stacker.jobs.tasks` imports this module at every pull, so it must not import the parser.
"""

from __future__ import annotations

from dataclasses import dataclass

from stacker.errors import LayerError

_MIB = 1 << 20
_MAX_PRINTED = 80
RATIO_GRACE = 64 * _MIB
"""Bytes that a blob may expand to regardless of the ratio."""

ARCHIVE_RATIO = 100
"""Default limit on the decompressed bytes per byte of a compressed archive."""
ARCHIVE_GRACE = 16 * _MIB
"""Bytes that a compressed archive may expand to regardless of the ratio."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one layer (docs/rules.md, Limits).

    :param unpacked_bytes: bytes of the tar stream, and of all files including their holes.
    :param entries: entries of the tar stream.
    :param depth: components of a path.
    :param pax_bytes: bytes of one extended header, long name or sparse map.
    :param names: bytes of names, directory attributes and link targets that unpacking has to
        remember until the end of the layer.
    :param ratio: uncompressed bytes per compressed byte; 64 MiB are always allowed.
    :param window: bytes of memory for the window of a zstd blob, at most 2 GiB.
    :param archive_ratio: decompressed bytes per byte of a compressed archive that holds the image;
        16 MiB are always allowed.
    """

    unpacked_bytes: int = 1 << 40
    entries: int = 20_000_000
    depth: int = 512
    pax_bytes: int = _MIB
    names: int = 128 * _MIB
    ratio: int = 20_000
    window: int = 128 * _MIB
    archive_ratio: int = ARCHIVE_RATIO

    def expanded(self, compressed: int) -> int:
        """Return the number of uncompressed bytes that ``compressed`` bytes may become."""
        return min(self.unpacked_bytes, max(RATIO_GRACE, self.ratio * compressed))


UNLIMITED = Limits(
    unpacked_bytes=1 << 62,
    entries=1 << 62,
    depth=1 << 30,
    pax_bytes=1 << 40,
    names=1 << 62,
    ratio=1 << 40,
)
"""The limits for a layer that was accepted before."""


class Budget:
    """Counts the bytes of names and attributes that unpacking remembers until the end of a layer.

    Directories get their attributes last, whiteouts and links may have to wait, and a stack needs
    to know where entries landed.  A short tar can need many such bytes: a path of 512
    components implies as many directories, each with its own path.
    """

    def __init__(self, limits: Limits) -> None:
        self._limit = self._left = limits.names

    def spend(self, size: int, path: bytes) -> None:
        """Count ``size`` bytes, needed for ``path``.

        :raises LayerError: the total exceeds :attr:`Limits.names`.
        """
        self._left -= size
        if self._left < 0:
            from stacker.tar.entry import printable  # only errors need it

            raise LayerError(
                f"over a limit: {printable(path[:_MAX_PRINTED])}: got more than {self._limit} "
                "bytes of names and attributes to hold in memory, want fewer",
                hint="raise the limit with --max-names if you trust the image",
            )
