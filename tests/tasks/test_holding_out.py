"""What plans are scored on is no part of what is learned from, and nothing is lost."""

from __future__ import annotations

import pytest
import torch

from tasks.classification.settings import ClassificationSettings
from tasks.classification.task import Classification
from tasks.sr.settings import SrSettings
from tasks.sr.task import SuperResolution

DIGITS = ClassificationSettings(data="digits", size=8, crop="none", flip=False, jitter=0.0, lighting=0.0, batch=32)
PHOTOS = SrSettings(data="photos", patch=24, batch=4)


def images_of(task: Classification) -> set[bytes]:
    return {task._train.read(i).numpy().tobytes() for i in range(len(task._train))}


def test_every_class_of_images_gives_its_share() -> None:
    whole = Classification(DIGITS)
    learned, held = whole.split(0.1)
    assert len(learned._train) + len(held._train) == len(whole._train)
    assert not images_of(learned) & images_of(held)
    for digit in range(10):
        count = int((whole._train.labels == digit).sum())
        assert int((held._train.labels == digit).sum()) == int(0.1 * count + 0.5)
    assert learned.evaluate.__func__ is whole.evaluate.__func__ and learned._evaluation is whole._evaluation


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.2, 2), (0.5, 6)])
def test_whole_photographs_are_held_out(share: float, count: int) -> None:
    whole = SuperResolution(PHOTOS)
    learned, held = whole.split(share)
    assert len(held._train) == count
    assert not set(learned._train.pairs) & set(held._train.pairs)
    assert set(learned._train.pairs) | set(held._train.pairs) == set(whole._train.pairs)
    batches = [next(iter(part.batches(range(1), 0)))[0] for part in (learned, held)]
    assert not torch.equal(*batches)


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="11 of the 11 images of photos cannot be held out"):
        SuperResolution(PHOTOS).split(0.99)
