"""What the widths of a policy learn from: lessons of the algorithms, and their averaged teachers in files."""

from functools import cache

import pytest
import torch
from stable_baselines3 import PPO

import slimlib as slim
from tests.slimlib.rl.models import model, same_parameters

AVERAGED = {"data": 0.5, "weight": "balanced", "teacher": {"averaged": {"decay": 0.9}}}
RANGE = {"widths": slim.WidthRange(0.25, 1.0), "rule": "sandwich", "samples": 3}


@cache
def usual(name):
    """Trained without a lesson of its own."""
    return model(name, **RANGE).learn(48)


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
def test_a_lesson_at_its_defaults_weighs_a_tenth(name):
    lesson = {"data": 0, "weight": 0.1, "teacher": "largest"}
    assert same_parameters(usual(name), model(name, **RANGE, lesson=lesson).learn(48))


@pytest.mark.parametrize("name", ["PPO", "A2C", "DQN", "SAC"])
@pytest.mark.parametrize("lesson", [{"data": 0.5}, {"weight": 1.0}, {"teacher": {"averaged": {"decay": 0.9}}}], ids=str)
def test_every_key_of_a_lesson_changes_the_training(name, lesson):
    # An average differs from the network by the second update at the earliest.
    assert not same_parameters(usual(name), model(name, **RANGE, lesson=lesson).learn(48))


@pytest.mark.parametrize("name", ["PPO", "SAC"])
def test_an_averaged_teacher_goes_into_the_file_and_comes_back(name, tmp_path):
    trained = model(name, **RANGE, lesson=AVERAGED).learn(48)
    trained.save(tmp_path / "model.zip")
    loaded = type(trained).load(tmp_path / "model.zip")
    torch.testing.assert_close(loaded.rule.state_dict(), trained.rule.state_dict(), rtol=0, atol=0)
    assert loaded.rule.state_dict()["averages"][0]["steps"] > 0
    assert loaded.rule.lessons.between.data == 0.5 and loaded.rule.lessons.between.weight == "balanced"
    assert same_parameters(loaded, trained)
    if name == "PPO":
        PPO.load(tmp_path / "model.zip")  # which knows nothing of lessons


def test_critics_of_narrow_actors_that_learn_from_the_data_are_trained():
    def critics(**more):
        made = model("SAC", **RANGE, **more).learn(48)
        seen = {}
        made.critic_rule.backward = _noting(made.critic_rule.backward, seen)
        made.train(1, 16)
        return seen

    assert critics() == {"widths": 1}
    assert critics(lesson={"data": 0.5}) == {"widths": 3}
    assert critics(distill=False) == {"widths": 3}
    assert critics(distill_values=0.5) == {"widths": 3}


def _noting(backward, seen):
    def noting(*args, **kwargs):
        losses = backward(*args, **kwargs)
        seen["widths"] = len(losses)
        return losses

    return noting


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lesson": {"dta": 0.5}}, "dta"),
        ({"lesson": {"data": "half"}}, "data='half' must be a number"),
        ({"lesson": {"teacher": "averagd"}}, "did you mean 'averaged'?"),
        ({"distill": False, "lesson": {"weight": 0.5}}, "belong to distillation"),
        ({"rule_options": {"sample": 3}}, "unknown parameter of rule 'sandwich': 'sample'; did you mean 'samples'?"),
    ],
)
def test_impossible_lessons_are_refused(changes, says):
    with pytest.raises(ValueError) as error:
        model("PPO", **RANGE, **changes)
    assert says in str(error.value)
