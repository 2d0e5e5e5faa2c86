"""DQN of stable-baselines3, with an update that trains several widths of one Q-network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN
from torch import Tensor
from torch.nn import functional as F

from slimlib.rl.algorithm import SlimAlgorithm
from slimlib.rl.update import Update


class SlimDQN(SlimAlgorithm, DQN):
    """DQN of stable-baselines3 whose one Q-network acts at any width: `slimlib.set_width(model.policy, 0.5)`.

    All widths are trained towards the target network of the full one.

    Source: Mnih et al. 2015 (DQN); see `SlimAlgorithm` for the further arguments.
    """

    plain = DQN
    values_apart = False

    def distillation(self, student: Tensor, teacher: Tensor) -> Tensor:
        # The same loss as that of the largest width, so that neither outweighs the other where values are large.
        return F.smooth_l1_loss(student, teacher)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Update the Q-network with samples of the replay buffer."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        widest, narrow = [], []
        for _ in range(gradient_steps):
            first, *others = self._step(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))  # type: ignore[union-attr]
            widest.append(first)
            narrow += others
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(widest))
        if narrow:
            self.logger.record("train/loss_of_narrow_widths", np.mean(narrow))

    def _step(self, data: Any) -> list[float]:
        """One step of the optimizer; the loss of each width, widest first."""
        discount = self.gamma if data.discounts is None else data.discounts
        with torch.no_grad():
            following = self.q_net_target(data.next_observations).max(dim=1).values.reshape(-1, 1)
            target = data.rewards + (1 - data.dones) * discount * following

        def loss(values: Tensor) -> Tensor:
            return F.smooth_l1_loss(values.gather(1, data.actions.long()), target)

        self.policy.optimizer.zero_grad()
        parameters, limit = list(self.policy.parameters()), self.max_grad_norm
        update = Update(self.rule, self.policy, (data.observations,), loss, self.q_net, parameters, limit)
        losses = self.stabilizer.backward(update)
        self.policy.optimizer.step()
        return [value.item() for value in losses.values()]
