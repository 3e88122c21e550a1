"""How much a layer may ask for.  A value; who exceeds it is told so by who counts."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1 << 20
RATIO_GRACE = 64 * _MIB
"""Bytes a blob may always expand to, whatever the ratio says."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on one layer (DESIGN section 4, *Limits*).

    :param unpacked_bytes: bytes of the tar stream, and of the files with their holes counted.
    :param entries: entries of the tar stream.
    :param depth: components of a path.
    :param pax_bytes: bytes of one extended header, long name or sparse map.
    :param names: bytes of names, of directories' attributes, and of where links lead, that have to
        be remembered until the layer's end.
    :param ratio: uncompressed bytes per compressed byte, beyond :data:`RATIO_GRACE`.
    """

    unpacked_bytes: int = 1 << 40
    entries: int = 20_000_000
    depth: int = 512
    pax_bytes: int = _MIB
    names: int = 128 * _MIB
    ratio: int = 20_000

    def expanded(self, compressed: int) -> int:
        """Give the uncompressed bytes that ``compressed`` bytes may become."""
        return min(self.unpacked_bytes, max(RATIO_GRACE, self.ratio * compressed))
