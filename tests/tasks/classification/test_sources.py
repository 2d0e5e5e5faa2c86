"""What trains and what is scored, for each kind of data, and what is said of data that do not lie as they should."""

import pytest
import torch
from PIL import Image

from tasks.classification import cifar10, sources
from tasks.classification.images import DecodedImages
from tasks.classification.loading import load
from tasks.classification.sources import DATA, find_source
from tests.tasks.classification.small_files import CifarFiles, draw, touch, write_imagenette


def sizes(images):
    return torch.bincount(images.labels, minlength=len(images.classes)).tolist()


def test_digits_need_no_files():
    source = find_source("digits", "")
    held_out = source.evaluation["held-out"]
    assert (source.name, len(source.train), len(held_out)) == ("digits", 1438, 359)
    assert source.train.classes == tuple("0123456789")
    assert source.train.side == 8
    assert all(abs(size - 36) <= 2 for size in sizes(held_out))
    image = source.train.read(0)
    assert image.shape == (3, 8, 8)
    assert image[0].equal(image[2])
    pixels = source.train.pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(pixels.unique()) == 17


def test_digits_are_split_alike_every_time():
    first, second = (find_source("digits", "") for _ in range(2))
    torch.manual_seed(1)
    assert first.train.pixels.equal(second.train.pixels)
    assert first.evaluation["held-out"].labels.equal(second.evaluation["held-out"].labels)


def test_digits_with_a_root_are_refused():
    with pytest.raises(ValueError, match="data.root=x would be ignored by data=digits; choose one of cifar10, "):
        find_source("digits", "x")


@pytest.mark.parametrize("data", DATA[1:])
def test_other_data_need_a_root_that_exists(data, tmp_path):
    with pytest.raises(ValueError, match=f"data={data} needs data.root"):
        find_source(data, "")
    with pytest.raises(ValueError, match="nowhere does not exist"):
        find_source(data, str(tmp_path / "nowhere"))


def test_unknown_data_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="unknown data 'cifar'; did you mean 'cifar10'"):
        find_source("cifar", "x")


def test_cifar10(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "COUNTS", CifarFiles.counts)
    CifarFiles().write(tmp_path, "cifar10_jpg.npz")
    source = find_source("cifar10", str(tmp_path))
    assert source.name == "CIFAR-10 (JPEG-recompressed copy)"
    assert (len(source.train), len(source.evaluation["test"])) == (20, 3)


@pytest.mark.parametrize("root", [".", "imagenette2-160"])
def test_imagenette_in_folders(tmp_path, root):
    for split in ("train", "val"):
        write_imagenette(tmp_path / "imagenette2-160", split, zipped=False)
    source = find_source("imagenette", str(tmp_path / root))
    assert source.name == "Imagenette (imagenette2-160)"
    assert source.train.classes[:3] == ("tench", "English springer", "cassette player")
    assert sizes(source.train) == sizes(source.evaluation["val"]) == [2] * 10


@pytest.mark.parametrize("prefix", ["", "val/"])
def test_imagenette_in_zips(tmp_path, prefix):
    for split in ("train", "val"):
        write_imagenette(tmp_path, split, zipped=True, prefix=prefix)
    source = find_source("imagenette", str(tmp_path))
    assert source.name == "Imagenette (imagenette64)"
    assert source.train.side == 8
    assert sizes(source.train) == sizes(source.evaluation["val"]) == [2] * 10
    batches = [[19, 0, 7], [3]]
    for (here, _), (there, _) in zip(*(load(source.train, batches, workers=n) for n in (0, 2)), strict=True):
        assert here.equal(there)
    assert source.train.where(19).endswith("imagenette64_train.zip/" + prefix + "n03888257/1.jpg")


def test_imagenette_that_is_missing_or_ambiguous(tmp_path):
    with pytest.raises(ValueError, match=r"holds no Imagenette; download imagenette2-160\.tgz of https://github"):
        find_source("imagenette", str(tmp_path))
    write_imagenette(tmp_path, "train", zipped=True)
    with pytest.raises(ValueError, match=r"imagenette64_val\.zip is missing; download"):
        find_source("imagenette", str(tmp_path))
    (tmp_path / "imagenette2").mkdir()
    with pytest.raises(ValueError, match=r"more than once \(imagenette2, imagenette64_train\.zip\); keep one"):
        find_source("imagenette", str(tmp_path))


def test_other_classes_are_not_imagenette(tmp_path):
    write_imagenette(tmp_path, "train", zipped=False)
    touch(tmp_path, "train/n00000001/a.png")
    with pytest.raises(ValueError, match=r"are not those of Imagenette \(too many or missing: n00000001\)"):
        find_source("imagenette", str(tmp_path))


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """An ImageNet of 5 classes, which is taken for complete; its files are empty."""
    monkeypatch.setattr(sources, "IMAGENET_CLASSES", 5)
    for number in range(5):
        wnid = f"n0000000{number}"
        touch(tmp_path, *(f"train/{wnid}/{wnid}_{i}.JPEG" for i in range(10 + 10 * number)))
        touch(tmp_path, *(f"val/{wnid}/ILSVRC2012_val_0000000{i}.JPEG" for i in range(2)))
    return tmp_path


def test_imagenet_is_found_without_opening_a_file(imagenet):
    source = find_source("imagenet", str(imagenet))
    assert source.name == "ImageNet"
    assert source.train.classes == tuple(f"n0000000{number}" for number in range(5))
    assert sizes(source.train) == [10, 20, 30, 40, 50]
    assert sizes(source.evaluation["val"]) == [2] * 5
    assert list(source.evaluation) == ["val"]


def test_images_for_channel_search_are_split_off_for_ever(imagenet):
    source = find_source("imagenet", str(imagenet), hold_out=15)
    search = source.evaluation["search"]
    assert list(source.evaluation) == ["val", "search"]
    assert sizes(search) == [1, 2, 3, 4, 5]
    assert sizes(source.train) == [9, 18, 27, 36, 45]
    held = {search.where(i) for i in range(15)}
    trained = {source.train.where(i) for i in range(135)}
    assert not held & trained
    assert len(held | trained) == 150
    again = find_source("imagenet", str(imagenet), hold_out=15).evaluation["search"]
    assert held == {again.where(i) for i in range(15)}
    assert len(find_source("imagenet", str(imagenet), hold_out=15).evaluation["val"]) == 10


def test_holding_out_works_for_all_data():
    source = find_source("digits", "", hold_out=100)
    assert isinstance(source.evaluation["search"], DecodedImages)
    assert [len(source.train), *map(len, source.evaluation.values())] == [1338, 359, 100]


@pytest.mark.parametrize("hold_out", [-1, 1.5, 10**6])
def test_holding_out_what_cannot_be(hold_out):
    with pytest.raises(ValueError, match="hold_out"):
        find_source("digits", "", hold_out=hold_out)


@pytest.mark.parametrize(
    ("split", "use"), [("train", "networks are trained on it"), ("val", "networks are scored on it")]
)
def test_imagenet_needs_both_folders(imagenet, split, use):
    (imagenet / split).rename(imagenet / "other")
    with pytest.raises(ValueError, match=f"has no folder {split}, and {use}; expected train/<class>.*image-net.org"):
        find_source("imagenet", str(imagenet))


def test_validation_images_in_one_heap_are_explained(imagenet):
    (imagenet / "val").rename(imagenet / "other")
    touch(imagenet, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
    with pytest.raises(ValueError, match="no folder for each class, which is how the validation images of ImageNet"):
        find_source("imagenet", str(imagenet))


def test_imagenet_has_its_classes(imagenet, monkeypatch):
    touch(imagenet / "val", "n00000009/a.JPEG")
    with pytest.raises(ValueError, match="val has the class 'n00000009', which the training images lack"):
        find_source("imagenet", str(imagenet))
    (imagenet / "val" / "n00000009").rename(imagenet / "n00000009")
    (imagenet / "val" / "n00000003").rename(imagenet / "n00000003")
    with pytest.raises(ValueError, match="val has no images of n00000003; scores on ImageNet are over all classes"):
        find_source("imagenet", str(imagenet))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="has 5 classes, ImageNet has 1000; for some of them use data=folder"):
        find_source("imagenet", str(imagenet))


def test_a_folder_with_train_and_val(tmp_path):
    root = touch(tmp_path / "pets", "train/cat/1.png", "train/dog/1.png", "val/dog/2.png", "other/notes.txt")
    source = find_source("folder", str(root))
    assert (source.name, source.train.classes) == ("pets", ("cat", "dog"))
    assert source.evaluation["val"].labels.tolist() == [1]


def test_of_a_plain_folder_a_tenth_of_each_class_is_held_out(tmp_path):
    touch(tmp_path, *(f"cat/{i}.png" for i in range(20)), *(f"dog/{i}.png" for i in range(3)))
    source = find_source("folder", str(tmp_path))
    assert sizes(source.train) == [18, 2]
    assert sizes(source.evaluation["held-out"]) == [2, 1]


def test_validation_classes_that_are_not_trained_are_refused(tmp_path):
    root = touch(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/bird/2.png")
    with pytest.raises(ValueError, match="val has the class 'bird', which the training images lack"):
        find_source("folder", str(root))


@pytest.mark.parametrize(
    ("names", "has", "lacks"), [(("train/a/1.png",), "train", "val"), (("val/a/1.png",), "val", "train")]
)
def test_one_of_train_and_val_is_not_enough(tmp_path, names, has, lacks):
    with pytest.raises(ValueError, match=f"has a folder {has} but no {lacks}; expected train/<class>"):
        find_source("folder", str(touch(tmp_path, *names)))


@pytest.mark.parametrize(
    ("train", "scored", "name"),
    [
        ("Train", "Val", "val"),
        ("training", "validation", "val"),
        ("TRAIN", "valid", "val"),
        ("Training", "Testing", "test"),
    ],
)
def test_splits_of_other_spellings(tmp_path, train, scored, name):
    root = touch(tmp_path, *(f"{split}/{kind}/1.png" for split in (train, scored) for kind in ("cat", "dog")))
    source = find_source("folder", str(root))
    assert (source.train.classes, list(source.evaluation)) == (("cat", "dog"), [name])
    assert {source.train.where(i) for i in range(2)} == {str(root / train / kind / "1.png") for kind in ("cat", "dog")}


def test_of_val_and_test_val_is_scored(tmp_path):
    splits = ("train", "valid", "test")
    root = touch(tmp_path, *(f"{split}/{kind}/1.png" for split in splits for kind in ("cat", "dog")))
    source = find_source("folder", str(root))
    assert [images.where(0) for images in source.evaluation.values()] == [str(root / "valid/cat/1.png")]


def test_a_split_may_not_be_there_twice(tmp_path):
    root = touch(tmp_path, "train/cat/1.png", "training/cat/1.png", "val/cat/1.png")
    with pytest.raises(ValueError, match="has the folders train and training; keep one of them"):
        find_source("folder", str(root))


def test_classes_may_be_named_as_splits(tmp_path):
    root = touch(tmp_path, *(f"{vehicle}/{i}.png" for vehicle in ("Bus", "Train") for i in range(2)))
    assert find_source("folder", str(root)).train.classes == ("Bus", "Train")


@pytest.mark.parametrize(("first", "second"), [(("fold1", "fold2"), ("cat", "dog")), (("cat", "dog"), ("a", "b", "c"))])
def test_splits_of_unknown_names_are_not_taken_for_classes(tmp_path, first, second):
    root = touch(tmp_path, *(f"{a}/{b}/{i}.png" for a in first for b in second for i in range(2)))
    with pytest.raises(ValueError, match=f"{', '.join(first)} all hold the folders {', '.join(second)}, so either"):
        find_source("folder", str(root))


def test_one_class_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"has one class only \('cat'\); there must be two"):
        find_source("folder", str(touch(tmp_path, "cat/1.png", "cat/2.png")))


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        touch(tmp_path, f"train/{name}")
        draw(tmp_path / "val" / name)
    source = find_source("folder", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot read the image .*train/cat/1\.png: cannot identify"):
        source.train.read(0)
    assert source.evaluation["val"].read(0).shape == (3, 8, 8)


def test_grey_images_are_read_as_rgb(tmp_path):
    for name in ("a", "b"):
        for i in range(2):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (4, 4), 10 * i).save(tmp_path / name / f"{i}.png")
    (pixels, _), *_ = load(find_source("folder", str(tmp_path)).train, [[0, 1]])
    assert pixels.shape == (2, 3, 4, 4)
