"""A kept model is the trained one, with the statistics that its observations were normalised by."""

import io

import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.vec_env import unwrap_vec_normalize

import slimlib as slim
from tasks.rl.environments import make_environments
from tasks.rl.settings import RlSettings
from tasks.rl.task import ReinforcementLearning
from tasks.rl.trained_models import load_model, statistics
from tasks.rl.video import CAPTION
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch

SETTINGS = RlSettings(
    environment="Pendulum-v1",
    environments=2,
    normalize=True,
    hyperparameters={"n_steps": 16, "batch_size": 16, "policy_kwargs": {"net_arch": [16, 16]}},
    episodes=2,
    curve_points=0,
    widths=(0.25, 0.5, 1.0),
)
RECIPE = Recipe("sandwich", range=(0.25, 1.0), rule="sandwich", samples=2)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The task, the trained model, and where it was written."""
    task, path, trained = ReinforcementLearning(SETTINGS), tmp_path_factory.mktemp("kept") / "abc-0", []

    def keep(width, model):
        assert width is None
        task.keep(model, RECIPE, path)
        trained.append(model)

    task.train(RECIPE, TrainingRun(96, seed=0, watch=Watch(trained=keep)))
    return task, trained[0], path


def test_kept_model_acts_as_the_trained_one_did(kept):
    _, model, path = kept
    again = load_model(SETTINGS, path)
    seen = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for width in (0.25, 0.7, 1.0):
        for each in (model, again):
            slim.set_width(each.policy, width)
        np.testing.assert_array_equal(*[m.predict(seen, deterministic=True)[0] for m in (model, again)])


def test_statistics_come_back_with_it(kept):
    _, model, path = kept
    fresh = statistics(path, make_environments(SETTINGS, seed=5, count=1, training=False))
    ours, theirs = unwrap_vec_normalize(fresh), unwrap_vec_normalize(model.env)
    seen = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_array_equal(ours.normalize_obs(seen), theirs.normalize_obs(seen))
    assert not np.array_equal(ours.normalize_obs(seen), seen)


def test_film_is_made_only_on_request(kept, monkeypatch):
    _, _, path = kept
    monkeypatch.setattr("tasks.rl.trained_models.STEPS", 8)
    assert ReinforcementLearning(SETTINGS).show(RECIPE, path) is None
    files = ReinforcementLearning(SETTINGS.replace(video=True)).show(RECIPE, path).files
    picture = Image.open(io.BytesIO(files["video.gif"]))
    assert picture.n_frames == 3  # the first, and every fourth of eight
    assert picture.width == 3 * (picture.height - CAPTION), "three squares side by side"
