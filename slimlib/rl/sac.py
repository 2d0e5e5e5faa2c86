"""SAC of stable-baselines3, with an update that trains several widths of one actor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.utils import polyak_update
from torch import Tensor, nn
from torch.nn import functional as F

from slimlib.core.setting import at_width
from slimlib.rl.algorithm import SlimAlgorithm
from slimlib.rl.distributions import Parameters, divergence, nearness, parameters_of
from slimlib.rl.update import Update, UpdateLog
from slimlib.training.distillation import Lesson, Lessons
from slimlib.training.sandwich import SingleWidth


class Undrawn(NamedTuple):
    """What actions for some observations are drawn from: all that distillation compares."""

    distribution: Parameters


class Acted(NamedTuple):
    """That, and actions that were drawn [N, ...], with their log-probabilities [N, 1]."""

    distribution: Parameters
    actions: Tensor
    log_prob: Tensor


class SlimSAC(SlimAlgorithm, SAC):
    """SAC of stable-baselines3 whose one actor acts at any width: `slimlib.set_width(model.policy, 0.5)`.

    The critics slim with the actor. All are trained towards the target critics, the next actions and the entropy
    coefficient of the full width. Where the narrow actors are distilled, the narrow critics, which nobody asks
    then, are trained only with `distill_values`, and always towards the largest of the same step.

    Source: Haarnoja et al. 2018 (SAC); see `SlimAlgorithm` for the further arguments.
    """

    plain = SAC
    stabilities = ("certainty", "none", "conflict", "late")  # stable-baselines3 clips no gradient of SAC

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update actor, critics and entropy coefficient with samples of the replay buffer."""
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)
        log = UpdateLog()
        for step in range(gradient_steps):
            self._step(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env), log)  # type: ignore[union-attr]
            if step % self.target_update_interval == 0:
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        names = ("ent_coef", "actor_loss", "critic_loss", "ent_coef_loss", "loss_of_narrow_widths")
        log.write_to(self.logger, {name: name for name in names})

    def distillation(self, student: Acted | Undrawn, teacher: Acted | Undrawn) -> Tensor:
        kind = self.actor.action_dist.distribution
        return divergence(student.distribution, teacher.distribution, kind, own_scale=True)

    def uncertainties(self, output: Any) -> list[tuple[nn.Module, Tensor]]:
        if not isinstance(output, Acted):  # of the critics
            return []
        of_mean: list[tuple[nn.Module, Tensor]] = [(self.actor.mu, nearness(output.distribution))]
        if not isinstance(self.actor.log_std, nn.Module):
            return of_mean
        return [*of_mean, (self.actor.log_std, torch.log(output.distribution[1]).sum(1).mean())]

    def _setup_model(self) -> None:
        super()._setup_model()
        _, *narrow = self.rule.lessons.all
        # A narrow actor that learns from the data asks the critics of its width.
        if self.distill_values or any(lesson.data != 0 for lesson in narrow):
            self.critic_rule = self.rule.taught(self._lessons_of_critics())
        else:
            self.critic_rule = SingleWidth(self.slimming.widths.largest)

    def _lessons_of_critics(self) -> Lessons:
        largest, *narrow = self.rule.lessons.all
        if self.distill_values:
            own = [Lesson(lesson.data, self._values_apart, lesson.weight) for lesson in narrow]
        else:
            own = [Lesson(lesson.data or 1.0) for lesson in narrow]
        between, smallest = own
        return Lessons(between, smallest, Lesson(largest.data or 1.0))

    def _values_apart(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return self.distill_values * torch.stack([F.mse_loss(s, t) for s, t in pairs]).sum()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "critic_rule"]

    def _step(self, data: Any, log: UpdateLog) -> None:
        with at_width(self.policy, self.slimming.widths.largest):
            if self.use_sde:
                self.actor.reset_noise()
            acted = self._act(data.observations)
            ent_coef = self._tune_entropy(acted, log)
            target = self._target(data, ent_coef)
        self._train_critics(data, target, log)
        self._train_actor(data, acted, ent_coef, log)

    def _act(self, observations: Any) -> Acted:
        actions, log_prob = self.actor.action_log_prob(observations)
        return Acted(parameters_of(self.actor.action_dist.distribution), actions, log_prob.reshape(-1, 1))

    def _undrawn(self, observations: Any) -> Undrawn:
        mean, log_std, more = self.actor.get_action_dist_params(observations)
        return Undrawn(parameters_of(self.actor.action_dist.proba_distribution(mean, log_std, **more).distribution))

    def _tune_entropy(self, acted: Acted, log: UpdateLog) -> Tensor:
        """The entropy coefficient, and a step of it where it is learned. Source: Haarnoja et al. 2018b, sec. 5."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            coefficient = self.ent_coef_tensor
        else:
            coefficient = torch.exp(self.log_ent_coef.detach())
            loss = -(self.log_ent_coef * (acted.log_prob + self.target_entropy).detach()).mean()  # type: ignore[operator]
            self.ent_coef_optimizer.zero_grad()
            loss.backward()
            self.ent_coef_optimizer.step()
            log.add(ent_coef_loss=loss)
        log.add(ent_coef=coefficient)
        return coefficient

    @torch.no_grad()
    def _target(self, data: Any, ent_coef: Tensor) -> Tensor:
        discount = self.gamma if data.discounts is None else data.discounts
        following = self._act(data.next_observations)
        values = torch.cat(self.critic_target(data.next_observations, following.actions), dim=1)
        soft = values.min(dim=1, keepdim=True).values - ent_coef * following.log_prob
        target: Tensor = data.rewards + (1 - data.dones) * discount * soft
        return target

    def _train_critics(self, data: Any, target: Tensor, log: UpdateLog) -> None:
        def loss(values: tuple[Tensor, ...]) -> Tensor:
            return 0.5 * torch.stack([F.mse_loss(value, target) for value in values]).sum()

        self.critic.optimizer.zero_grad()
        arguments = data.observations, data.actions
        parameters = list(self.critic.parameters())
        update = Update(self.critic_rule, self.policy, arguments, loss, self.critic, parameters)
        losses = self.stabilizer.backward(update)
        self.critic.optimizer.step()
        log.add(critic_loss=next(iter(losses.values())))

    def _train_actor(self, data: Any, acted: Acted, ent_coef: Tensor, log: UpdateLog) -> None:
        alone = self.narrow_actors_alone

        def act(observations: Any) -> Acted | Undrawn:
            # Without gradient it may be another network that acts: an average of this one.
            full = self.slimming.width == self.slimming.widths.largest
            if full and torch.is_grad_enabled():
                return acted
            return self._undrawn(observations) if alone else self._act(observations)

        def loss(output: Acted) -> Tensor:
            values = torch.cat(self.critic(data.observations, output.actions), dim=1)
            return (ent_coef * output.log_prob - values.min(dim=1, keepdim=True).values).mean()

        self.actor.optimizer.zero_grad()
        parameters = list(self.actor.parameters())
        update = Update(self.rule, self.policy, (data.observations,), loss, act, parameters)
        first, *others = self.stabilizer.backward(update).values()
        self.actor.optimizer.step()
        log.add(actor_loss=first)
        if others:
            log.add(loss_of_narrow_widths=torch.stack(others).mean())
