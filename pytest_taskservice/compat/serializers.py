"""kombu's one registry of serializers, put back as it was when an app is closed.

``app.setup_security()`` and ``disable_insecure_serializers()`` change it for the whole process. An embedded
worker shares that process and goes along; a worker in another one would no longer be understood, in every
test that follows. Leans on the attributes of ``kombu.serialization.SerializerRegistry``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from importlib import import_module
from typing import Any

__all__ = ["restored"]


@contextmanager
def restored() -> Iterator[None]:
    """Undo on leaving whatever is done meanwhile to the serializers of this process."""
    # The stubs lag behind.
    serialization: Any = import_module("kombu.serialization")
    registry = serialization.registry
    before = {name: copy(value) for name, value in vars(registry).items()}
    try:
        yield
    finally:
        for name, value in before.items():
            found = getattr(registry, name)
            if isinstance(found, (dict, set)):
                # Others hold the same dictionaries: they are emptied and filled, not replaced.
                found.clear()
                found.update(value)
            else:
                setattr(registry, name, value)
