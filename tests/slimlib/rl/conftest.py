"""What several tests of policies start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slimlib.rl import policies
from tests.converting import following_once
from tests.slimlib.rl.saved_models import ALGORITHMS, made

FOLLOW = following_once(policies.follow)


@pytest.fixture(scope="package", autouse=True)
def followed_once() -> Iterator[None]:
    """To follow the channels of each policy takes more than half of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "follow", FOLLOW)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model of each algorithm: PPO.zip, ..."""
    folder = tmp_path_factory.mktemp("models")
    for name in ALGORITHMS:
        model = made(name)
        if name != "TD3":
            model.learn(32)
        model.save(folder / name)
    return folder
