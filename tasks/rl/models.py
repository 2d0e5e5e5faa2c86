"""The models of a recipe: a slimmable one of slimlib.rl, or an ordinary one of stable-baselines3 for each width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import Width
from slimlib.rl.paths import example_observation
from tasks.rl.hyperparameters import ALGORITHMS, constructor_arguments
from tasks.rl.settings import RlSettings
from tasks.training.recipe import Recipe


def make_model(
    settings: RlSettings, recipe: Recipe, width: float | None, environments: VecEnv, *, seed: int, device: torch.device
) -> Any:
    """A fresh model.

    Args:
        width: of an ordinary model; None: a slimmable one.
        seed: of its weights, its actions, and the environments.

    Raises:
        ValueError: the policy cannot be made slimmable, or the recipe does not fit the algorithm.
    """
    arguments = constructor_arguments(settings.algorithm, settings.policy, settings.hyperparameters) | {
        "seed": seed,
        "device": device,
    }
    kind = ALGORITHMS[settings.algorithm]
    if width is not None:
        if width != 1.0:
            arguments["policy_kwargs"] = _narrow(settings, environments, width, arguments)
        model = kind.plain(settings.policy, environments, **arguments)
    else:
        own = {
            "widths": recipe.widths(),
            "rule": recipe.rule,
            "rule_options": recipe.of_rule(),
            "distill": recipe.distill != "none",
            **recipe.of_distillation(),
            "lesson": ({"weight": 1.0} if recipe.distill != "none" else {}) | recipe.lesson,  # as published
            "stability": recipe.stability or "none",
            "behaviour": recipe.behaviour,
            "convert_options": {"divisor": settings.divisor},
        }
        model = kind(settings.policy, environments, **arguments, **own)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _narrow(settings: RlSettings, environments: VecEnv, width: float, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The policy's arguments for the channels that a slimmable one has at a width."""
    widths, options = slim.Switches(width, 1.0), {"divisor": settings.divisor}
    kind = ALGORITHMS[settings.algorithm]
    model = kind(settings.policy, environments, widths=widths, rule="every", convert_options=options, **arguments)
    kwargs: dict[str, Any] = model.extract(width).policy_kwargs
    return kwargs


class Acting(nn.Module):
    """What a policy computes to act: observation [N, ...] -> parameters of the action distribution, or Q-values."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.space, self.scales_images = policy.observation_space, policy.normalize_images
        part = getattr(policy, "actor", None) or getattr(policy, "q_net", None) or policy
        self.features = getattr(part, "pi_features_extractor", part.features_extractor)
        if hasattr(part, "mlp_extractor"):
            self.hidden, self.action = part.mlp_extractor.policy_net, part.action_net
        elif hasattr(part, "latent_pi"):
            heads = [head for head in (part.mu, part.log_std) if isinstance(head, nn.Module)]
            self.hidden, self.action = part.latent_pi, nn.ModuleList(heads)  # with use_sde log_std is a parameter
        else:
            self.hidden, self.action = part.q_net, nn.Identity()

    def forward(self, observation: Any) -> Any:
        hidden = self.hidden(self.features(preprocess_obs(observation, self.space, self.scales_images)))
        if isinstance(self.action, nn.ModuleList):
            return [head(hidden) for head in self.action]
        return self.action(hidden)


class Scores(nn.Module):
    """A policy as a network: observations [N, ...] -> a score of each action [N, actions].

    Raises:
        ValueError: its actions are not numbered, or its observations are a dict.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if not isinstance(model.action_space, spaces.Discrete) or isinstance(model.observation_space, spaces.Dict):
            raise ValueError(
                "a width for each state needs numbered actions, as confidence and agreement are of their scores, and "
                f"one array as observation; this policy has {model.observation_space} and {model.action_space}"
            )
        self.policy = model.policy

    def forward(self, seen: Tensor) -> Tensor:
        policy = self.policy
        seen = preprocess_obs(seen, policy.observation_space, policy.normalize_images)  # type: ignore[assignment]
        if hasattr(policy, "q_net"):
            scores: Tensor = policy.q_net.q_net(policy.q_net.features_extractor(seen))
            return scores
        features = getattr(policy, "pi_features_extractor", policy.features_extractor)(seen)
        return policy.action_net(policy.mlp_extractor.policy_net(features))  # type: ignore[no-any-return]


def acting_cost(model: Any, width: Width | None) -> slim.Cost:
    """What one action costs; `width` None: of an ordinary model."""
    policy = model.policy if width is None else slim.extract(model.policy, width)
    return slim.cost(Acting(policy), (one_observation(model.observation_space, model.device),))


def one_observation(space: Any, device: torch.device) -> Any:
    """An observation as a policy takes it: [1, ...], or a dict of such."""
    example = example_observation(space, device)
    if isinstance(example, Tensor):
        return example[:1]
    return {key: part[:1] for key, part in example.items()}
