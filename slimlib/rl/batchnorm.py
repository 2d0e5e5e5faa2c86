"""What a BatchNorm in a policy rules out, which is refused before the training."""

from __future__ import annotations

from collections.abc import Iterable

from stable_baselines3.common.policies import BasePolicy

from slimlib.core.setting import slimming_of
from slimlib.core.statistics import tracks
from slimlib.core.width import Switches, Width

SHARED = "convert_options={'norm': 'shared'}"


def check_widths_run(what: str, policy: BasePolicy, widths: Iterable[Width]) -> None:
    """Raise ValueError if one of the widths has no statistics in training.

    Args:
        what: runs at these widths while the policy is trained, for the message.
        policy: a slimmable one.
        widths: that it runs at.
    """
    state, names = slimming_of(policy), _norms(policy)
    if not names or state.norm.learns_statistics or all(width == state.widths.largest for width in widths):
        return
    switchable = " or 'switchable'" if isinstance(state.widths, Switches) and not _targets(names) else ""
    raise ValueError(
        f"{what} needs BatchNorm statistics of narrow widths during the training, and those of '{names[0]}' are "
        f"computed after it, by slimlib.calibrate. Pass {SHARED}{switchable}, whose statistics are learned"
    )


def check_targets(policy: BasePolicy) -> None:
    """Raise ValueError if a target network, which is always full, would have to follow parameters of one switch."""
    targets = _targets(_norms(policy))
    if targets and slimming_of(policy).norm.has_private_parameters:
        raise ValueError(
            f"norm 'switchable' gives each switch a BatchNorm of its own, which '{targets[0]}', of a target network, "
            f"cannot follow: it is always full. Pass {SHARED}"
        )


def _norms(policy: BasePolicy) -> list[str]:
    return [name for name, module in policy.named_modules() if tracks(module)]


def _targets(names: Iterable[str]) -> list[str]:
    return [name for name in names if "_target." in name]
