"""Impossible settings are refused in one line that says what is right."""

from typing import get_args

import pytest

from slimlib.models import NAMES
from tasks.classification.settings import ClassificationSettings
from tasks.classification.sources import DATA


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mobilenet_v3"}, "unknown task.model 'mobilenet_v3'; did you mean 'mobilenet_v"),
        ({"data": "cifar100"}, "unknown data 'cifar100'; did you mean 'cifar10'"),
        ({"schedule": "cosinus"}, "did you mean 'cosine'"),
        ({"crop": "random"}, "unknown task.crop 'random'; choose one of resized, padded, none"),
        ({"normalisation": "zero"}, "choose one of imagenet, data"),
        ({"variant": 128}, "task.variant=128 must be one of 0, 224, 64, 32"),
        ({"size": 0}, "task.size=0 must be a whole number, at least 1"),
        ({"size": 32.0}, "task.size=32.0 must be a whole number"),
        ({"batch": True}, "task.batch=True must be a whole number"),
        ({"divisor": -1}, "task.divisor=-1 must be a whole number, at least 0"),
        ({"workers": -1}, "task.workers=-1 must be"),
        ({"hold_out": 0.1}, "task.hold_out=0.1 must be a whole number"),
        ({"multiplier": 0}, "task.multiplier=0 must be a number above 0"),
        ({"lr": 0.0}, "task.lr=0.0 must be a number above 0, for example 0.1"),
        ({"lr": float("nan")}, "task.lr=nan"),
        ({"momentum": 1.0}, "task.momentum=1.0"),
        ({"momentum": 0.0}, "task.nesterov=true needs a momentum; set task.nesterov=false"),
        ({"nesterov": 1}, "task.nesterov=1 must be true or false"),
        ({"flip": "yes"}, "task.flip='yes' must be true or false"),
        ({"weight_decay": -0.1}, "task.weight_decay=-0.1"),
        ({"warmup": 5}, "task.warmup=5 must be a number from 0 to below 1, for example 0.05"),
        ({"label_smoothing": 1.0}, "task.label_smoothing=1.0"),
        ({"jitter": 2}, "task.jitter=2"),
        ({"lighting": -1}, "task.lighting=-1"),
        ({"cache_gb": "1"}, "task.cache_gb='1'"),
        ({"widths": [0.5, 1.5]}, "task.widths=1.5 must be a number above 0"),
        ({"widths": [0.5, 0.5]}, "each only once"),
        ({"widths": []}, "task.widths=.* must be a list .at least one"),
        ({"widths": 0.5}, "task.widths=0.5 must be a list .*, for example \\[0.25, 0.5, 1.0\\]"),
        (
            {"schedule": "step", "milestones": [30, 60]},
            "task.milestones=30.*, for example .0.3, 0.6, 0.9",
        ),
        ({"milestones": [0.5]}, "task.milestones has no meaning for task.schedule=linear; it belongs to .*=step"),
        ({"decay": 0.5, "schedule": "cosine"}, "it belongs to task.schedule=step or exponential"),
        ({"area": 0.08, "crop": "padded"}, "task.area has no meaning for task.crop=padded"),
        ({"padding": 4}, "task.padding has no meaning for task.crop=resized; it belongs to task.crop=padded"),
        ({"resize": 200}, "task.resize=200: no crop of task.size=224 fits"),
        ({"root": ""}, "data=imagenet needs data.root"),
        ({"data": "digits"}, "data=digits ships with its package and would ignore data.root=x"),
    ],
)
def test_impossible_values(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        ClassificationSettings(**{"root": "x"} | settings)
    assert "\n" not in str(error.value)


def test_lists_become_tuples():
    settings = ClassificationSettings(root="x", widths=[0.5, 1.0], schedule="step", milestones=[0.5])
    assert (settings.widths, settings.milestones) == ((0.5, 1.0), (0.5,))


@pytest.mark.parametrize(
    ("size", "built_for"), [(8, 32), (32, 32), (45, 32), (46, 64), (64, 64), (112, 64), (160, 224)]
)
def test_the_strides_are_for_the_nearest_size(size, built_for):
    assert ClassificationSettings(root="x", size=size).built_for == built_for
    assert ClassificationSettings(root="x", size=size, variant=224).built_for == 224


def test_what_can_be_chosen_is_there():
    choices = {key: set(get_args(ClassificationSettings.model_fields[key].annotation)) for key in ("model", "data")}
    assert choices == {"model": set(NAMES), "data": set(DATA)}
