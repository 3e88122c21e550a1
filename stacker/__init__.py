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
        ImageCommitted,
        ImagePulled,
        LayerPacked,
        LayerProgress,
        LayerRestored,
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
    from stacker.jobs.verify_layer import LayerVerified
    from stacker.linux.probe import Answer
    from stacker.linux.process import IdRange
    from stacker.operations.copy import Copied
    from stacker.operations.dedup import Shared
    from stacker.operations.export import Exported
    from stacker.operations.forms import ChosenForm
    from stacker.operations.gc import Garbage
    from stacker.operations.info import Info, machine_info
    from stacker.operations.names import Tagged
    from stacker.operations.push import Pushed
    from stacker.operations.remove import Removal
    from stacker.operations.repair import Repaired
    from stacker.operations.usage import ImageUsage, StoreUsage
    from stacker.operations.verify import Verification
    from stacker.operations.verify_chain import ChainVerified
    from stacker.tar.limits import Limits

__version__ = "0.1.0"
__all__ = (
    "Answer",
    "AuthenticationError",
    "BlobProgress",
    "BlobStored",
    "BlobsFound",
    "Bundle",
    "ChainVerified",
    "ChosenForm",
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
    "IdRange",
    "Image",
    "ImageCommitted",
    "ImageID",
    "ImagePulled",
    "ImageUsage",
    "Info",
    "IntegrityError",
    "Layer",
    "LayerError",
    "LayerPacked",
    "LayerProgress",
    "LayerRestored",
    "LayerTimed",
    "LayerUnpacked",
    "LayerVerified",
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
    "Removal",
    "Repaired",
    "Shared",
    "StackerError",
    "StartError",
    "Store",
    "StoreUsage",
    "Tagged",
    "Transfer",
    "UnsupportedError",
    "UsageError",
    "Verification",
    "copy_image",
    "list_tags",
    "machine_info",
)

_MODULES = {
    "stacker.api.images": "Image Layer",
    "stacker.api.mounts": "Bundle Finished Mount",
    "stacker.api.registries": "RegistryOptions copy_image list_tags",
    "stacker.api.store": "Store",
    "stacker.errors": "AuthenticationError IntegrityError LayerError LockedError MountError "
    "NetworkError NotFoundError StackerError StartError UnsupportedError UsageError",
    "stacker.events": "BlobProgress BlobStored BlobsFound Event ExportProgress ImageCommitted "
    "ImagePulled LayerPacked LayerProgress LayerRestored LayerTimed LayerUnpacked LayersFound "
    "LayersToPack MemberSent MissingLayer PackProgress Transfer",
    "stacker.image.config": "Execution History",
    "stacker.image.digest": "DiffID Digest ImageID",
    "stacker.image.platform": "Platform",
    "stacker.jobs.verify_layer": "LayerVerified",
    "stacker.linux.probe": "Answer",
    "stacker.linux.process": "IdRange",
    "stacker.operations.copy": "Copied",
    "stacker.operations.dedup": "Shared",
    "stacker.operations.export": "Exported",
    "stacker.operations.forms": "ChosenForm",
    "stacker.operations.gc": "Garbage",
    "stacker.operations.info": "Info machine_info",
    "stacker.operations.names": "Tagged",
    "stacker.operations.push": "Pushed",
    "stacker.operations.remove": "Removal",
    "stacker.operations.repair": "Repaired",
    "stacker.operations.usage": "ImageUsage StoreUsage",
    "stacker.operations.verify": "Verification",
    "stacker.operations.verify_chain": "ChainVerified",
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
