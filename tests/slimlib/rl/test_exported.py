"""A narrow policy leaves for other runtimes by the recipes in the documentation of stable-baselines3."""

import warnings

import numpy as np
import pytest
import torch
from stable_baselines3.common.utils import set_random_seed
from torch import nn

import slimlib as slim
from tests.slimlib.rl.models import KINDS, model, observations, same_parameters
from tests.slimlib.rl.test_policies import made, seen_by

onnxruntime = pytest.importorskip("onnxruntime")


class Exportable(nn.Module):
    """The wrapper of the recipes: the likeliest action."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, observation):
        return self.policy(observation, deterministic=True)


def exportable(name):
    """A wrapped policy, in SAC its actor, and observations."""
    slimmable = made(name) if "images" in name else model(name)
    seen = seen_by(slimmable, 1) if "images" in name else observations(slimmable, 1)
    policy = slimmable.policy
    return slimmable, Exportable(getattr(policy, "actor", policy)).eval(), torch.from_numpy(seen)


def actions(outputs):
    first = outputs[0] if isinstance(outputs, tuple | list) else outputs
    return np.asarray(first.detach() if isinstance(first, torch.Tensor) else first)


def onnx(net, seen, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (seen,), path, input_names=["input"], verbose=False, **options)
    return lambda x: onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})


def jit(net, seen, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.freeze(torch.jit.trace(net, seen))
        if not any(isinstance(module, nn.Conv2d) for module in net.modules()):  # torch cannot save those optimised
            traced = torch.jit.optimize_for_inference(traced)
    torch.jit.save(traced, path)
    return torch.jit.load(path)


FORMS = {
    "onnx": lambda net, seen, path: onnx(net, seen, path, opset_version=17, dynamo=False),
    "jit": jit,
}
NAMES = [name for name in KINDS if name != "A2C"] + ["images, shared", "images, DQN", "images, SAC"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_exported_policy_acts_as_the_narrow_one(name, form, tmp_path):
    slimmable, net, seen = exportable(name)
    for width in (0.25, 1.0):
        slim.set_width(slimmable.policy, width)
        run = FORMS[form](net, seen, str(tmp_path / f"{width}"))
        other = seen.flip(-1).contiguous()
        np.testing.assert_allclose(actions(run(other)), actions(net(other)), rtol=1e-4, atol=1e-5)


def test_exporter_of_torch_export_takes_the_narrow_q_network(tmp_path):
    """The recipe without an option, as torch reads it now; policies that make a distribution it refuses, plain too."""
    slimmable, net, seen = exportable("DQN")
    slimmable.predict(seen.numpy())  # from then on it keeps which modules follow its mode
    slim.set_width(slimmable.policy, 0.25)
    run = onnx(net, seen, str(tmp_path / "model"))
    np.testing.assert_array_equal(actions(run(seen)), actions(net(seen)))


@pytest.mark.parametrize("name", [pytest.param("PPO", marks=pytest.mark.nightly), "SAC"])
def test_export_writes_what_the_narrow_policy_does(name, tmp_path):
    slimmable = model(name)
    seen = observations(slimmable)
    slim.export(slimmable.policy, tmp_path / "policy", [0.25], (torch.from_numpy(seen), True), formats=["onnx"])
    (file,) = (tmp_path / "policy").glob("*.onnx")
    acted = onnxruntime.InferenceSession(file).run(None, {"obs": seen})[0]
    expected = slimmable.extract(0.25).policy(torch.from_numpy(seen), deterministic=True)
    np.testing.assert_allclose(acted, actions(expected), rtol=1e-4, atol=1e-5)


def test_policy_trains_on_after_the_export(tmp_path):
    trained = []
    for export in (True, False):
        slimmable = model("PPO")
        if export:
            slim.set_width(slimmable.policy, 0.5)
            net = Exportable(slimmable.policy).eval()
            jit(net, torch.from_numpy(observations(slimmable, 1)), str(tmp_path / "policy"))
            slim.set_width(slimmable.policy, 1.0)
        set_random_seed(0)
        trained.append(slimmable.learn(32))
    assert same_parameters(*trained)
