"""Pull, mount and push container images without a daemon.

`__all__` lists the names of the library, which docs/reference/api.md describes.  Each of them is
loaded on its first use, so that ``import stacker`` and the command start fast.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers accept it; `import typing` would take several milliseconds
if TYPE_CHECKING:
    from stacker.api.images import Image, Layer
    from stacker.api.mounts import Bundle, Finished, Mount
    from stacker.api.registries import RegistryOptions, copy_image, list_tags
    from stacker.api.store import Store
    from stacker.errors import (
        AuthenticationError,
        IntegrityError,
        LayerError,
        LockedError,
        MountError,
        NetworkError,
        NotFoundError,
        StackerError,
        StartError,
        UnsupportedError,
        UsageError,
    )
    from stacker.events import (
        BlobProgress,
        BlobsFound,
        BlobStored,
        Event,
        ExportProgress,
        LayerPacked,
        LayerProgress,
        LayersFound,
        LayersToPack,
        LayerTimed,
        LayerUnpacked,
        MemberSent,
        MissingLayer,
        PackProgress,
        Transfer,
    )
    from stacker.image.config import Execution, History
    from stacker.image.digest import DiffID, Digest, ImageID
    from stacker.image.platform import Platform
    from stacker.operations.copy import Copied
    from stacker.operations.export import Exported
    from stacker.operations.gc import Garbage
    from stacker.operations.push import Pushed
    from stacker.operations.repair import Repaired
    from stacker.operations.usage import StoreUsage
    from stacker.operations.verify import Verification
    from stacker.tar.limits import Limits

__version__ = "0.1.0"
__all__ = (
    "AuthenticationError",
    "BlobProgress",
    "BlobStored",
    "BlobsFound",
    "Bundle",
    "Copied",
    "DiffID",
    "Digest",
    "Event",
    "Execution",
    "ExportProgress",
    "Exported",
    "Finished",
    "Garbage",
    "History",
    "Image",
    "ImageID",
    "IntegrityError",
    "Layer",
    "LayerError",
    "LayerPacked",
    "LayerProgress",
    "LayerTimed",
    "LayerUnpacked",
    "LayersFound",
    "LayersToPack",
    "Limits",
    "LockedError",
    "MemberSent",
    "MissingLayer",
    "Mount",
    "MountError",
    "NetworkError",
    "NotFoundError",
    "PackProgress",
    "Platform",
    "Pushed",
    "RegistryOptions",
    "Repaired",
    "StackerError",
    "StartError",
    "Store",
    "StoreUsage",
    "Transfer",
    "UnsupportedError",
    "UsageError",
    "Verification",
    "copy_image",
    "list_tags",
)

_MODULES = {
    "stacker.api.images": "Image Layer",
    "stacker.api.mounts": "Bundle Finished Mount",
    "stacker.api.registries": "RegistryOptions copy_image list_tags",
    "stacker.api.store": "Store",
    "stacker.errors": "AuthenticationError IntegrityError LayerError LockedError MountError "
    "NetworkError NotFoundError StackerError StartError UnsupportedError UsageError",
    "stacker.events": "BlobProgress BlobStored BlobsFound Event ExportProgress LayerPacked "
    "LayerProgress LayerTimed LayerUnpacked LayersFound LayersToPack MemberSent MissingLayer "
    "PackProgress Transfer",
    "stacker.image.config": "Execution History",
    "stacker.image.digest": "DiffID Digest ImageID",
    "stacker.image.platform": "Platform",
    "stacker.operations.copy": "Copied",
    "stacker.operations.export": "Exported",
    "stacker.operations.gc": "Garbage",
    "stacker.operations.push": "Pushed",
    "stacker.operations.repair": "Repaired",
    "stacker.operations.usage": "StoreUsage",
    "stacker.operations.verify": "Verification",
    "stacker.tar.limits": "Limits",
}
"""The names of the library, by the module that has them."""


def __getattr__(name: str) -> object:
    """Load a name of the library on its first use (PEP 562)."""
    if name in __all__:
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names.split():
                value = globals()[name] = getattr(import_module(module), name)
                return value
    raise AttributeError(f"module 'stacker' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
