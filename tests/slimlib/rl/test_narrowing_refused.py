"""What net_arch and the like cannot say of a narrow policy is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
)
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.dqn import policies as dqn
from stable_baselines3.sac import policies as sac
from torch import Tensor, nn

import slimlib as slim
from slimlib.rl.narrowing import narrow_policy_kwargs
from tests.slimlib.rl.narrow_policies import (
    IMAGE,
    VECTOR,
    built,
    slimmed,
)


class OwnMlp(nn.Module):
    """Hidden layers of a user's own."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 16
        self.body = nn.Linear(features, 16)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.body(features).relu()

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.body(features).tanh()


class OwnPolicy(ActorCriticPolicy):
    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = OwnMlp(self.features_dim)


class OwnQNetwork(dqn.QNetwork):
    pass


class OwnQPolicy(dqn.DQNPolicy):
    def make_q_net(self) -> dqn.QNetwork:
        return OwnQNetwork(**self._update_features_extractor(self.net_args))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (OwnPolicy, "'mlp_extractor' of this OwnPolicy is a OwnMlp of its own, not the MlpExtractor that"),
        (OwnQPolicy, "'q_net' of this OwnQPolicy is a OwnQNetwork of its own, not the QNetwork that"),
    ],
)
def test_parts_of_ones_own_are_refused(kind: type[BasePolicy], message: str) -> None:
    narrow = slim.extract(slimmed(built(kind, VECTOR, {})), 0.5)
    with pytest.raises(ValueError, match=f"{message} stable-baselines3 builds from net_arch.*slimlib.extract"):
        narrow_policy_kwargs(narrow, {})


class NormedExtractor(BaseFeaturesExtractor):
    """Its weights are computed from others, which a narrow copy does not have."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space, 16)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(5, 16))

    def forward(self, observations: Tensor) -> Tensor:
        out: Tensor = self.head(observations)
        return out


def test_an_extractor_of_computed_weights_is_refused() -> None:
    narrow = slim.extract(slimmed(built(ActorCriticPolicy, VECTOR, {"features_extractor_class": NormedExtractor})), 0.5)
    message = "NormedExtractor builds head.parametrizations.weight.original0, .* and has head.weight when it is narrow"
    with pytest.raises(ValueError, match=message):
        narrow_policy_kwargs(narrow, {})


def test_what_is_no_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear is no policy of PPO, A2C, DQN or SAC"):
        narrow_policy_kwargs(nn.Linear(2, 2), {})


def test_extractors_of_different_widths_are_refused() -> None:
    full = slimmed(built(ActorCriticCnnPolicy, IMAGE, {"share_features_extractor": False}))
    groups = full.slim.layout.groups
    halves = [g.units // 2 if g.name.startswith("features_extractor") else g.units for g in groups]
    narrow = slim.extract(full, slim.WidthPlan(halves))
    message = "the features extractors 'pi_features_extractor' and 'vf_features_extractor' have other channels"
    with pytest.raises(ValueError, match=message):
        narrow_policy_kwargs(narrow, {})


def test_critics_of_different_widths_are_refused() -> None:
    full = slimmed(built(sac.SACPolicy, VECTOR, {"net_arch": [16]}))
    halves = [g.units // 2 if "qf1" in g.name else g.units for g in full.slim.layout.groups]
    with pytest.raises(ValueError, match="the critics 'critic.qf0' and 'critic.qf1' have other channels"):
        narrow_policy_kwargs(slim.extract(full, slim.WidthPlan(halves)), {})
