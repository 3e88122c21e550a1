"""What must be remembered of a layer until its end, as bytes that are counted.

Directories get their attributes last, whiteouts and links may have to wait, and a stack wants to
know where entries landed.  All of that is names, and a short tar can hold very many bytes of them:
a path of 512 components implies as many directories, each with a path of its own.
"""

from __future__ import annotations

from stacker.errors import LayerError
from stacker.tar.entry import shown
from stacker.tar.limits import Limits

_SHOWN = 80


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
            raise LayerError(
                f"over a limit: {shown(path[:_SHOWN])}: got more than {self._limit} bytes of names "
                "and attributes to be remembered until the layer's end",
                hint="raise the limit with --max-names if you trust the image",
            )
