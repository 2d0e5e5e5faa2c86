"""Slimmable algorithms learn what the plain ones do: tasks that are solved in a second, and values that are known."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import slimlib as slim
from slimlib.rl import SlimA2C, SlimDQN, SlimPPO, SlimSAC
from tests.extent import at_night


class Echo(gymnasium.Env):
    """Pays for an action that is what was seen; a new sight comes at every step, for 50 steps."""

    def __init__(self, space, near=0.0):
        self.observation_space = self.action_space = space
        self.near, self.steps = near, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps, self.seen = 0, self.observation_space.sample()
        return self.seen, {}

    def step(self, action):
        right = np.abs(np.asarray(action, float) - np.asarray(self.seen, float)).max() <= self.near
        self.steps += 1
        self.seen = self.observation_space.sample()
        return self.seen, float(right), False, self.steps == 50, {}


def of(width, model, environment):
    slim.set_width(model.policy, width)
    return evaluate_policy(model, Monitor(environment), 2, warn=False)[0]


ECHOES = {
    "a choice, A2C": (SlimA2C, spaces.Discrete(4), 1500, {"gamma": 0.4}),
    "choices, A2C": (SlimA2C, spaces.MultiDiscrete([3, 3]), 2500, {"gamma": 0.4}),
    "switches, A2C": (SlimA2C, spaces.MultiBinary(3), 2500, {"gamma": 0.4}),
    "a choice, PPO": (SlimPPO, spaces.Discrete(4), 2048, {"n_steps": 128, "gamma": 0.4}),
    "choices, PPO": (SlimPPO, spaces.MultiDiscrete([3, 3]), 3072, {"n_steps": 128, "gamma": 0.4}),
    "a choice, DQN": (
        SlimDQN,
        spaces.Discrete(4),
        2500,
        {"learning_starts": 0, "gamma": 0.4, "learning_rate": 1e-3, "train_freq": 1},
    ),
}


@pytest.mark.parametrize("case", [case if case == "switches, A2C" else at_night(case) for case in ECHOES])
def test_full_width_answers_with_what_it_sees(case):
    kind, space, steps, settings = ECHOES[case]
    model = kind("MlpPolicy", DummyVecEnv([lambda: Echo(space)]), seed=0, device="cpu", **settings).learn(steps)
    assert of(1.0, model, Echo(space)) >= 45


@pytest.mark.nightly
@pytest.mark.parametrize("kind", [SlimPPO, SlimSAC])
def test_full_width_comes_near_a_number_that_it_sees(kind):
    space = spaces.Box(-1, 1, (1,), np.float32)
    settings = (
        {"n_steps": 256, "learning_rate": 1e-3} if kind is SlimPPO else {"learning_rate": 3e-3, "learning_starts": 64}
    )
    model = kind("MlpPolicy", DummyVecEnv([lambda: Echo(space, 0.5)]), seed=0, device="cpu", gamma=0.4, **settings)
    model.learn(4096 if kind is SlimPPO else 500)
    assert of(1.0, model, Echo(space, 0.5)) >= 45


@pytest.mark.parametrize("seed", [1, at_night(4)])
def test_policy_is_not_sure_of_the_wrong_action_before_it_has_seen_the_others(seed):
    """With rewards of other steps counted in, distilled narrow widths made these seeds stop exploring."""
    model = SlimA2C("MlpPolicy", DummyVecEnv([lambda: Echo(spaces.Discrete(4))]), seed=seed, device="cpu").learn(1500)
    assert of(1.0, model, Echo(spaces.Discrete(4))) >= 49
    assert of(0.25, model, Echo(spaces.Discrete(4))) >= 25


class Forever(gymnasium.Env):
    """Pays 1 at every step and never ends; the wrapper below only cuts it off."""

    def __init__(self, actions):
        self.observation_space, self.action_space = spaces.Discrete(3), actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self.at, {}

    def step(self, action):
        self.at = (self.at + 1) % 3
        return self.at, 1.0, False, False, {}


ONE = spaces.Box(-1, 1, (1,), np.float32)
VALUES = {
    "PPO": (SlimPPO, ONE, 4096, {"n_steps": 64, "batch_size": 64, "learning_rate": 0.01, "max_grad_norm": 10.0}),
    "A2C": (SlimA2C, ONE, 1500, {"learning_rate": 0.02, "max_grad_norm": 10.0}),
    "DQN": (SlimDQN, spaces.Discrete(2), 700, {"learning_rate": 0.01, "train_freq": 1, "target_update_interval": 10}),
    "SAC": (SlimSAC, ONE, 1000, {"learning_rate": 0.005, "ent_coef": 0.0, "tau": 0.05}),
    "SAC, own loss": (SlimSAC, ONE, 1000, {"learning_rate": 0.005, "ent_coef": 0.0, "tau": 0.05, "distill": False}),
}


@pytest.mark.parametrize("name", [name if name in ("A2C", "DQN") else at_night(name) for name in VALUES])
def test_values_are_those_of_rewards_without_an_end(name):
    kind, actions, steps, settings = VALUES[name]
    settings = settings | ({"learning_starts": 20} if kind in (SlimDQN, SlimSAC) else {})
    environment = DummyVecEnv([lambda: gymnasium.wrappers.TimeLimit(Forever(actions), 8)])
    kwargs = {"net_arch": [64]}
    model = kind("MlpPolicy", environment, gamma=0.9, seed=0, device="cpu", policy_kwargs=kwargs, **settings).learn(
        steps
    )
    seen, _ = model.policy.obs_to_tensor(np.arange(3))
    with torch.no_grad():
        if kind is SlimDQN:
            values = model.q_net(seen)
        elif kind is SlimSAC:
            values = torch.cat(model.critic(seen, model.actor(seen, deterministic=True)), dim=1)
        else:
            values = model.policy.predict_values(seen)
    torch.testing.assert_close(values, torch.full_like(values, 10.0), rtol=0.1, atol=0)
