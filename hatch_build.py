"""Make the page of a package index from README.md.

Links and pictures of README.md are files of the repository, which a package index does not have.
With a public address (``Source`` in ``project.urls``), the page uses that address.  Without one,
the page names the files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]+)\]\((?!https?://|#)([^)]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Sets the project's long description."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add ``readme`` to the metadata."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        address = metadata.get("urls", {}).get("Source", "")
        metadata["readme"] = {"content-type": "text/markdown", "text": index_page(text, address)}


def index_page(readme: str, address: str) -> str:
    """Return README.md without links and pictures that work only in the repository.

    :param address: the repository's public address; empty if it has none.
    """

    def replace(link: re.Match[str]) -> str:
        picture, label, path = link.groups()
        if address:
            return f"{picture}[{label}]({address}/{'raw' if picture else 'blob'}/main/{path})"
        return label if label == path else f"{label} (`{path.partition('#')[0]}`)"

    return _LINK.sub(replace, readme)
