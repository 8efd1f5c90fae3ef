"""Names in MMEngine's registries, as configs give them."""

from __future__ import annotations

from typing import Any

from nds_plugin.errors import unknown_name


def check_known(registry: Any, kind: Any, key: str) -> None:
    """See that a registry knows a ``type``: a name, or the thing itself.

    Args:
        key: where the config has it.

    Raises:
        NDSError: it does not.
    """
    if not callable(kind) and registry.get(str(kind)) is None:
        parent = registry.parent.module_dict if registry.parent else {}
        raise unknown_name(key, str(kind), [*registry.module_dict, *parent])


def is_kind(registry: Any, kind: Any, cls: type) -> bool:
    """Whether a ``type`` is a class or one below it."""
    found = kind if isinstance(kind, type) else registry.get(str(kind))
    return isinstance(found, type) and issubclass(found, cls)
