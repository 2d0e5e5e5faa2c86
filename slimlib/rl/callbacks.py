"""Callbacks while a slimmable policy learns: they see the full width, or each width of a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from slimlib.core.setting import at_width, slimming_of
from slimlib.core.width import Width, WidthPlan, check_width, label
from slimlib.rl.batchnorm import check_widths_run

Score = Callable[[Mapping[Width, float]], float]


class AtFullWidth(CallbackList):
    """Runs callbacks at the full width, whichever acts in the rollout that they are called from.

    So evaluations, best models and early stopping compare the same width each time. A callback that is about another
    width sets that itself; it holds until the callback returns.
    """

    def on_training_start(self, locals_: dict[str, Any], globals_: dict[str, Any]) -> None:
        self._full(super().on_training_start, locals_, globals_)

    def on_rollout_start(self) -> None:
        self._full(super().on_rollout_start)

    def on_step(self) -> bool:
        goes_on: bool = self._full(super().on_step)
        return goes_on

    def on_rollout_end(self) -> None:
        self._full(super().on_rollout_end)

    def on_training_end(self) -> None:
        self._full(super().on_training_end)

    def _full(self, call: Callable[..., Any], *args: Any) -> Any:
        policy: Any = self.model.policy
        state = policy.slim
        acting, full = state.width, state.widths.largest
        if acting != full:
            state.set(full)
        try:
            return call(*args)
        finally:
            if state.width != acting:
                state.set(acting)


def at_full_width(callback: Any) -> AtFullWidth:
    """What `learn` takes as its callback: None, a function, a callback or a list of them."""
    given = callback if isinstance(callback, list) else [callback]
    return AtFullWidth([each if isinstance(each, BaseCallback) else ConvertCallback(each) for each in given])


class SlimEvalCallback(EvalCallback):
    """Evaluates several widths of a slimmable policy while it learns, logs each, and keeps the best model.

    The best is the one with the highest score. By default that is the mean, over the widths, of their mean rewards; so
    rewards of all widths should be of one scale, as they are in one environment.

    Logged are `eval/mean_reward_at_0.25` and `eval/mean_ep_length_at_0.25` of each width, and the score as
    `eval/mean_reward`, which `StopTrainingOnRewardThreshold` and its kind look at. `evaluations.npz` in `log_path` has
    the widths, and results and episode lengths of [evaluations, widths, episodes].

    Args:
        eval_env: the environment to evaluate in.
        widths: that are evaluated, for example [0.25, 0.5, 1.0].
        best: what makes a model better: "mean" of the widths, "worst" of them, or one width.
        arguments: of `EvalCallback`.

    Raises:
        ValueError: no width, one twice, a `best` that is not evaluated, or (when training starts) a width that the
            policy is not trained for, or that has no BatchNorm statistics during the training.
    """

    def __init__(
        self,
        eval_env: gymnasium.Env[Any, Any] | VecEnv,
        widths: Sequence[Width],
        *,
        best: str | Width = "mean",
        **arguments: Any,
    ) -> None:
        self.widths = list(widths) if isinstance(widths, Iterable) else []
        if not self.widths or len(set(self.widths)) < len(self.widths):
            raise ValueError(
                f"widths={widths!r}: name at least one, each only once, in a list, for example [0.25, 0.5, 1.0]"
            )
        self.score = _score(best, self.widths)
        self.last_mean_rewards: dict[Width, float] = {}
        super().__init__(eval_env, **arguments)

    def _init_callback(self) -> None:
        policy: Any = self.model.policy
        if "slim" not in policy.__dict__:
            raise ValueError(f"the policy of this {type(self.model).__name__} is not slimmable; use EvalCallback")
        for width in self.widths:
            check_width(width, slimming_of(policy).widths)
        check_widths_run("SlimEvalCallback", policy, self.widths)
        super()._init_callback()

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        if self.model.get_vec_normalize_env() is not None:
            sync_envs_normalization(self.training_env, self.eval_env)
        self._is_success_buffer = []
        played = {width: self._evaluate(width) for width in self.widths}
        self._write(played)
        self.last_mean_rewards = {width: float(np.mean(rewards)) for width, (rewards, _) in played.items()}
        self.last_mean_reward = self.score(self.last_mean_rewards)
        self._log(played)
        goes_on = True
        if self.last_mean_reward > self.best_mean_reward:
            self.best_mean_reward = self.last_mean_reward
            if self.best_model_save_path is not None:
                self.model.save(Path(self.best_model_save_path, "best_model"))
            if self.callback_on_new_best is not None:
                goes_on = self.callback_on_new_best.on_step()
        if self.callback is not None:
            goes_on = goes_on and self._on_event()
        return goes_on

    def _evaluate(self, width: Width) -> tuple[list[float], list[int]]:
        """Rewards and lengths of the episodes."""
        with at_width(self.model.policy, width):
            rewards, lengths = evaluate_policy(
                self.model,
                self.eval_env,
                n_eval_episodes=self.n_eval_episodes,
                render=self.render,
                deterministic=self.deterministic,
                return_episode_rewards=True,
                warn=self.warn,
                callback=self._log_success_callback,
            )
        assert isinstance(rewards, list)
        assert isinstance(lengths, list)
        return rewards, lengths

    def _write(self, played: Mapping[Width, tuple[list[float], list[int]]]) -> None:
        if self.log_path is None:
            return
        results: list[Any] = self.evaluations_results
        lengths: list[Any] = self.evaluations_length
        self.evaluations_timesteps.append(self.num_timesteps)
        results.append([rewards for rewards, _ in played.values()])
        lengths.append([steps for _, steps in played.values()])
        widths = [label(width) if isinstance(width, WidthPlan) else float(width) for width in self.widths]
        written: dict[str, Any] = {"results": results, "ep_lengths": lengths, "widths": widths}
        if self._is_success_buffer:
            self.evaluations_successes.append(self._is_success_buffer)
            written["successes"] = self.evaluations_successes
        np.savez(self.log_path, timesteps=self.evaluations_timesteps, **written)

    def _log(self, played: Mapping[Width, tuple[list[float], list[int]]]) -> None:
        for width, (_, lengths) in played.items():
            self.logger.record(f"eval/mean_reward_at_{label(width)}", self.last_mean_rewards[width])
            self.logger.record(f"eval/mean_ep_length_at_{label(width)}", float(np.mean(lengths)))
        self.logger.record("eval/mean_reward", self.last_mean_reward)
        if self._is_success_buffer:
            self.logger.record("eval/success_rate", float(np.mean(self._is_success_buffer)))
        if self.verbose:
            each = ", ".join(f"{label(width)}: {reward:.2f}" for width, reward in self.last_mean_rewards.items())
            print(f"Eval num_timesteps={self.num_timesteps}, score {self.last_mean_reward:.2f}, by width {each}")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)


def _score(best: str | Width, widths: Sequence[Width]) -> Score:
    if best == "mean":
        return lambda rewards: float(np.mean(list(rewards.values())))
    if best == "worst":
        return lambda rewards: min(rewards.values())
    if isinstance(best, str) or best not in widths:
        raise ValueError(f"best={best!r} must be 'mean', 'worst' or one of the widths: {', '.join(map(label, widths))}")
    return lambda rewards: rewards[best]
