"""What becomes of BatchNorm when one network serves several widths: one strategy a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from slimlib.core.norms.norm import Norm
from slimlib.core.norms.shared import Shared
from slimlib.core.norms.switchable import Switchable
from slimlib.core.norms.universal import Universal

NormName = Literal["universal", "switchable", "shared"]
NORMS: Mapping[str, Norm] = MappingProxyType({norm.name: norm for norm in (Universal(), Switchable(), Shared())})


def norm_named(name: str) -> Norm:
    """A strategy by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in list(NORMS):
        raise ValueError(f"norm {name!r} does not exist; choose one of {', '.join(NORMS)}")
    return NORMS[name]
