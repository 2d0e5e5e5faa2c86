"""The crops that people look at are the pixels that were scored."""

from __future__ import annotations

import io
import json
import math

import numpy as np
from PIL import Image

from tasks.sr.photos import EVALUATION, held_out_photos
from tasks.sr.settings import SrSettings
from tasks.sr.showcase import DETAIL
from tasks.sr.task import SuperResolution
from tests.tasks.sr.test_task import SMALL, Repeat


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_every_crop_of_the_list_is_a_file_and_the_original_is_the_photograph_itself():
    files = SuperResolution(SrSettings(**SMALL)).showcase({"width 0.5": Repeat().eval()}).files
    index = json.loads(files["crops/index.json"])
    assert [image["credit"] for image in index["images"]] == [photo.credit for photo in EVALUATION]
    named = [crop["file"] for image in index["images"] for crop in image["crops"]]
    assert {*named, "crops/index.json"} == set(files) and len(named) == 3 * len(EVALUATION)
    assert list(files)[-1] == "crops/index.json"
    for photo, pair in zip(EVALUATION, held_out_photos(), strict=True):
        whole = np.asarray(Image.open(pair.high).convert("RGB"))
        top, left = (int(f * size) for f, size in zip(photo.corner, whole.shape, strict=False))
        expected = whole[top : top + DETAIL, left : left + DETAIL]
        assert np.array_equal(pixels(files[f"crops/{photo.name}/original.png"]), expected)


def test_the_list_has_a_score_for_all_but_the_original():
    files = SuperResolution(SrSettings(**SMALL)).showcase({"width 0.5": Repeat().eval()}).files
    for image in json.loads(files["crops/index.json"])["images"]:
        assert [crop["label"] for crop in image["crops"]] == ["original", "bicubic", "width 0.5"]
        first, *others = (crop["psnr"] for crop in image["crops"])
        assert first is None and all(math.isfinite(score) for score in others)


def test_crops_of_networks_differ_from_bicubic():
    files = SuperResolution(SrSettings(**SMALL)).showcase({"width 0.5": Repeat().eval()}).files
    name = EVALUATION[0].name
    assert not np.array_equal(pixels(files[f"crops/{name}/bicubic.png"]), pixels(files[f"crops/{name}/width-0.5.png"]))
