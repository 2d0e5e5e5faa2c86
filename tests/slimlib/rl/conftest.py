"""What several tests of policies start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slimlib.rl.saved_models import ALGORITHMS, made


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
