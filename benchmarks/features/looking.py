"""What is looked at in a trained network, and the pictures that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

import slimlib as slim
from benchmarks.features.figures import Tile
from benchmarks.features.importance import MEASURES, curve, gradient_mass, kernel_norms, loss_without
from benchmarks.features.networks import Trained
from benchmarks.features.responses import alike, exciting, layers_of
from slimlib.core.setting import slimming_of
from tasks.settings import Settings, setting
from tasks.task import HeldOut, SupervisedTask
from tasks.training.run import TrainingRun


class FeatureSettings(Settings):
    """What is looked at."""

    group: ClassVar[str] = "features"

    images: int = setting(256, "held-out images that networks are shown", ge=2)
    gradient_steps: int = setting(
        200, "training steps whose gradients are added up, for which each network is trained anew; 0: none", ge=0
    )
    layer: str = setting("", "the layer whose patches are drawn; empty: one at a quarter of the depth")
    channels: int = setting(6, "channels of this layer, evenly spread over their order", ge=1)
    patches: int = setting(3, "patches for each channel and width", ge=1)


@dataclass(frozen=True)
class Looked:
    """What was measured of a network.

    Attributes:
        groups: names of the groups of layers.
        importance: measure -> a value for each unit of every group.
        alike: layer -> correlations between the widths, [widths, widths]; empty for an individual network.
    """

    trained: Trained
    groups: tuple[str, ...]
    importance: Mapping[str, Sequence[Tensor]]
    alike: Mapping[str, Tensor]

    def curves(self) -> dict[str, Tensor]:
        """For each measure its shares over channel order."""
        return {measure: curve(groups) for measure, groups in self.importance.items()}

    def ends_alike(self) -> dict[str, float]:
        """For each layer the correlation between the narrowest and the widest."""
        return {layer: float(matrix[0, -1]) for layer, matrix in self.alike.items()}


def look(trained: Trained, task: SupervisedTask, held_out: HeldOut, run: TrainingRun, gradient_steps: int) -> Looked:
    """Measure a network; `gradient_steps` 0: nothing of its training."""
    net = trained.net
    norm, gradient, loss = MEASURES
    importance = {norm: kernel_norms(net)}
    if gradient_steps:
        importance[gradient] = gradient_mass(task, trained.recipe, run, gradient_steps)
    importance[loss] = loss_without(net, lambda: task.loss(net(held_out.inputs), held_out.targets))
    compared = alike(net, held_out.inputs, trained.widths) if len(trained.widths) > 1 else {}
    return Looked(trained, tuple(group.name for group in slimming_of(net).layout.groups), importance, compared)


def first_weight(trained: Trained, width: float) -> Tensor:
    """Of the first convolution at a width, [channels, inputs, height, width]."""
    conv = next(module for module in trained.net.modules() if isinstance(module, nn.Conv2d))
    with slim.at_width(trained.net, width):
        return conv.weight.detach().cpu()


def first_kernels(trained: Trained) -> list[Tile]:
    """Those of the first convolution in channel order, each scaled to its own largest weight; zero is grey."""
    active = {width: len(first_weight(trained, width)) for width in trained.widths}
    weight = first_weight(trained, trained.widths[-1])
    colours = weight if weight.shape[1] == 3 else weight.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    scaled = 0.5 + 0.5 * colours / colours.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return [(kernel, next(w for w, n in active.items() if channel < n)) for channel, kernel in enumerate(scaled)]


@dataclass(frozen=True)
class Excited:
    """What excites some channels of a layer: a row of tiles for each, `count` at each width.

    Attributes:
        same, cases: in how many cases the image that excites a channel most is the one that does at the largest width.
    """

    layer: str
    rows: Mapping[str, Sequence[Tile | None]]
    same: int
    cases: int


def layer_to_draw(trained: Trained, settings: FeatureSettings) -> str:
    """The layer whose patches are asked for, by default one at a quarter of the depth.

    Raises:
        ValueError: there is no such layer.
    """
    layers = list(layers_of(trained.net))
    layer = settings.layer or layers[len(layers) // 4]
    if layer not in layers:
        raise ValueError(
            f"features.layer={layer} is not a layer of {trained.recipe.name}; there are {', '.join(layers)}"
        )
    return layer


def excited(trained: Trained, held_out: HeldOut, *, layer: str, channels: int, count: int) -> Excited:
    """Patches for channels that are evenly spread over the order of a layer."""
    assert held_out.pixels is not None
    total = sum(segment.size for segment in layers_of(trained.net)[layer])
    rows: dict[str, list[Tile | None]] = {}
    same = cases = 0
    for channel in dict.fromkeys(i * total // channels for i in range(channels)):
        row: list[Tile | None] = []
        best = []
        for width in trained.widths:
            found = exciting(trained.net, held_out.inputs, width, layer, channel, count=count)
            tiles = [(held_out.pixels[p.image][:, p.rows, p.columns], width) for p in found]
            row += [*tiles, *[None] * (count - len(tiles))]
            best += [patch.image for patch in found[:1]]
        rows[f"channel {channel}"] = row
        same, cases = same + sum(image == best[-1] for image in best[:-1]), cases + len(best) - 1
    return Excited(layer, rows, same, cases)
