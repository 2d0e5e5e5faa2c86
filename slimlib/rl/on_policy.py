"""PPO and A2C of stable-baselines3, with an update that trains several widths of one policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.utils import explained_variance
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from slimlib.core.width import Width
from slimlib.rl.algorithm import SlimAlgorithm
from slimlib.rl.distributions import Parameters, divergence, nearness, parameters_of
from slimlib.rl.update import Update, UpdateLog


class Actor(NamedTuple):
    """Parameters of the distribution of actions for some observations, [N, ...] each: what distillation compares."""

    action: Parameters


class Evaluated(NamedTuple):
    """That, and what a policy says of the actions that were taken: [N] each.

    Attributes:
        entropy: None where the distribution has no closed form.
    """

    action: Parameters
    values: Tensor
    log_prob: Tensor
    entropy: Tensor | None


def evaluate(policy: Any, observations: Any, actions: Tensor) -> Evaluated:
    """The policy's `evaluate_actions`, and the distribution that it made."""
    values, log_prob, entropy = policy.evaluate_actions(observations, actions)
    return Evaluated(parameters_of(policy.action_dist.distribution), values.flatten(), log_prob, entropy)


def evaluate_actor(policy: Any, observations: Any) -> Actor:
    """The distribution of the policy's actions alone."""
    return Actor(parameters_of(policy.get_distribution(observations).distribution))


class _TooFar(Exception):
    """The policy has moved as far from the one that acted as `target_kl` allows."""


PolicyLoss = Callable[[Evaluated, Tensor, Tensor, Width], Tensor]
"""(outputs of a width, actions [N, ...], advantages [N], the width) -> scalar."""


class _OnPolicy(SlimAlgorithm):
    """What PPO and A2C share: a step of the optimizer on a batch of a rollout."""

    stabilities: ClassVar[tuple[str, ...]] = ("certainty", "none", "clip", "conflict", "late")

    def _tells(self, width: Width) -> bool:
        """Whether a width tells of the policy, for the log and `target_kl`."""
        return width == self.rule.widths.largest or not self.rule.trains_largest

    def distillation(self, student: Evaluated | Actor, teacher: Evaluated | Actor) -> Tensor:
        policy: Any = self.policy  # type: ignore[attr-defined]
        loss = divergence(student.action, teacher.action, policy.action_dist.distribution, own_scale=False)
        if self.distill_values:
            assert isinstance(student, Evaluated)
            assert isinstance(teacher, Evaluated)
            loss = loss + self.distill_values * F.mse_loss(student.values, teacher.values)
        return loss

    def uncertainties(self, output: Evaluated) -> list[tuple[nn.Module, Tensor]]:
        policy: Any = self.policy  # type: ignore[attr-defined]
        if isinstance(policy.action_dist.distribution, Normal):
            return [(policy.action_net, nearness(output.action))]
        assert output.entropy is not None
        return [(policy.action_net, output.entropy.mean())]

    def _step(
        self,
        data: Any,
        policy_loss: PolicyLoss,
        log: UpdateLog,
        *,
        clip_values: float | None = None,
        farthest: float | None = None,
    ) -> None:
        """One step of the optimizer on the gradients of all widths that the rule draws.

        Raises:
            _TooFar: the divergence that `policy_loss` logs is larger than `farthest`; nothing is changed.
        """
        model: Any = self
        actions, advantages = data.actions, data.advantages
        if isinstance(model.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        if model.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        def loss(output: Evaluated, width: Width) -> Tensor:
            policy_part = policy_loss(output, actions, advantages, width)
            values = output.values
            if clip_values is not None:
                values = data.old_values + (values - data.old_values).clamp(-clip_values, clip_values)
            value_part = F.mse_loss(data.returns, values)
            entropy_part = torch.mean(output.log_prob) if output.entropy is None else -torch.mean(output.entropy)
            total: Tensor = policy_part + model.ent_coef * entropy_part + model.vf_coef * value_part
            if self._tells(width):
                log.add(policy=policy_part, value=value_part, entropy=entropy_part, loss=total)
                if farthest is not None and log.last("divergence") > farthest:
                    raise _TooFar
            return total

        log.restart("loss")
        model.policy.optimizer.zero_grad()
        arguments = data.observations, actions
        widest, actor_alone = self.rule.widths.largest, self.narrow_actors_alone

        def forward(observations: Any, taken: Tensor) -> Evaluated | Actor:
            if actor_alone and self.slimming.width != widest:
                return evaluate_actor(model.policy, observations)
            return evaluate(model.policy, observations, taken)

        parameters = list(model.policy.parameters())
        update = Update(self.rule, model.policy, arguments, loss, forward, parameters, model.max_grad_norm)
        losses = self.stabilizer.backward(update)
        model.policy.optimizer.step()
        _, *others = losses.values()
        if others:
            log.add(narrow=torch.stack(others).mean())

    def _log(self, log: UpdateLog, names: Mapping[str, str]) -> None:
        model: Any = self
        common = {"value": "value_loss", "entropy": "entropy_loss", "narrow": "loss_of_narrow_widths"}
        log.write_to(model.logger, {**names, **common})
        buffer = model.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        model.logger.record("train/explained_variance", explained)
        if hasattr(model.policy, "log_std"):
            model.logger.record("train/std", torch.exp(model.policy.log_std).mean().item())
        model.logger.record("train/n_updates", model._n_updates, exclude="tensorboard")


class SlimPPO(_OnPolicy, PPO):
    """PPO of stable-baselines3 whose one policy acts at any width: `slimlib.set_width(model.policy, 0.5)`.

    The widths that do not act see actions, and old probabilities, of the width that does; where they learn from
    the algorithm's own loss they learn off-policy, and distillation is the better default.

    Source: Schulman et al. 2017 (PPO); see `SlimAlgorithm` for the further arguments.
    """

    plain = PPO
    stabilities = (*_OnPolicy.stabilities, "ratio")

    def train(self) -> None:
        """Update the policy with the rollout that was collected."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        progress = self._current_progress_remaining
        clip_range: float = self.clip_range(progress)  # type: ignore[operator]
        clip_values = None if self.clip_range_vf is None else self.clip_range_vf(progress)  # type: ignore[operator]
        farthest = None if self.target_kl is None else 1.5 * self.target_kl
        log = UpdateLog()
        self.stabilizer.begin()
        for epoch in range(self.n_epochs):
            self._n_updates += 1
            log.restart("divergence")
            try:
                for data in self.rollout_buffer.get(self.batch_size):
                    loss = partial(self._clipped, data=data, clip_range=clip_range, log=log)
                    self._step(data, loss, log, clip_values=clip_values, farthest=farthest)
            except _TooFar:
                if self.verbose >= 1:
                    far = log.last("divergence")
                    print(f"Early stopping at step {epoch} due to reaching max kl: {far:.2f}")
                break
        names = {
            "policy": "policy_gradient_loss",
            "divergence": "approx_kl",
            "clipped": "clip_fraction",
            "loss": "loss",
        }
        self._log(log, names)
        self.logger.record("train/clip_range", clip_range)
        if clip_values is not None:
            self.logger.record("train/clip_range_vf", clip_values)

    def _clipped(
        self,
        output: Evaluated,
        actions: Tensor,
        advantages: Tensor,
        width: Width,
        *,
        data: Any,
        clip_range: float,
        log: UpdateLog,
    ) -> Tensor:
        """The clipped surrogate objective. Source: Schulman et al. 2017, eq. 7."""
        log_ratio = output.log_prob - self.stabilizer.old_log_prob(data, actions, width)
        ratio = torch.exp(log_ratio)
        if self._tells(width):
            with torch.no_grad():
                far = torch.mean((torch.exp(log_ratio) - 1) - log_ratio)
                log.add(divergence=far, clipped=torch.mean((torch.abs(ratio - 1) > clip_range).float()))
        return -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip_range, 1 + clip_range)).mean()


class SlimA2C(_OnPolicy, A2C):
    """A2C of stable-baselines3 whose one policy acts at any width: `slimlib.set_width(model.policy, 0.5)`.

    Source: Mnih et al. 2016 (A3C); see `SlimAlgorithm` for the further arguments.
    """

    plain = A2C

    def train(self) -> None:
        """Update the policy with the rollout that was collected."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        log = UpdateLog()
        for data in self.rollout_buffer.get(batch_size=None):
            self._step(data, _policy_gradient, log)
        self._n_updates += 1
        self._log(log, {"policy": "policy_loss"})


def _policy_gradient(output: Evaluated, actions: Tensor, advantages: Tensor, width: Width) -> Tensor:
    return -(advantages * output.log_prob).mean()
