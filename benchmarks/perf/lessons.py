"""What a training step of each recipe of the ablation `lessons` takes, beside the sandwich rule with data alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from benchmarks.perf.alone import ClassifiersAlone
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.timing import CPU, Spread, take_turns
from benchmarks.perf.training import Step, step_of
from benchmarks.settings.run import RunSettings, read_settings
from slimlib.training.variants import GrowingSandwich
from tasks.classification.settings import ClassificationSettings
from tasks.training.recipe import Recipe

PLAIN = "data alone"
CLASSES = 10


def lessons(name: str, *, batch: int, rounds: int, device: torch.device = CPU) -> Iterator[Measurement]:
    """Time of a step of each recipe over one of `PLAIN`, as scale=small trains them, images of noise in memory.

    A range that grows is taken when it has grown: before, its steps are cheaper.
    """
    nowhere = "data.root=."  # no image is read
    settings = read_settings(["task=classification", "ablation=lessons", "scale=small", nowhere])
    recipes = [recipe for recipe in settings.recipes if recipe.kind == "slimmable"]
    times = take_turns({r.name: _step(settings, r, batch, device) for r in recipes}, rounds=rounds, device=device)
    for recipe in recipes:
        if recipe.name != PLAIN:
            pairs = zip(times[recipe.name], times[PLAIN], strict=True)
            share = Spread.of([100 * own / plain for own, plain in pairs])
            yield Measurement("step of a rule", name, f"batch {batch}, {recipe.name}, over {PLAIN}", share, unit="%")


def _step(settings: RunSettings, recipe: Recipe, batch: int, device: torch.device) -> Step:
    task = ClassifiersAlone(ClassificationSettings(**settings.task_settings), CLASSES)
    net = recipe.convert(recipe.build(task), task).to(device)
    x = torch.randn(batch, *task.example().shape[1:], device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=device)
    rule = recipe.make_rule(seed=0)
    if isinstance(rule, GrowingSandwich):
        rule.load_state_dict(rule.state_dict() | {"steps": rule.alone + rule.growth})
    return step_of(rule, net, x, lambda output: F.cross_entropy(output, labels), torch.bfloat16)
