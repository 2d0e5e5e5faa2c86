"""Nothing of a hostile model runs: it is refused by the name of what holds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from stable_baselines3 import PPO

from slimlib.rl.loading import UnsafeModelError, read_safely
from tests.slimlib.rl.pickles import attacks
from tests.slimlib.rl.saved_models import holding


@pytest.mark.parametrize("attack", attacks("marker"))
def test_nothing_of_a_hostile_model_runs(folder: Path, tmp_path: Path, attack: str) -> None:
    marker = tmp_path / "marker"
    path = holding(folder, tmp_path / "hostile.zip", "policy_kwargs", attacks(str(marker))[attack])
    with pytest.raises(UnsafeModelError, match="'policy_kwargs' .*, and nothing of it was run"):
        read_safely(path)
    assert not marker.exists()


def test_stable_baselines3_itself_runs_them(folder: Path, tmp_path: Path) -> None:
    """So the models of the test above are hostile."""
    marker = tmp_path / "marker"
    path = holding(folder, tmp_path / "hostile.zip", "unused", attacks(str(marker))["os"])
    PPO.load(path)
    assert marker.exists()


def test_the_refused_call_is_named(folder: Path, tmp_path: Path) -> None:
    path = holding(folder, tmp_path / "model.zip", "action_noise", attacks("marker")["os"])
    with pytest.raises(UnsafeModelError, match=r"model.zip: 'action_noise' refers to 'posix.mkdir', and nothing"):
        read_safely(path)
