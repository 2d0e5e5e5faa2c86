"""Agents side by side, playing the same episode."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.vec_env import VecEnv

from slimlib.core.random_numbers import own_random_numbers

HEIGHT = 240  # of a picture, in pixels
CAPTION = 24  # height of the bar above it


def side_by_side(
    panels: Mapping[str, Callable[[Any], np.ndarray]],
    make_env: Callable[[], VecEnv],
    seed: int,
    *,
    steps: int,
    every: int,
) -> list[np.ndarray]:
    """One episode with each agent, beside each other; the one that is over shows its last picture.

    Args:
        panels: label -> predict: observations [1, ...] -> actions [1, ...].
        make_env: makes one copy of the environment for evaluation, with render_mode="rgb_array".
        seed: of the episode; every agent plays the same.
        steps: after which the video ends.
        every: steps between two pictures.

    Returns:
        The pictures, each [HEIGHT + CAPTION, W, 3] of uint8.

    Raises:
        ValueError: the environment shows no pictures.
    """
    films = []
    for label, predict in panels.items():
        with own_random_numbers(seed), closing(make_env()) as environment:
            episode = _episode(predict, environment, seed, steps, every)
            films.append([_captioned(picture, label, total) for picture, total in episode])
    longest = max(len(film) for film in films)
    held = [film + film[-1:] * (longest - len(film)) for film in films]
    return [np.concatenate(pictures, axis=1) for pictures in zip(*held, strict=True)]


def gif(frames: Sequence[np.ndarray], fps: float) -> bytes:
    """Pictures [H, W, 3] as an animation that begins again when it is over."""
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "gif", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, optimize=True
    )
    return buffer.getvalue()


def _episode(
    predict: Callable[[Any], np.ndarray], environment: VecEnv, seed: int, steps: int, every: int
) -> Iterator[tuple[np.ndarray, float]]:
    """Pictures of an episode, and the return so far; the last comes once more with the return of all."""
    environment.seed(seed)
    observations, total = environment.reset(), 0.0
    picture = picture_of(environment)
    yield picture, total
    for step in range(1, steps + 1):
        observations, rewards, _, infos = environment.step(predict(observations))
        total += float(rewards[0])
        if "episode" in infos[0]:  # the environment has been reset, and would show the next one
            yield picture, float(infos[0]["episode"]["r"])
            return
        if step % every == 0:
            picture = picture_of(environment)
            yield picture, total


def picture_of(environment: VecEnv) -> np.ndarray:
    """What the first of the environments shows, uint8 [H, W, 3].

    Raises:
        ValueError: it shows no pictures.
    """
    if environment.render_mode != "rgb_array":
        raise ValueError("the environment shows no pictures; make it with task.options.render_mode=rgb_array")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a screen
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    picture = environment.get_images()[0]
    assert picture is not None
    return picture


def _captioned(picture: np.ndarray, label: str, total: float) -> np.ndarray:  # [H, W, 3] -> [HEIGHT + CAPTION, W', 3]
    scaled = Image.fromarray(picture)
    scaled = scaled.resize((round(scaled.width * HEIGHT / scaled.height), HEIGHT))
    canvas = Image.new("RGB", (scaled.width, HEIGHT + CAPTION), "white")
    canvas.paste(scaled, (0, CAPTION))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    draw.text((4, CAPTION // 2), label, "black", font, anchor="lm")
    draw.text((scaled.width - 4, CAPTION // 2), f"{total:.0f}", "black", font, anchor="rm")
    return np.asarray(canvas)
