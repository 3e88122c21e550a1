"""How a value taken from somebody's document is shown in a one-line message.

In comes any value, out comes printable text of bounded length.  It knows nothing about what
the value means.
"""

from __future__ import annotations

_SHOWN = 100


def quoted(value: object) -> str:
    """Return `value` quoted, without control characters, cut to about a hundred characters.

    The value comes from a document that anybody may have written: escape sequences in it must
    not reach a terminal, and four megabytes of it must not reach a log.
    """
    if isinstance(value, str):
        value = value if len(value) <= _SHOWN else value[:_SHOWN] + "…"
    elif isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    elif isinstance(value, int) and value.bit_length() > _SHOWN:
        return "a huge number"  # its decimal form may be more than Python agrees to print
    # repr() escapes what is unprintable, lone surrogates among it.
    return repr(value)
