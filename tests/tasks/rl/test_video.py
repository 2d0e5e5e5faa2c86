"""Agents are shown side by side, on the same episode."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tasks.rl.environments import make_environments
from tasks.rl.settings import RlSettings
from tasks.rl.video import CAPTION, HEIGHT, gif, side_by_side

pytest.importorskip("pygame", reason="it draws CartPole")

SHOWN = partial(make_environments, RlSettings(options={"render_mode": "rgb_array"}), seed=0, count=1, training=False)
FALLS = {"falls": lambda observations: np.zeros(len(observations), np.int64)}
STANDS = {"stands": lambda observations: (observations[:, 2] + observations[:, 3] > 0).astype(np.int64)}


def test_the_episode_that_is_over_holds_its_last_picture() -> None:
    frames = side_by_side({**FALLS, **STANDS}, SHOWN, 3, steps=40, every=2)
    assert len(frames) == 21 and frames[0].shape == (HEIGHT + CAPTION, 2 * 360, 3) and frames[0].dtype == np.uint8
    left, right = ([frame[:, part] for frame in frames] for part in (slice(360), slice(360, None)))
    np.testing.assert_array_equal(left[0][CAPTION:], right[0][CAPTION:])
    np.testing.assert_array_equal(left[-1], left[-2])
    assert (right[-1] != right[-2]).any()


def test_a_short_episode_makes_a_short_video() -> None:
    assert len(side_by_side(FALLS, SHOWN, 3, steps=500, every=1)) < 20


def test_pictures_become_an_animation() -> None:
    frames = side_by_side(STANDS, SHOWN, 3, steps=10, every=2)
    with Image.open(io.BytesIO(gif(frames, 10))) as image:
        assert (image.n_frames, image.size, image.info["duration"]) == (6, (360, HEIGHT + CAPTION), 100)


def test_an_environment_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task.options.render_mode=rgb_array"):
        side_by_side(
            STANDS, partial(make_environments, RlSettings(), seed=0, count=1, training=False), 3, steps=5, every=1
        )
