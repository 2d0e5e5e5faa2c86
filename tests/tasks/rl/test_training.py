"""Policies train, resume exactly, and are scored the same way whatever trained them."""

import pytest
import torch

import slimlib as slim
from slimlib.rl import SlimPPO
from tasks.rl.environments import make_environments
from tasks.rl.evaluation import held_out
from tasks.rl.models import Acting, acting_cost, make_model, one_observation
from tasks.rl.settings import RlSettings
from tasks.rl.task import ReinforcementLearning
from tasks.training.checkpoint import Checkpoint
from tasks.training.recipe import Recipe
from tasks.training.run import Interrupted, TrainingRun, Watch
from tests.extent import at_night

CPU = torch.device("cpu")
ON_POLICY = {"n_steps": 16, "policy_kwargs": {"net_arch": [16, 16]}}
OFF_POLICY = {"learning_starts": 40, "batch_size": 16, "buffer_size": 300, "policy_kwargs": {"net_arch": [16, 16]}}
SHORT = {"episodes": 3, "curve_points": 4, "curve_episodes": 2, "widths": (0.25, 1.0)}
LONG_EPISODES = SHORT | {"episodes": 2, "curve_points": 2, "curve_episodes": 1}  # of 200 steps
SETTINGS = {
    "ppo": RlSettings(environments=2, hyperparameters=ON_POLICY | {"batch_size": 16, "n_epochs": 2}, **SHORT),
    "ppo normalised": RlSettings(
        environment="Pendulum-v1",
        environments=2,
        normalize=True,
        hyperparameters=ON_POLICY | {"batch_size": 16, "n_epochs": 2},
        **LONG_EPISODES,
    ),
    "ppo with noise": RlSettings(
        environment="Pendulum-v1",
        environments=2,
        hyperparameters=ON_POLICY | {"batch_size": 16, "n_epochs": 2, "use_sde": True, "sde_sample_freq": 4},
        **LONG_EPISODES,
    ),
    "a2c": RlSettings(algorithm="a2c", environments=2, hyperparameters=ON_POLICY, **SHORT),
    "dqn": RlSettings(
        algorithm="dqn", environments=1, hyperparameters=OFF_POLICY | {"target_update_interval": 20}, **SHORT
    ),
    "sac": RlSettings(
        algorithm="sac",
        environment="Pendulum-v1",
        environments=1,
        hyperparameters=OFF_POLICY | {"learning_rate": "lin_0.003"},
        **LONG_EPISODES,
    ),
}
SAMPLED = Recipe("sampled", range=(0.25, 1.0), rule="sandwich", samples=3, distill="outputs", behaviour="sampled")
TAUGHT = SAMPLED.replace(data=0.5, weight="balanced", teacher={"averaged": {"decay": 0.8, "start": 2}})
GROWING = SAMPLED.replace(rule="growing", alone=60, growth=80, distill_values=0.5)
INDIVIDUAL = Recipe("individual", kind="individual")
STEPS = 160


def trained(settings, recipe, path=None, *, stop_at=None, steps=STEPS):
    """The results; with `stop_at` the run is interrupted there, and resumed by another call."""
    asked = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) == stop_at

    warnings = []
    checkpoint = None if path is None else Checkpoint(path, "a run", every=1e9, warn=warnings.append)
    task = ReinforcementLearning(settings)
    results = task.train(recipe, TrainingRun(steps, seed=1, checkpoint=checkpoint, watch=Watch(stop=stop)))
    assert not warnings
    return results


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, SAMPLED) if name != "sac" else at_night(name, SAMPLED) for name in SETTINGS),
        ("ppo", TAUGHT),
        at_night("sac", TAUGHT),
        ("sac", GROWING),
    ],
)
def test_resumed_training_equals_uninterrupted(name, recipe, tmp_path):
    settings = SETTINGS[name]
    whole = trained(settings, recipe)
    boundaries = STEPS if name in ("dqn", "sac") else STEPS // 32
    if name == "dqn":
        boundaries //= 4
    with pytest.raises(Interrupted):
        trained(settings, recipe, tmp_path / "run.pt", stop_at=boundaries // 2)
    with pytest.raises(Interrupted):
        trained(settings, recipe, tmp_path / "run.pt", stop_at=2)
    assert trained(settings, recipe, tmp_path / "run.pt") == whole
    assert len(whole) == 2


@pytest.mark.parametrize("stop_at", range(2, STEPS // 32))
def test_a_point_of_the_curve_is_measured_once_where_rollouts_are_longer_than_its_steps(stop_at, tmp_path):
    settings = SETTINGS["ppo"].replace(curve_points=20)
    with pytest.raises(Interrupted):
        trained(settings, SAMPLED, tmp_path / "run.pt", stop_at=stop_at)
    assert trained(settings, SAMPLED, tmp_path / "run.pt") == trained(settings, SAMPLED)


def test_resumed_individual_policies_equal_uninterrupted(tmp_path):
    settings = SETTINGS["ppo"]
    whole = trained(settings, INDIVIDUAL)
    for stop_at in (3, 4):  # in the first policy, and in the second
        with pytest.raises(Interrupted):
            trained(settings, INDIVIDUAL, tmp_path / "run.pt", stop_at=stop_at)
    assert trained(settings, INDIVIDUAL, tmp_path / "run.pt") == whole
    assert [result.width for result in whole] == [0.25, 1.0]


def test_full_width_alone_trains_the_individual_policy():
    cut = Recipe("cut", range=(0.25, 1.0), rule="largest")
    narrow, full = trained(SETTINGS["ppo"], cut)
    individual = trained(SETTINGS["ppo"], INDIVIDUAL)
    assert full == individual[1]
    assert (narrow.macs, narrow.params) == (individual[0].macs, individual[0].params)


@pytest.mark.parametrize(
    "change",
    [
        {"rule": "smallest-random"},
        {"samples": 2},
        {"range": (0.5, 1.0)},
        {"distill": "outputs"},
        {"distill": "outputs", "distill_values": 0.5},
        {"data": "mean"},
        {"rule": "nonuniform"},
        {"distill": "outputs", "data": 0.5},
        {"distill": "outputs", "weight": "balanced"},
        {"distill": "outputs", "teacher": {"averaged": {"decay": 0.5}}},
        {"distill": "outputs", "teacher": "ensemble"},
        {"distill": "outputs", "smallest": {"weight": 0.5}},
        {"distill": "outputs", "largest": {"data": 0.5}},
        {"behaviour": "smallest"},
        {"behaviour": "sampled"},
        {"behaviour": 0.5},
    ],
    ids=str,
)
def test_every_key_of_a_recipe_changes_the_training(change):
    plain = {"name": "plain", "range": (0.25, 1.0), "rule": "sandwich", "samples": 3}
    if len(change) > 1:
        plain |= {"distill": "outputs"}
    settings = SETTINGS["ppo"].replace(deterministic=False, widths=(1.0,))
    weights = []
    for keys in (plain, plain | change):
        kept = []
        task, watch = (
            ReinforcementLearning(settings),
            Watch(trained=lambda _, m, kept=kept: kept.append(m.get_parameters())),
        )
        task.train(Recipe(**keys), TrainingRun(64, seed=0, watch=watch))
        weights.append(kept[0]["policy"])
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_curve_ends_with_the_score_and_has_the_points_asked_for():
    for result in trained(SETTINGS["ppo"], SAMPLED):
        curve = result.curve["CartPole-v1"]["return"]
        assert len(curve) == 4
        assert curve[-1] == [STEPS, result.metrics["CartPole-v1"]["return"]]
        assert [steps for steps, _ in curve] == sorted(steps for steps, _ in curve)
        returns = result.samples["CartPole-v1"]["return"]
        assert len(returns) == 3
        assert sum(returns) / 3 == pytest.approx(result.metrics["CartPole-v1"]["return"])


def test_evaluation_does_not_change_the_training():
    often = SETTINGS["dqn"].replace(curve_points=40)
    never = SETTINGS["dqn"].replace(curve_points=0)
    scores = [[r.samples for r in trained(settings, SAMPLED)] for settings in (often, never)]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("name", ["ppo", "dqn", "sac", "sac with noise"])
def test_cost_is_that_of_acting_alone(name):
    noise = {"hyperparameters": OFF_POLICY | {"use_sde": True}} if name == "sac with noise" else {}
    settings = SETTINGS[name.partition(" ")[0]].replace(**noise)
    environments = make_environments(settings, seed=0, count=1, training=True)
    model = make_model(settings, SAMPLED, None, environments, seed=0, device=CPU)
    # SAC: mean and deviation, which of the noise of gSDE is a parameter
    inputs, outputs = {"sac": (3, 2), "sac with noise": (3, 1)}.get(name, (4, 2))
    for width, hidden in ((0.25, 4), (1.0, 16)):
        cost = acting_cost(model, width)
        assert cost.macs == inputs * hidden + hidden * hidden + hidden * outputs
        assert cost.params == cost.macs + 2 * hidden + outputs


def test_what_is_counted_is_what_acts():
    settings = SETTINGS["ppo"]
    environments = make_environments(settings, seed=0, count=1, training=True)
    model = make_model(settings, SAMPLED, None, environments, seed=0, device=CPU)
    seen = one_observation(model.observation_space, CPU)
    slim.set_width(model.policy, 0.25)
    plain = slim.extract(model.policy, 0.25)
    assert torch.equal(
        Acting(plain)(seen), model.policy.get_distribution(seen).distribution.logits.detach()
    ) or torch.allclose(Acting(plain)(seen).softmax(1), model.policy.get_distribution(seen).distribution.probs)
    assert isinstance(model, SlimPPO)


def test_individual_policies_are_tuned_at_each_width_on_episodes_of_their_own() -> None:
    tuned = INDIVIDUAL.replace(tune={"learning_rate": ("lin_0.00001", "lin_0.01")}, tune_steps=0.5, tune_seeds=2)
    results = trained(SETTINGS["ppo"], tuned)
    for result in results:
        chosen = {"learning_rate": f"lin_{result.found['learning_rate']:f}"}
        plain = {one.width: one for one in trained(SETTINGS["ppo"].tuned(chosen), INDIVIDUAL)}
        assert result.metrics == plain[result.width].metrics
        assert result.found["trials"] == 4
    assert set(held_out(50)).isdisjoint(held_out(50, "tuning"))


def test_a_slimmable_policy_is_tuned_by_the_mean_over_its_widths() -> None:
    tuned = SAMPLED.replace(tune={"learning_rate": (1e-5, 1e-2)}, tune_steps=0.5)
    results = trained(SETTINGS["a2c"], tuned)
    (rate,) = {result.found["learning_rate"] for result in results}
    assert [r.metrics for r in results] == [
        r.metrics for r in trained(SETTINGS["a2c"].tuned({"learning_rate": rate}), SAMPLED)
    ]
