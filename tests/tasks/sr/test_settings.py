"""Impossible settings are refused in one line that says what is right."""

import pytest

from tasks.sr.settings import SrSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "wdsr_a"}, "did you mean 'wdsr-a'"),
        ({"data": "photo"}, "did you mean 'photos'"),
        ({"protocol": "luma"}, "choose one of y, rgb"),
        ({"scale": 5}, "task.scale.*2, 3, 4"),
        ({"scale": 2.0}, "task.scale must be a whole number"),
        ({"blocks": 0}, "task.blocks must be a whole number, at least 1"),
        ({"batch": True}, "task.batch must be a whole number"),
        ({"patch": 4}, "task.patch must be a whole number, at least 8"),
        ({"lr": -1.0}, "task.lr=-1.0 must be from 0"),
        ({"lr": float("nan")}, "task.lr=nan"),
        ({"widths": [0.5, 1.5]}, "task.widths=1.5 must be above 0"),
        ({"widths": [0.5, 0.5]}, "each only once"),
        ({"widths": []}, "at least one width"),
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
