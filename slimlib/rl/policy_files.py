"""Reading a policy that somebody else saved alone, `model.policy.save(path)`: nothing in the file is run.

Such a file is what torch saves: a zip with one pickle, in which the weights are named, and the weights beside it.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from slimlib.core.unpickling import Refused, Unpickler, check_lengths
from slimlib.rl.allowed_classes import POLICY, own_allowed
from slimlib.rl.loading import File, UnsafeModelError, shown

ABOUT = "slimlib"
"""Key of what is in the file beside the "state_dict" and the "data" of stable-baselines3."""


def read_policy(path: File, device: torch.device, *, trusted: bool, allow: Sequence[Any]) -> dict[str, Any]:
    """What `SlimPolicy.save` wrote.

    Raises:
        UnsafeModelError: the file refers to something that is not known, or holds code.
        ValueError: the file is damaged, or holds no slimmable policy; or `allow` is no list.
    """
    where, allowed = shown(path), own_allowed(POLICY, allow)
    _check_zip(path, where)

    class Reader(Unpickler):
        def __init__(self, file: io.BytesIO, **how: Any) -> None:
            check_lengths(file.getvalue())
            super().__init__(file, allowed, **how)

    module: Any = pickle if trusted else SimpleNamespace(__name__="slimlib", Unpickler=Reader)
    try:
        file: Any = path
        saved = torch.load(file, map_location=device, pickle_module=module, weights_only=False)
    except Refused as refused:
        yours = f"allow=[{refused.name}] if you know it, or " if refused.name else ""
        raise UnsafeModelError(
            f"{where}: the policy {refused}, and nothing of it was run. Pass {yours}trusted=True if you trust whoever "
            "made the file"
        ) from None
    except Exception as error:  # a damaged file fails wherever it likes
        raise ValueError(f"{where}: damaged, or no policy ({type(error).__name__}: {str(error)[:200]})") from None
    if not isinstance(saved, dict) or not {"state_dict", "data"} <= saved.keys():
        raise ValueError(f"{where}: no policy of stable-baselines3; those have a 'state_dict' and 'data'")
    if ABOUT not in saved:
        raise ValueError(
            f"{where}: an ordinary policy, not a slimmable one; load it with its own class, then call "
            "slimlib.rl.policies.make_slimmable(policy, widths=...)"
        )
    return saved


def _check_zip(path: File, where: str) -> None:
    """Other files torch would read in other ways."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except OSError as error:
        raise ValueError(f"{where}: cannot be opened ({error.strerror})") from None
    except zipfile.BadZipFile as error:
        raise ValueError(f"{where}: damaged, or no policy ({error})") from None
    finally:
        if not isinstance(path, str | Path):
            path.seek(0)
    if "policy.pth" in names:
        raise ValueError(f"{where}: a whole model, and no policy alone; load it with `load` of its algorithm")
    if any(name.endswith("/constants.pkl") for name in names):
        raise ValueError(f"{where}: a TorchScript program, and no policy")
