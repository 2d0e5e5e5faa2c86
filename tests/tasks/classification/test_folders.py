"""What is found in folders and zips of class folders, and what is said when something is missing."""

import os
import zipfile

import pytest

from tasks.classification.encoded import FileImages, ZipImages
from tasks.classification.folders import in_words, list_folder, list_zip
from tests.tasks.classification.small_files import draw, touch


def found(listing):
    return [(os.fsdecode(path), label) for path, label in zip(listing.paths.tolist(), listing.labels, strict=True)]


def test_a_folder_a_class_sorted_by_name(tmp_path):
    root = touch(tmp_path, "dog/b.PNG", "cat/2.jpg", "cat/10.JPEG", "dog/a.webp")
    listing = list_folder(root)
    assert listing.classes == ("cat", "dog")
    assert found(listing) == [("cat/10.JPEG", 0), ("cat/2.jpg", 0), ("dog/a.webp", 1), ("dog/b.PNG", 1)]


def test_hidden_files_and_what_is_no_image_are_passed_over(tmp_path):
    root = touch(
        tmp_path, "cat/a.png", "cat/.b.png", "cat/notes.txt", "cat/png", ".git/a.png", "labels.csv", "loose.png"
    )
    (root / "cat/folder.png").mkdir()
    assert found(list_folder(root)) == [("cat/a.png", 0)]


def test_a_class_may_have_folders_inside(tmp_path):
    root = touch(tmp_path, "cat/images/a.png", "cat/.hidden/b.png", "cat/c.png")
    assert [path for path, _ in found(list_folder(root))] == ["cat/c.png", "cat/images/a.png"]


def test_links_to_classes_and_images_are_followed_but_not_in_circles(tmp_path):
    target = touch(tmp_path / "elsewhere", "cats/a.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "cat").symlink_to(target / "cats")
    (target / "cats" / "again").symlink_to(target / "cats")
    (target / "cats" / "b.png").symlink_to(target / "cats" / "a.png")
    (target / "cats" / "broken.png").symlink_to("nothing.png")
    with pytest.warns(UserWarning, match="root: links that are not followed, as they lead to folders or to nothing: 2"):
        assert [path for path, _ in found(list_folder(root))] == ["cat/a.png", "cat/b.png"]


def test_names_that_are_not_ascii(tmp_path):
    draw(tmp_path / "Kätzchen" / "schläft 1.png")
    listing = list_folder(tmp_path)
    images = FileImages("cats", listing.classes, listing.labels, folder=tmp_path, paths=listing.paths)
    assert images.classes == ("Kätzchen",)
    assert images.read(0).shape == (3, 8, 8)
    assert images.where(0) == str(tmp_path / "Kätzchen" / "schläft 1.png")


def test_labels_follow_the_classes_that_are_given(tmp_path):
    listing = list_folder(touch(tmp_path, "b/1.png", "d/1.png"), ["d", "c", "b"])
    assert listing.classes == ("d", "c", "b")
    assert found(listing) == [("b/1.png", 2), ("d/1.png", 0)]


def test_unknown_classes_are_named(tmp_path):
    with pytest.raises(ValueError, match="has the class 'bird' and 1 more, which the training images lack"):
        list_folder(touch(tmp_path, "cat/1.png", "bird/1.png", "cow/1.png"), ["cat", "dog"])


def test_a_class_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"the class 'dog' in .* has no images \(avif, bmp, gif.*remove its folder"):
        list_folder(touch(tmp_path, "cat/1.png", "dog/notes.txt"))


def test_images_without_class_folders_are_explained(tmp_path):
    with pytest.raises(ValueError, match=r"images \(x1.JPEG.*no folder for each class.*move each.*/<class>/x1.JPEG"):
        list_folder(touch(tmp_path, "x1.JPEG"))


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "nowhere does not exist"), ("file.txt", "is a file"), ("empty", "expected .*empty/<class>/<image>")],
)
def test_a_place_without_images(tmp_path, place, message):
    touch(tmp_path, "file.txt", "empty/notes.txt")
    with pytest.raises(ValueError, match=message):
        list_folder(tmp_path / place)


@pytest.fixture
def archive(tmp_path):
    """A zip of two classes, whose images differ."""
    for number, name in enumerate(["dog/1.png", "cat/2.png", "cat/1.png"]):
        draw(tmp_path / name, seed=number)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.mkdir("val")
        for name in ("dog/1.png", "cat/2.png", "cat/1.png"):
            opened.write(tmp_path / name, f"val/{name}")
        for name in ("val/notes.txt", "loose.png", "__MACOSX/cat/1.png", "val/cat/._1.png"):
            opened.writestr(name, b"not an image")
    return tmp_path / "a.zip"


def test_a_zip_is_read_in_place(archive):
    listing = list_zip(archive)
    assert listing.classes == ("cat", "dog")
    assert found(listing) == [("val/cat/1.png", 0), ("val/cat/2.png", 0), ("val/dog/1.png", 1)]
    members = [path for path, _ in found(listing)]
    images = ZipImages("pets", listing.classes, listing.labels, archive=archive, members=members)
    folder = list_folder(archive.parent)
    files = FileImages("pets", folder.classes, folder.labels, folder=archive.parent, paths=folder.paths)
    assert all(images.read(i).equal(files.read(i)) for i in range(3))


def test_a_damaged_member_is_named(archive):
    listing = list_zip(archive)
    images = ZipImages("pets", listing.classes, listing.labels, archive=archive, members=["val/notes.txt"])
    with pytest.raises(ValueError, match=r"cannot read the image .*a\.zip/val/notes\.txt: cannot identify"):
        images.read(0)
    data = bytearray(archive.read_bytes())
    data[60:90] = bytes(30)
    archive.write_bytes(data)
    images = ZipImages("pets", listing.classes, listing.labels, archive=archive, members=["val/dog/1.png"])
    with pytest.raises(ValueError, match=r"cannot read the image .*a\.zip/val/dog/1\.png"):
        images.read(0)


def test_a_truncated_zip_is_an_error(archive):
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cannot read the archive .*a\.zip.*download it again"):
        list_zip(archive)


def test_long_lists_are_cut():
    assert in_words("abc") == "a, b, c"
    assert in_words("abcde") == "a, b, c and 2 more"
