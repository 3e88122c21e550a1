"""How much a layer may ask for.  A value; who exceeds it is told so by who counts."""

from __future__ import annotations

from dataclasses import dataclass

from stacker.errors import LayerError

_MIB = 1 << 20
_MAX_PRINTED = 80
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


class Budget:
    """Counts bytes of names and attributes against :attr:`Limits.names`."""

    def __init__(self, limits: Limits) -> None:
        self._limit = self._left = limits.names

    def spend(self, size: int, path: bytes) -> None:
        """Count ``size`` bytes, which are for ``path``.

        :raises LayerError: they are more than the limit, together with all before.
        """
        self._left -= size
        if self._left < 0:
            from stacker.tar.entry import shown  # only errors need it

            raise LayerError(
                f"over a limit: {shown(path[:_MAX_PRINTED])}: got more than {self._limit} bytes of "
                "names and attributes to be remembered until the layer's end",
                hint="raise the limit with --max-names if you trust the image",
            )
