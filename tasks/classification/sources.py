"""Which images train and which are scored, for each kind of data. What `data.root` is to hold:

digits       nothing; they come with scikit-learn
cifar10      cifar-10-python.tar.gz or cifar-10-binary.tar.gz, packed or unpacked, or cifar10_jpg.npz; or is that file
imagenette   imagenette2, imagenette2-160 or imagenette2-320 with train/ and val/ inside; or is that folder;
             or imagenette*_train.zip and imagenette*_val.zip
imagenet     train/<class>/*.JPEG and val/<class>/*.JPEG, 1,000 classes
folder       train/<class>/* and val/<class>/*, or test/ without val/, also as Training/ and Validation/; or <class>/*,
             and a tenth of each class is held out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import torch

from tasks.classification.cifar10 import read_cifar10
from tasks.classification.encoded import FileImages
from tasks.classification.folders import in_words, list_folder
from tasks.classification.holding_out import hold_out_count, hold_out_fraction
from tasks.classification.imagenette import read_imagenette
from tasks.classification.images import DecodedImages, LabelledImages, missing_classes
from tasks.settings import unknown
from tasks.splits import folders_in, splits_in

DATA = ("digits", "cifar10", "imagenette", "imagenet", "folder")
IMAGENET_CLASSES = 1000
WHERE = {
    "cifar10": "give the folder that holds cifar-10-python.tar.gz, from https://www.cs.toronto.edu/~kriz/cifar.html",
    "imagenette": "give the folder that holds imagenette2-160, from https://github.com/fastai/imagenette",
    "imagenet": "give the folder that holds train and val of ILSVRC 2012, from https://image-net.org",
    "folder": "give a folder that holds train and val, or a folder a class",
}


@dataclass(frozen=True)
class Source:
    """Images to train on and images to score on, never one in both.

    Attributes:
        name: of the data set, for captions.
        train: what networks are trained on.
        evaluation: {set name: images}: "val", "test" or "held-out", as the data set has it; "search" with `hold_out`.
    """

    name: str
    train: LabelledImages
    evaluation: dict[str, LabelledImages]


def find_source(data: str, root: str, *, hold_out: int = 0) -> Source:
    """The images that the settings ask for. None is opened where they lie in folders or zips.

    Args:
        data: one of `DATA`.
        root: where they are, as the head of this file has it; "" for digits.
        hold_out: so many training images are not trained on but become the evaluation set "search", to choose
            channels by without a look at the images that are scored. They are the same in every run, and of each
            class in proportion. Source: Yu & Huang 2019 (AutoSlim), sec. 4: 50,000 of ImageNet's.

    Raises:
        ValueError: images are missing, damaged, or in the wrong place.
    """
    if data not in DATA:
        raise unknown("data", data, DATA)
    if not isinstance(hold_out, int) or hold_out < 0:
        raise ValueError(f"hold_out={hold_out} must be a whole number, at least 0")
    if data == "digits":
        if root:
            raise ValueError(f"data.root={root} would be ignored by data=digits; choose one of {', '.join(DATA[1:])}")
        return _with_search(_digits(), hold_out)
    if not root:
        raise ValueError(f"data={data} needs data.root, the folder that holds the images")
    place = Path(root).expanduser()
    if not place.exists():
        raise ValueError(f"data.root={root} does not exist; {WHERE[data]}")
    find = {"cifar10": _cifar10, "imagenette": _imagenette, "imagenet": _imagenet, "folder": _folder}
    return _with_search(find[data](place), hold_out)


def _with_search(source: Source, hold_out: int) -> Source:
    if not hold_out:
        return source
    train, search = hold_out_count(source.train, hold_out, name=source.name)
    return replace(source, train=train, evaluation={**source.evaluation, "search": search})


def _digits() -> Source:
    """1,797 handwritten digits, 8 x 8 with 17 greys. A fifth is held out.

    Source: Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError("data=digits comes with scikit-learn; pip install scikit-learn") from None
    digits = load_digits()
    grey = torch.from_numpy((digits.images * (255 / 16)).round()).to(torch.uint8)  # [n, 8, 8]
    pixels = grey[:, None].expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target.astype("int64"))
    images = DecodedImages("digits", tuple(str(digit) for digit in range(10)), pixels, labels)
    train, held_out = hold_out_fraction(images, 1 / 5, name="digits")
    return Source("digits", train, {"held-out": held_out})


def _cifar10(root: Path) -> Source:
    train, test = read_cifar10(root)
    return Source(train.name, train, {"test": test})


def _imagenette(root: Path) -> Source:
    train, val = read_imagenette(root)
    return Source(train.name, train, {"val": val})


def _imagenet(root: Path) -> Source:
    for split in ("train", "val"):
        if not (root / split).is_dir():
            use = "networks are trained on it" if split == "train" else "networks are scored on it"
            raise ValueError(
                f"data.root={root} has no folder {split}, and {use}; expected train/<class>/*.JPEG and "
                "val/<class>/*.JPEG of ImageNet's ILSVRC 2012, for which you register at https://image-net.org"
            )
    source = _train_and_val(root, "ImageNet")
    if len(source.train.classes) != IMAGENET_CLASSES:
        raise ValueError(
            f"{root / 'train'} has {len(source.train.classes)} classes, ImageNet has {IMAGENET_CLASSES}; "
            "for some of them use data=folder"
        )
    if missing := missing_classes(source.evaluation["val"]):
        raise ValueError(
            f"{root / 'val'} has no images of {in_words(missing)}; scores on ImageNet are over all classes"
        )
    return source


def _folder(root: Path) -> Source:
    name = root.resolve().name
    splits = splits_in(root)
    if not any(folders_in(root / folder) for folder in splits.values()):  # classes may have such names, as of vehicles
        _check_no_splits(root)
        train, held_out = hold_out_fraction(_files(root, name), 1 / 10, name=name)
        return Source(name, train, {"held-out": held_out})
    scored = "val" if "val" in splits else "test"
    if "train" in splits and scored in splits:
        return _train_and_val(root, name, splits["train"], {scored: splits[scored]})
    (there, *_), missing = splits.values(), "val" if "train" in splits else "train"
    raise ValueError(
        f"data.root={root} has a folder {there} but no {missing}; expected train/<class>/<image> and "
        "val/<class>/<image>, or <class>/<image> alone"
    )


def _train_and_val(
    root: Path, name: str, train: str = "train", scored: Mapping[str, str] = MappingProxyType({"val": "val"})
) -> Source:
    """Of folders of class folders; `scored`: {set name: folder}."""
    trained = _files(root / train, name)
    return Source(name, trained, {own: _files(root / folder, name, like=trained) for own, folder in scored.items()})


def _check_no_splits(root: Path) -> None:
    """Raise ValueError where what should be classes hold the same folders, as splits of any name do."""
    classes = folders_in(root)
    inside = {tuple(folders_in(root / folder)) for folder in classes}
    if len(classes) > 1 and len(inside) == 1 and len(same := inside.pop()) > 1:
        raise ValueError(
            f"data.root={root}: {in_words(classes)} all hold the folders {in_words(same)}, so either could be the "
            "classes; expected train/<class>/<image> and val/<class>/<image>, or <class>/<image> alone"
        )


def _files(folder: Path, name: str, *, like: LabelledImages | None = None) -> LabelledImages:
    listing = list_folder(folder, None if like is None else like.classes)
    if len(listing.classes) < 2:
        raise ValueError(f"{folder} has one class only ('{listing.classes[0]}'); there must be two to tell apart")
    return FileImages(name, listing.classes, listing.labels, folder=folder, paths=listing.paths)
