"""A trained model on disk, with the statistics that normalise its observations, and a film of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from slimlib.core.setting import at_width
from tasks.atomic import write_atomically
from tasks.rl.environments import make_environments
from tasks.rl.hyperparameters import ALGORITHMS
from tasks.rl.minatar import MinAtarCNN
from tasks.rl.settings import RlSettings
from tasks.rl.video import gif, side_by_side

STEPS, EVERY, FPS = 1000, 4, 12.5  # of a film: its longest episode, and which of its pictures are shown how fast


def keep_model(model: Any, path: Path) -> None:
    """Write `<path>.zip`, as stable-baselines3 does, and `<path>.json`, the mean and variance of the observations."""
    buffer = io.BytesIO()
    model.save(buffer)
    write_atomically(_beside(path, ".zip"), buffer.getvalue())
    normalise = unwrap_vec_normalize(model.env)
    if normalise is not None:
        seen: Any = normalise.obs_rms  # one RunningMeanStd; a dict of them only for dictionary observations
        about = {"mean": seen.mean.tolist(), "var": seen.var.tolist(), "count": float(seen.count)}
        write_atomically(_beside(path, ".json"), json.dumps(about))


def load_model(settings: RlSettings, path: Path) -> Any:
    """The slimmable model that `keep_model` wrote."""
    return ALGORITHMS[settings.algorithm].load(_beside(path, ".zip"), device="cpu", allow=[MinAtarCNN])


def statistics(path: Path, environments: VecEnv) -> VecEnv:
    """The environments, normalising observations as the model at `path` learned to."""
    normalise = unwrap_vec_normalize(environments)
    if normalise is not None:
        about = json.loads(_beside(path, ".json").read_text())
        seen: Any = normalise.obs_rms
        seen.mean, seen.var, seen.count = np.asarray(about["mean"]), np.asarray(about["var"]), about["count"]
    return environments


def film(settings: RlSettings, path: Path, widths: Sequence[float], seed: int) -> bytes:
    """One episode of the model at `path` with each of the widths, side by side, as a GIF."""
    model = load_model(settings, path)
    shown = rendering(settings)

    def act(width: float, seen: Any) -> np.ndarray:
        with at_width(model.policy, width):
            actions: np.ndarray = model.policy.predict(seen, deterministic=settings.deterministic)[0]
        return actions

    def make() -> VecEnv:
        return statistics(path, make_environments(shown, seed=seed, count=1, training=False))

    panels = {f"width {width:g}": partial(act, width) for width in widths}
    return gif(side_by_side(panels, make, seed, steps=STEPS, every=EVERY), FPS)


def rendering(settings: RlSettings) -> RlSettings:
    """The settings whose environments show pictures."""
    return settings.replace(options=dict(settings.options) | {"render_mode": "rgb_array"})


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
