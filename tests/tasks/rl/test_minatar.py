"""MinAtar's games are images whose episodes are decided by a seed, and its network slims."""

import numpy as np
import pytest

pytest.importorskip("minatar")

from tasks.rl import environments
from tasks.rl.environments import check_environment, find_environment, make_environments, play
from tasks.rl.minatar import MinAtarCNN
from tasks.rl.replay import environments_state, restore_environments
from tasks.rl.settings import RlSettings
from tasks.rl.task import ReinforcementLearning
from tasks.rl.trained_models import load_model
from tasks.training.recipe import Recipe
from tasks.training.run import TrainingRun, Watch

GAMES = {"Breakout": 4, "Asterix": 4, "Freeway": 7, "Seaquest": 10, "SpaceInvaders": 6}
NETWORK = {"features_extractor_class": "MinAtarCNN", "net_arch": []}


def settings(game="Breakout", **changes):
    given = {
        "environment": f"MinAtar/{game}-v1",
        "policy": "CnnPolicy",
        "environments": 2,
        "hyperparameters": {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "policy_kwargs": NETWORK},
        "widths": (0.25, 1.0),
        "episodes": 2,
        "curve_points": 0,
    }
    return RlSettings(**given | changes)


def walk(made, steps=60):
    """What is seen in some steps of actions that another generator draws."""
    draws = np.random.default_rng(0)
    seen = [made.reset()]
    for _ in range(steps):
        actions = draws.integers(made.action_space.n, size=made.num_envs)
        seen.append(made.step(actions)[0])
    return np.stack(seen)


@pytest.mark.parametrize("game", GAMES)
def test_observations_are_images_of_objects(game):
    check_environment(settings(game))
    made = make_environments(settings(game), seed=0, count=2, training=True)
    seen = walk(made)
    assert seen.shape == (61, 2, GAMES[game], 10, 10)
    assert seen.dtype == np.uint8
    assert set(np.unique(seen)) == {0, 255}
    made.close()


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_decides_the_episode(game):
    walks = []
    for seed in (3, 3, 4):
        made = make_environments(settings(game), seed=seed, count=1, training=False)
        walk(made, 20)  # what was before, such as the last action, does not matter
        made.seed(seed)
        walks.append(walk(made))
        made.close()
    assert (walks[0] == walks[1]).all()
    assert (walks[0] != walks[2]).any()


@pytest.mark.parametrize("game", GAMES)
def test_environments_come_back_where_they_were(game):
    made = make_environments(settings(game), seed=0, count=2, training=True)
    walk(made, 150)
    state = environments_state(made)
    again = make_environments(settings(game), seed=0, count=2, training=True)
    restore_environments(again, state)
    for _ in range(50):
        ours, theirs = (each.step(np.array([0, 1])) for each in (made, again))
        assert (ours[0] == theirs[0]).all()
        assert (ours[1] == theirs[1]).all()


def test_returns_are_those_of_whole_episodes():
    made = make_environments(settings(), seed=0, count=2, training=False)
    returns = play(lambda seen: np.zeros(len(seen), int), made, [1, 2, 3], limit=500)
    assert len(returns) == 3
    assert all(value == int(value) >= 0 for value in returns)


def test_policy_trains_is_scored_at_every_width_and_loads(tmp_path):
    task, models = ReinforcementLearning(settings()), []
    recipe = Recipe(name="sandwich", range=(0.25, 1.0), rule="sandwich", samples=2)
    results = task.train(recipe, TrainingRun(64, seed=0, watch=Watch(trained=lambda _, m: models.append(m))))
    assert [result.width for result in results] == [0.25, 1.0]
    assert results[0].macs < results[1].macs / 8
    task.keep(models[0], recipe, tmp_path / "model")
    loaded = load_model(task.settings, tmp_path / "model")
    assert isinstance(loaded.policy.features_extractor, MinAtarCNN)


def test_missing_package_is_named(monkeypatch):
    real = environments.find_spec
    monkeypatch.setattr(environments, "find_spec", lambda name: None if name == "minatar" else real(name))
    for name in ("MinAtar/Breakout-v1", "MinAtar/Nothing-v1"):
        with pytest.raises(ValueError, match=r"needs the package minatar: pip install 'slimlib\[minatar\]'"):
            find_environment(name)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="unknown environment 'MinAtar/Breakot-v1'; did you mean MinAtar/Breakout-v"):
        find_environment("MinAtar/Breakot-v1")
