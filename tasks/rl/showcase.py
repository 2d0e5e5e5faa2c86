"""Pictures of a policy that has a width for each state, by the width that chose the action."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from slimlib.core.random_numbers import own_random_numbers
from slimlib.core.width import Width
from tasks.by_width import SHOWN, rows_of_pictures
from tasks.rl.deciding import rules_of_policy
from tasks.rl.environments import make_environments
from tasks.rl.evaluation import Judge
from tasks.rl.models import Scores
from tasks.rl.settings import RlSettings
from tasks.rl.trained_models import EVERY, STEPS, load_model, rendering, statistics
from tasks.rl.video import picture_of
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun

HEIGHT = 120  # of a picture, in pixels


def frames_by_width(settings: RlSettings, recipe: Recipe, path: Path, seed: int) -> Figure:
    """A row a width, narrow first: some pictures of an episode of the model at `path` at which it acted by it.

    Raises:
        ValueError: the environment shows no pictures.
    """
    model, judge = load_model(settings, path), Judge(settings)
    made = make_environments(rendering(settings), seed=seed, count=1, training=False)
    with own_random_numbers(seed), closing(judge), closing(made) as environment:
        statistics(path, environment)
        finder = rules_of_policy(model, recipe, judge, TrainingRun(1, seed=0), environment)
        rule, scores = finder.middle(), Scores(model)
        environment.seed(seed)
        seen = environment.reset()
        chosen: list[Width] = []
        frames: dict[Width, list[np.ndarray]] = {width: [] for width in rule.widths}
        for step in range(STEPS):
            with torch.no_grad():
                answer = rule.answer(scores, model.policy.obs_to_tensor(seen)[0])
            chosen += answer.widths
            if step % EVERY == 0:
                frames[chosen[-1]].append(_smaller(picture_of(environment)))
            seen, _, over, _ = environment.step(answer.output.argmax(1).cpu().numpy())
            if over[0]:
                break
    rows = {
        f"{rule.named(width)}\n{100 * chosen.count(width) / len(chosen):.0f} %": [(one, None) for one in _some(found)]
        for width, found in frames.items()
        if found
    }
    return rows_of_pictures(rows, f"{len(chosen)} steps of an episode by the width that chose the action")


def _some(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Evenly spaced ones."""
    places = np.linspace(0, len(frames) - 1, min(SHOWN, len(frames))).round().astype(int)
    return [frames[place] for place in places]


def _smaller(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    return np.asarray(image.resize((round(image.width * HEIGHT / image.height), HEIGHT)))
