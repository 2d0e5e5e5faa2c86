"""CIFAR-10 in each of its forms, and each way that one can be broken."""

import pickle

import numpy as np
import pytest
import torch

from tasks.classification import cifar10
from tasks.classification.cifar10 import FORMS, read_cifar10
from tests.slimlib.core.test_unpickling import Asks
from tests.tasks.classification.small_files import CifarFiles, write_tar

LOSSLESS = [form for form in FORMS if not form.endswith(".npz")]


@pytest.fixture
def small(monkeypatch):
    """A CIFAR-10 of 23 images, which is taken for complete."""
    monkeypatch.setattr(cifar10, "COUNTS", CifarFiles.counts)
    return CifarFiles()


def equal(images, files, split):
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == files.labels[split].tolist()
    assert images.side == 32
    assert len(images) == CifarFiles.counts[split]
    read = torch.stack([images.read(i) for i in range(len(images))])
    return torch.equal(read, torch.from_numpy(files.pixels[split]))


@pytest.mark.parametrize("form", LOSSLESS)
def test_every_form_holds_the_same(tmp_path, small, form):
    small.write(tmp_path, form)
    train, test = read_cifar10(tmp_path)
    assert train.name == test.name == "CIFAR-10"
    assert train.classes[:2] == ("airplane", "automobile")
    assert equal(train, small, "train")
    assert equal(test, small, "test")


@pytest.mark.parametrize("form", FORMS)
def test_the_root_may_be_the_file_itself(tmp_path, small, form):
    train, test = read_cifar10(small.write(tmp_path, form))
    assert (len(train), len(test)) == (20, 3)


def test_python_3_pickles_too(tmp_path, small):
    write_tar(tmp_path / "mine.tar.gz", small.files("python"))
    assert equal(read_cifar10(tmp_path / "mine.tar.gz")[0], small, "train")


def test_the_jpeg_copy_says_that_it_is_one(tmp_path, small):
    small.write(tmp_path, "cifar10_jpg.npz")
    train, test = read_cifar10(tmp_path)
    assert train.name == test.name == "CIFAR-10 (JPEG-recompressed copy)"
    assert not equal(train, small, "train")
    error = train.read(3).float() - torch.from_numpy(small.pixels["train"][3]).float()
    assert error.abs().mean() < 60  # of noise, which JPEG keeps badly


def test_original_pixels_are_preferred(tmp_path, small):
    for form in ("cifar10_jpg.npz", "cifar-10-binary.tar.gz"):
        small.write(tmp_path, form)
    assert read_cifar10(tmp_path)[0].name == "CIFAR-10"


def test_none_is_an_error_that_says_where_to_get_it(tmp_path):
    with pytest.raises(ValueError, match=r"holds no CIFAR-10 .*cifar-10-python\.tar\.gz of https://www\.cs\.toronto"):
        read_cifar10(tmp_path)


@pytest.mark.parametrize("form", [form for form in FORMS if "." in form])
@pytest.mark.parametrize("left", [0, 100, -1000])
def test_a_truncated_file_is_named(tmp_path, small, form, left):
    path = small.write(tmp_path, form)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{form} ?.*again") as error:
        read_cifar10(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_batch_is_named(tmp_path, small):
    files = small.files("python")
    del files["data_batch_4"]
    write_tar(tmp_path / "cifar-10-python.tar.gz", files)
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz lacks data_batch_4"):
        read_cifar10(tmp_path)


def test_a_hostile_batch_is_refused_and_nothing_runs(tmp_path, small):
    made = tmp_path / "made"
    hostile = pickle.dumps({b"data": Asks(exec, f"import os; os.mkdir({str(made)!r})")})
    write_tar(tmp_path / "cifar-10-python.tar.gz", small.files("python") | {"data_batch_2": hostile})
    with pytest.raises(ValueError, match=r"python\.tar\.gz: data_batch_2 was refused: it asks for .*exec"):
        read_cifar10(tmp_path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "has no 'data'"),
        ({b"labels": [0]}, "has no 'data'"),
        ({b"data": np.zeros((1, 3072)), b"labels": [0]}, "has no 'data'"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [0]}, "has no 'data'"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "has no 'labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [0, 1]}, "has no 'labels'"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}, "has no 'labels'"),
        ({b"data": np.zeros((4, 3072), np.uint8), b"labels": [0, 1, 10, 2]}, "train labels from 0 to 10"),
        ({b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2]}, "has 19 train images; CIFAR-10 has 20"),
    ],
)
def test_other_contents_are_named(tmp_path, small, batch, message):
    write_tar(tmp_path / "cifar-10-python.tar.gz", small.files("python") | {"data_batch_1": pickle.dumps(batch)})
    with pytest.raises(ValueError, match=rf"cifar-10-python\.tar\.gz.*{message}"):
        read_cifar10(tmp_path)


def test_a_binary_batch_of_half_an_image_is_named(tmp_path, small):
    folder = small.write(tmp_path, "cifar-10-batches-bin")
    (folder / "data_batch_5.bin").write_bytes(bytes(4000))
    with pytest.raises(ValueError, match=r"data_batch_5\.bin has 4000 bytes, not a multiple of 3073"):
        read_cifar10(tmp_path)


def test_offsets_that_do_not_fit_are_named(tmp_path, small):
    path = small.write(tmp_path, "cifar10_jpg.npz")
    arrays = dict(np.load(path))
    np.savez(path, **(arrays | {"train_offsets": arrays["train_offsets"][:-1]}))
    with pytest.raises(ValueError, match=r"cifar10_jpg\.npz is damaged: its train_offsets do not fit"):
        read_cifar10(tmp_path)


def test_arrays_that_need_a_pickle_are_refused(tmp_path, small):
    path = small.write(tmp_path, "cifar10_jpg.npz")
    np.savez(path, **(dict(np.load(path)) | {"train_labels": np.array([Asks(exec, "1/0")] * 20)}))
    with pytest.raises(ValueError, match=r"cannot read CIFAR-10 from .*cifar10_jpg\.npz: Object arrays"):
        read_cifar10(tmp_path)


def test_the_true_counts_are_asked_for(tmp_path):
    CifarFiles().write(tmp_path, "cifar-10-batches-py")
    with pytest.raises(ValueError, match="has 20 train images; CIFAR-10 has 50000"):
        read_cifar10(tmp_path)
