"""Everything that decides a reinforcement learning run, checked once when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from tasks.settings import Plain, Settings, Widths, setting


class RlSettings(Settings):
    """How well does one policy act at every width?

    The defaults are PPO on CartPole. The data that are chosen name the environment and its tuned hyperparameters.
    """

    group: ClassVar[str] = "task"

    algorithm: Literal["ppo", "a2c", "dqn", "sac"] = setting("ppo", "algorithm of stable-baselines3")
    environment: str = setting(
        "CartPole-v1", "an id that gymnasium knows; package:Id-v0 imports the package first",
        group="data", min_length=1,
    )  # fmt: skip
    policy: Literal["MlpPolicy", "CnnPolicy", "MultiInputPolicy"] = setting(
        "MlpPolicy", "policy for observations that are vectors, images, or dictionaries"
    )
    widths: Widths = setting((0.25, 0.5, 0.75, 1.0), "the widths that are evaluated")
    divisor: int = setting(4, "channels are rounded to multiples of it", ge=1)
    environments: int = setting(1, "copies of the environment that are played side by side in training", ge=1)
    normalize: bool = setting(
        False, "whether observations and training rewards are divided by their running deviation, by VecNormalize"
    )
    atari: bool = setting(False, "whether the frames of an Atari game are prepared as usual: skipped, grey, 84 x 84")
    frame_stack: int = setting(1, "number of steps whose observations are stacked; 1: only the last", ge=1)
    options: Plain = setting({}, "arguments of gymnasium.make")
    hyperparameters: Plain = setting(
        {},
        "arguments of the algorithm's class, else its defaults; learning_rate and clip_range may be lin_0.001",
        examples=[{"gamma": 0.98}],
    )
    episodes: int = setting(100, "episodes played to evaluate each width", ge=1)
    curve_points: int = setting(10, "how often the learning curve is measured in training; 0: never", ge=0)
    curve_episodes: int = setting(10, "episodes played for each point of the learning curve", ge=1)
    deterministic: bool = setting(True, "whether evaluation takes the likeliest action, not a random one")
    data: Literal[
        "cartpole", "acrobot", "lunarlander", "pendulum", "halfcheetah", "hopper", "breakout", "pong", "identity",
        "identity-bits", "minatar-breakout", "minatar-asterix", "minatar-freeway", "minatar-seaquest",
        "minatar-spaceinvaders", "environment",
    ] = setting("cartpole", "which environment", group="")  # fmt: skip
    root: str = setting("", "nothing: environments come with their packages", group="data")
    workers: int = setting(
        0, "0: environments run in this process; else as many as environments, each in its own process", ge=0
    )
    video: bool = setting(
        False,
        "whether a policy is filmed at three widths; with a width for each state, its pictures are sorted by width",
    )

    def tuned(self, own: Mapping[str, Any]) -> Self:
        """The same with hyperparameters of a recipe's own; see `Settings.tuned`."""
        return self.replace(hyperparameters={**self.hyperparameters, **own}) if own else self

    def refuses(self, recipe: Any) -> str:
        """Not every algorithm has each way to keep the full width learning, or values besides its outputs."""
        from tasks.rl.hyperparameters import ALGORITHMS

        kind = ALGORITHMS[self.algorithm]
        if recipe.stability not in (None, *kind.stabilities):
            return f"{kind.__name__} has no stability '{recipe.stability}', only {', '.join(kind.stabilities)}"
        twice = not kind.values_apart and recipe.of_distillation().get("distill_values")
        return f"{kind.__name__} acts by its values, which distill: outputs regresses" if twice else ""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.workers not in (0, self.environments):
            raise ValueError(
                f"task.workers={self.workers}: each copy has a process of its own; set task.workers="
                f"{self.environments}, as many as task.environments, or 0 to step all of them in this process"
            )
        if self.normalize and self.policy == "CnnPolicy":
            raise ValueError("task.normalize=true: CnnPolicy scales images by itself; set task.normalize=false")
        if self.atari and self.policy == "MultiInputPolicy":
            raise ValueError("task.atari=true makes images; set task.policy=CnnPolicy")
        if self.root:
            raise ValueError(f"data={self.data} ships with its package and would ignore data.root={self.root}")
        from tasks.rl.hyperparameters import constructor_arguments  # stable-baselines3 takes seconds to import

        constructor_arguments(self.algorithm, self.policy, self.hyperparameters)
        return self
