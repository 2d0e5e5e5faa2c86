"""Impossible settings are refused in one line that says what is right."""

from typing import get_args

import pytest

from tasks.sr.metrics import PROTOCOLS
from tasks.sr.settings import SrSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "wdsr_a"}, "did you mean 'wdsr-a'"),
        ({"data": "photo"}, "did you mean 'photos'"),
        ({"protocol": "luma"}, "choose one of y, rgb"),
        ({"scale": 5}, "task.scale=5 must be one of 2, 3, 4"),
        ({"scale": 2.0}, "task.scale=2.0 must be one of 2, 3, 4"),
        ({"blocks": 0}, "task.blocks=0 must be a whole number, at least 1"),
        ({"batch": True}, "task.batch=True must be a whole number"),
        ({"patch": 4}, "task.patch=4 must be a whole number, at least 8"),
        ({"lr": -1.0}, "task.lr=-1.0 must be a number from 0 to 1, for example 0.001"),
        ({"lr": float("nan")}, "task.lr=nan"),
        ({"widths": [0.5, 1.5]}, "task.widths=1.5 must be a number above 0"),
        ({"widths": [0.5, 0.5]}, "each only once"),
        ({"widths": []}, "task.widths=\\[\\] must be a list .at least one"),
        ({"widths": 0.5}, "must be a list"),
        ({"milestones": [1.5]}, "task.milestones=1.5"),
        ({"decay": 0}, "task.decay=0"),
        ({"data": "folder"}, "data=folder needs data.root"),
        ({"data": "benchmark", "root": "x", "train_sets": []}, "data.train_sets is empty"),
        ({"root": "mine"}, "need data=folder or data=benchmark"),
    ],
)
def test_impossible_values(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        SrSettings(**settings)
    assert "\n" not in str(error.value)


def test_lists_become_tuples():
    assert SrSettings(widths=[0.5, 1.0]).widths == (0.5, 1.0)


def test_what_can_be_chosen_is_there():
    assert set(get_args(SrSettings.model_fields["protocol"].annotation)) == set(PROTOCOLS)
