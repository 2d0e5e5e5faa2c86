"""The layouts that image sets come in, and what is said when something is missing."""

import pytest

from tasks.sr.folders import Pair, find_pairs, hold_out, places_of, without
from tasks.sr.settings import SrSettings
from tasks.sr.sources import find_source


@pytest.fixture
def make(tmp_path):
    """Makes empty files below a temporary folder."""

    def touch(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path.resolve()

    return touch


def names(pairs, root):
    return [(str(p.high.relative_to(root)), p.low and str(p.low.relative_to(root))) for p in pairs]


def test_a_plain_folder_is_searched_through_and_sorted(make):
    root = make("b.JPG", "deep/er/a.png", "notes.txt", "._b.jpg", ".hidden.png")
    assert names(find_pairs(root, 2, "train"), root) == [("b.JPG", None), ("deep/er/a.png", None)]


@pytest.mark.parametrize("low_name", ["babyx3.png", "baby.png"])
@pytest.mark.parametrize(("high", "low"), [("HR", "LR_bicubic/X3"), ("GTmod12", "LRbicx3")])
def test_given_low_resolution_images_are_used(make, high, low, low_name):
    root = make(f"{high}/baby.png", f"{low}/{low_name}", f"{low[:-1]}2/babyx2.png")
    assert names(find_pairs(root, 3, "eval"), root) == [(f"{high}/baby.png", f"{low}/{low_name}")]


def test_without_low_resolution_images_of_the_scale_only_high_ones_are_found(make):
    root = make("HR/baby.png", "LR_bicubic/X2/babyx2.png")
    assert names(find_pairs(root, 4, "eval"), root) == [("HR/baby.png", None)]


def test_official_div2k(make):
    root = make(
        "DIV2K_train_HR/0001.png",
        "DIV2K_train_HR/0800.png",
        "DIV2K_valid_HR/0801.png",
        "DIV2K_train_LR_bicubic/X2/0001x2.png",
        "DIV2K_train_LR_bicubic/X2/0800x2.png",
    )
    low = "DIV2K_train_LR_bicubic/X2"
    expected = [("DIV2K_train_HR/0001.png", f"{low}/0001x2.png"), ("DIV2K_train_HR/0800.png", f"{low}/0800x2.png")]
    assert names(find_pairs(root, 2, "train"), root) == expected
    assert names(find_pairs(root / "DIV2K_train_HR", 2, "train"), root) == expected
    assert names(find_pairs(root, 2, "eval"), root) == [("DIV2K_valid_HR/0801.png", None)]


def test_merged_div2k(make):
    root = make("DIV2K_train_HR/0800.png", "DIV2K_train_HR/0801.png", "DIV2K_train_HR/0900.png")
    assert names(find_pairs(root, 2, "train"), root) == [("DIV2K_train_HR/0800.png", None)]
    assert [p.high.stem for p in find_pairs(root, 2, "eval")] == ["0801", "0900"]


def test_div2k_without_its_validation_images_is_an_error(make):
    with pytest.raises(ValueError, match="no DIV2K images 0801 to 0900"):
        find_pairs(make("DIV2K_train_HR/0001.png"), 2, "eval")


def test_images_of_one_name_belong_to_the_image_in_the_same_subfolder(make):
    root = make(*(f"HR/{clip}/0.png" for clip in "ab"), *(f"LR_bicubic/X2/{clip}/0.png" for clip in "ab"))
    expected = [(f"HR/{clip}/0.png", f"LR_bicubic/X2/{clip}/0.png") for clip in "ab"]
    assert names(find_pairs(root, 2, "eval"), root) == expected


def test_one_image_of_a_name_may_lie_in_another_subfolder(make):
    root = make("HR/a/0.png", "HR/b/1.png", "LR_bicubic/X2/0x2.png", "LR_bicubic/X2/1.png")
    expected = [("HR/a/0.png", "LR_bicubic/X2/0x2.png"), ("HR/b/1.png", "LR_bicubic/X2/1.png")]
    assert names(find_pairs(root, 2, "eval"), root) == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("HR/0.png", "LR/a/0.png", "LR/b/0.png"), "LR/a/0.png or .*LR/b/0.png may belong to .*HR/0.png"),
        (("HR/a/0.png", "HR/b/0.png", "LR/0.png"), "LR/0.png may belong to .*HR/a/0.png or .*HR/b/0.png"),
    ],
)
def test_images_that_may_belong_to_several_are_named(make, files, message):
    with pytest.raises(ValueError, match=f"{message}; put them into the same subfolders"):
        find_pairs(make(*files), 2, "eval")


@pytest.mark.parametrize(
    ("high", "low"), [("HR", "LR"), ("hr", "lr/x2"), ("own_HR", "own_LR"), ("own_hr", "own_lr_bicubic/X2")]
)
def test_folders_of_both_resolutions_in_any_case(make, high, low):
    root = make(f"{high}/a.png", f"{low}/a.png")
    for given in (root, root / high):
        assert names(find_pairs(given, 2, "eval"), root) == [(f"{high}/a.png", f"{low}/a.png")]
    assert places_of(root / high, 2) == [root / high, root / low]


def test_low_resolution_images_of_other_scales_are_not_taken(make):
    root = make("HR/a.png", "LR/X3/a.png")
    assert names(find_pairs(root, 2, "eval"), root) == [("HR/a.png", None)]


def test_div2k_s_validation_folder_alone(make):
    root = make("DIV2K_train_HR/0001.png", "DIV2K_valid_HR/0801.png", "DIV2K_valid_LR_bicubic/X2/0801x2.png")
    expected = [("DIV2K_valid_HR/0801.png", "DIV2K_valid_LR_bicubic/X2/0801x2.png")]
    assert names(find_pairs(root / "DIV2K_valid_HR", 2, "eval"), root) == expected


def test_hidden_folders_are_passed_over_and_links_are_counted(make):
    root = make("a.png", ".ipynb_checkpoints/a-checkpoint.png", "deep/.thumbs/a.png")
    (root / "again").symlink_to(root)
    (root / "broken.png").symlink_to("nothing.png")
    with pytest.warns(UserWarning, match="links that are not followed, as they lead to folders or to nothing: 2"):
        assert names(find_pairs(root, 2, "train"), root) == [("a.png", None)]
    hidden = make(".cache/photos/a.png") / ".cache" / "photos"
    assert len(find_pairs(hidden, 2, "train")) == 1


def test_both_resolutions_side_by_side_are_refused(make):
    root = make("image_SRF_2/img_1_SRF_2_HR.png", "image_SRF_2/img_1_SRF_2_LR.png")
    with pytest.raises(ValueError, match=r"img_1_SRF_2_HR.png and img_1_SRF_2_LR.png are one image in two resolutions"):
        find_pairs(root, 2, "train")


def test_folders_to_train_and_to_score_on_are_not_mixed(make):
    root = make("Train/a.png", "test/a.png")
    message = "has the folders Train and test, whose images would be mixed; give data.root=.*Train 'data.eval_sets="
    with pytest.raises(ValueError, match=message):
        find_source(SrSettings(data="folder", root=str(root)))


def test_a_missing_low_resolution_image_is_named(make):
    root = make("HR/a.png", "HR/b.png", "LR_bicubic/X2/ax2.png")
    with pytest.raises(ValueError, match="X2 has no bx2 or b for"):
        find_pairs(root, 2, "eval")


@pytest.mark.parametrize(
    ("folder", "message"),
    [("nowhere", "nowhere does not exist"), ("file.png", "is a file"), ("empty", "no images .* in .*empty")],
)
def test_a_folder_without_images_is_an_error(make, folder, message):
    root = make("file.png", "empty/notes.txt")
    with pytest.raises(ValueError, match=message) as error:
        find_pairs(root / folder, 2, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [2, 10, 11, 25])
def test_held_out_images_are_a_tenth_and_never_trained_on(make, count):
    pairs = find_pairs(make(*(f"{i:02}.png" for i in range(count))), 2, "train")
    train, held = hold_out(pairs)
    assert len(held) == -(-count // 10)
    assert sorted(train + held, key=str) == pairs
    assert without(pairs, held) == train


def test_one_image_cannot_be_split(tmp_path):
    with pytest.raises(ValueError, match="only one image"):
        hold_out([Pair(tmp_path / "a.png")])
