"""Where the benchmark images are, if they are on this machine."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def benchmark_root():
    """The folder with test/{Set5,Set14,B100}, train/{T91,BSD200} and lr_reference."""
    data = Path(os.environ.get("SLIM_DATA", REPOSITORY.parent / "shared" / "data"))
    root = data / "sr"
    if not (root / "test" / "Set5").is_dir():
        pytest.skip(f"no benchmark images in {root}; set SLIM_DATA to the folder that holds sr/test/Set5")
    return root


@pytest.fixture
def draw_image():
    """Writes a random image file and returns its pixels, [H, W, 3] or [H, W]."""

    def draw(path, height=64, width=80, *, grey=False, seed=0):
        shape = (height, width) if grey else (height, width, 3)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return pixels

    return draw
