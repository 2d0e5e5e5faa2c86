"""The state of a training between two rollouts, so that a resumed one goes on exactly."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from torch import Tensor

from tasks.rl.replay import NotReproducible, converted, environments_state, restore_environments

COUNTERS = (
    "num_timesteps",
    "_n_updates",
    "_episode_num",
    "_n_calls",
    "exploration_rate",
    "_current_progress_remaining",
)
RULES = ("rule", "critic_rule")
ARRAYS = ("_last_obs", "_last_episode_starts", "_last_original_obs")


def training_state(model: Any) -> dict[str, Any]:
    """Everything that decides the next steps, as tensors and plain values."""
    _, variables = model._get_torch_save_params()
    rules = {name: vars(model)[name].state_dict() for name in RULES if name in vars(model)}
    return {
        "parameters": model.get_parameters(),
        "variables": {name: getattr(model, name).detach() for name in variables},
        "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
        "arrays": {name: _tensors(getattr(model, name, None)) for name in ARRAYS},
        "rules": rules,
        "buffer": _buffer_state(getattr(model, "replay_buffer", None)),
        "environments": environments_state(model.env),
        "draws": {"noise": [_noise(each) for each in _noisy(model)], "random": _random_state(model.device)},
    }


def load_training_state(model: Any, state: Mapping[str, Any]) -> str | None:
    """Go on where `state` was taken.

    Returns:
        What could not be restored, for the user; None where all is as it was.

    Raises:
        KeyError, ValueError, RuntimeError, TypeError: the state is of another model.
    """
    model.set_parameters(state["parameters"], exact_match=True, device=model.device)
    for name, value in state["variables"].items():
        getattr(model, name).data.copy_(value)
    for name, value in state["counters"].items():
        setattr(model, name, value)
    for name, value in state["arrays"].items():
        if value is not None:
            setattr(model, name, converted(value, Tensor, Tensor.numpy))
    for name, rule in state["rules"].items():
        getattr(model, name).load_state_dict(rule)
    _load_buffer(getattr(model, "replay_buffer", None), state["buffer"])
    lost = None
    try:
        restore_environments(model.env, state["environments"])
    except NotReproducible as error:
        lost, model._last_obs = str(error), None  # the algorithm then begins new episodes
    return lost


def load_draws(model: Any, draws: Mapping[str, Any]) -> None:
    """Put back the random generators, and the noise of gSDE: in the same place of a rollout where they were taken."""
    for distribution, tensors in zip(_noisy(model), draws["noise"], strict=True):
        for name, tensor in tensors.items():
            setattr(distribution, name, tensor.to(model.device))
    _load_random_state(draws["random"], model.device)


def _noisy(model: Any) -> list[Any]:
    """The action distributions that keep noise for several steps."""
    kept = (module.__dict__.get("action_dist") for module in model.policy.modules())
    return [each for each in kept if isinstance(each, StateDependentNoiseDistribution)]


def _noise(distribution: Any) -> dict[str, Tensor]:
    return {name: getattr(distribution, name).detach() for name in ("exploration_mat", "exploration_matrices")}


def _buffer_state(buffer: Any) -> dict[str, Any] | None:
    if buffer is None:
        return None
    filled = buffer.buffer_size if buffer.full else buffer.pos
    arrays = {
        name: _tensors(value, filled) for name, value in vars(buffer).items() if _stores(value, buffer.buffer_size)
    }
    return {"position": buffer.pos, "full": buffer.full, "arrays": arrays}


def _load_buffer(buffer: Any, state: Mapping[str, Any] | None) -> None:
    if buffer is None or state is None:
        return
    for name, tensors in state["arrays"].items():
        stored = getattr(buffer, name)
        parts = tensors.items() if isinstance(tensors, dict) else [(None, tensors)]
        for key, tensor in parts:
            (stored if key is None else stored[key])[: len(tensor)] = tensor.numpy()
    buffer.pos, buffer.full = state["position"], state["full"]


def _stores(value: Any, size: int) -> bool:
    """Whether this is an array, or a dict of arrays, with a row for each place of a buffer."""
    if isinstance(value, dict):
        return bool(value) and all(_stores(part, size) for part in value.values())
    return isinstance(value, np.ndarray) and value.shape[:1] == (size,)


def _tensors(value: Any, count: int | None = None) -> Any:
    """An array, or a dict of arrays, as tensors of the first `count` rows; None: of all."""
    return converted(value, np.ndarray, lambda array: torch.from_numpy(array[:count].copy()))


def _random_state(device: torch.device) -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), next_gauss],
    }


def _load_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, next_gauss = state["python"]
    random.setstate((version, tuple(internal), next_gauss))
