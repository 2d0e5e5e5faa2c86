"""Where the weights of a backbone come from: published, a run of task=classification, or nowhere."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import nn

import slimlib as slim
from slimlib import models
from slimlib.core.setting import slimming_of
from slimlib.core.statistics import AFFINE, STATISTICS, OfWidth, tracks
from slimlib.core.width import Switches
from slimlib.models.classifier import Classifier
from tasks.detection.settings import DetectionSettings

BODY = "backbone.body."


def started(settings: DetectionSettings, width: float, norm: Literal["batch", "group"]) -> Classifier:
    """A dense ResNet of a width, with the weights that it starts with.

    Raises:
        ValueError: the file cannot be read, is of another network, or does not hold the width or norm.
    """
    s = settings
    dense = models.build(s.model, classes=1, width=width, multiplier=s.multiplier, divisor=s.divisor or None, norm=norm)
    if s.start == "scratch":
        return dense
    if norm == "group":
        raise ValueError(f"task.start={s.start} has BatchNorm, so that GroupNorm needs task.start=scratch")
    pretrained = _pretrained(s.start, s.weights, s.model, s.multiplier, s.divisor)
    whole = slim.extract(pretrained, width).state_dict()
    own = dense.state_dict()
    for key, value in whole.items():
        if key.startswith("features.") and (key not in own or own[key].shape != value.shape):
            raise ValueError(f"{s.weights} is of another network: at width {width} it has '{key}' {list(value.shape)}")
    dense.load_state_dict({key: whole[key] if key.startswith("features.") else value for key, value in own.items()})
    return dense


def fill_switches(detector: nn.Module, settings: DetectionSettings) -> None:
    """Give each switch of a converted detector the BatchNorm that the pretrained network has at it.

    Raises:
        ValueError: the pretrained network does not have a switch.
    """
    slimming = slimming_of(detector)
    assert isinstance(slimming.widths, Switches)
    for width in slimming.widths.widths:
        assert isinstance(width, float)
        channels = slimming.channels_at(width)
        if channels != slimming.layout.full:
            for name, norm in started(settings, width, "batch").features.named_modules():
                if tracks(norm):
                    own = detector.get_submodule(BODY + name)
                    for key in (*AFFINE, *STATISTICS):
                        getattr(own, str(OfWidth(key, channels))).data.copy_(getattr(norm, key))
    slimming.refresh()


@lru_cache(maxsize=1)
def _pretrained(start: str, weights: str, model: str, multiplier: float, divisor: int) -> nn.Module:
    path = Path(weights).expanduser()
    if start == "s_resnet50":
        return models.load_published(start, path)
    classes = _classes(path)
    return slim.load(path, into=models.build(model, classes=classes, multiplier=multiplier, divisor=divisor or None))


def _classes(path: Path) -> int:
    """Of the classifier in a file, which is left out here."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("classifier.0.weight").get_shape()[0])
    except (OSError, SafetensorError) as error:
        raise ValueError(f"task.weights={path} is not a network from a run of task=classification: {error}") from None
