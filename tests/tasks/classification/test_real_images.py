"""The real images, where they are on this machine: as many as published, of every class, and readable."""

import os

import pytest
import torch

from tasks.classification.cache import PixelCache
from tasks.classification.encoded import FileImages
from tasks.classification.folders import list_folder
from tasks.classification.loading import load
from tasks.classification.sources import find_source
from tests.tasks.classification.small_files import real_data

IMAGENETTE_TRAIN = [963, 955, 993, 858, 941, 956, 961, 931, 951, 960]
IMAGENETTE_VAL = [387, 395, 357, 386, 409, 394, 389, 419, 399, 390]


def sizes(images):
    return torch.bincount(images.labels).tolist()


def test_cifar10():
    source = find_source("cifar10", str(real_data("classification/cifar10_jpg.npz").parent))
    assert "JPEG-recompressed copy" in source.name
    assert sizes(source.train) == [5000] * 10
    assert sizes(source.evaluation["test"]) == [1000] * 10
    assert source.evaluation["test"].side == 32


def test_cifar10_has_the_published_colours():
    source = find_source("cifar10", str(real_data("classification/cifar10_jpg.npz")))
    (pixels, _), *_ = load(source.train, [range(2000)])
    mean = pixels.float().mean(dim=(0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=0.01)


def test_imagenette():
    source = find_source("imagenette", str(real_data("classification/imagenette112_train.zip").parent))
    assert (len(source.train), len(source.evaluation["val"])) == (9469, 3925)
    assert sizes(source.train) == IMAGENETTE_TRAIN
    assert sizes(source.evaluation["val"]) == IMAGENETTE_VAL
    assert source.evaluation["val"].side == 112
    (pixels, labels), *_ = load(source.train, [[0, 9468]], workers=1)
    assert pixels.shape == (2, 3, 112, 112)
    assert labels.tolist() == [0, 9]


def test_imagenet_sample():
    folder = real_data("imagenet_sample/val")
    listing = list_folder(folder)
    assert len(listing.classes) == len(listing.labels) == 1000
    assert listing.classes[0] == "n01440764"
    images = FileImages("sample", listing.classes, listing.labels, folder=folder, paths=listing.paths)
    assert images.side is None
    assert PixelCache().decoded(images) is images
    indices = range(0, 1000, 20)
    ((pixels, _),) = load(images, [indices], prepare=lambda image, number, position: image[:, :64, :64], workers=1)
    assert pixels.shape == (50, 3, 64, 64)
    assert min(images.read_at_least(index, 100).shape[1:][0] for index in indices) >= 100


def test_imagenet_sample_is_not_enough_to_train_on():
    folder = real_data("imagenet_sample/val").parent
    with pytest.raises(ValueError, match=f"data.root={os.fspath(folder)} has no folder train"):
        find_source("imagenet", str(folder))
