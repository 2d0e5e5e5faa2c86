"""extract, freeze, save and load: the same outputs as set_width, in separate objects and files."""

import copy
import io
import json
import pickle
import re
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves

import slimlib as slim
from slimlib.core.norms.batchnorm import UncalibratedWidth
from tests.converting import made_slimmable
from tests.networks import MLP, NETWORKS, MobileNet, image

WIDTHS = (1.0, 0.7, 0.5, 0.25)


def slimmed(name):
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    for tensor in dense.state_dict().values():
        if tensor.is_floating_point():  # no zeros and ones that would hide a fault
            tensor.add_(torch.rand(tensor.shape) * 0.1)
    net = made_slimmable(name, dense, args).eval()
    slim.calibrate(net, [args], WIDTHS)
    return net, args


def run(net, args):
    with torch.no_grad():
        return [t for t in tree_leaves(net(*args)) if isinstance(t, torch.Tensor)]


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b), f"largest difference {(a - b).abs().max():.2g}"


@pytest.mark.parametrize("name", NETWORKS)
def test_extract_equals_set_width_bit_for_bit(name):
    net, args = slimmed(name)
    for width in WIDTHS:
        plain = slim.extract(net, width)
        slim.set_width(net, width)
        assert_equal(run(plain, args), run(net, args))
        assert not any(
            type(m).__module__.startswith("slimlib") or type(m).__name__.startswith("Slim") for m in plain.modules()
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_freeze_equals_set_width(name):
    net, args = slimmed(name)
    served = slim.freeze(net, WIDTHS)
    for width in WIDTHS:
        slim.set_width(served, width)
        slim.set_width(net, width)
        assert_equal(run(served, args), run(net, args))


@pytest.mark.parametrize("name", ["concatenating", "wdsr", "shufflenet", "shared", "batch_norm_no_affine"])
def test_saved_and_loaded_equals(name, tmp_path):
    net, args = slimmed(name)
    slim.save(net, tmp_path / "net.safetensors", recipe={"rule": "sandwich", "steps": 7})
    dense, _ = NETWORKS[name]()
    again = slim.load(tmp_path / "net.safetensors", into=dense).eval()
    assert slim.read_recipe(tmp_path / "net.safetensors") == {"rule": "sandwich", "steps": 7}
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    for width in WIDTHS:
        slim.set_width(again, width)
        slim.set_width(net, width)
        assert_equal(run(again, args), run(net, args))


def test_load_into_a_slimmable_network_equals(tmp_path):
    net, args = slimmed("mobilenet")
    slim.save(net, tmp_path / "net.safetensors")
    other = slim.convert(MobileNet(), image())
    slim.set_width(other, 0.5)
    slim.load(tmp_path / "net.safetensors", into=other).eval()
    slim.set_width(other, 0.5)
    slim.set_width(net, 0.5)
    assert_equal(run(other, args), run(net, args))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, AveragedModel])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_load_into_what_wraps_the_network_or_has_no_numbers_equals(wrap, device, tmp_path):
    net, args = slimmed("mobilenet")
    slim.save(net, tmp_path / "net.safetensors")
    with torch.device(device):
        dense = MobileNet()
    wrapped = dense if device == "meta" else wrap(slim.convert(dense, image()))
    assert slim.load(tmp_path / "net.safetensors", into=wrapped) is wrapped
    for width in (0.5, 1.0):
        slim.set_width(net, width)
        slim.set_width(wrapped.eval(), width)
        inner = dense if device == "meta" else wrapped.module if hasattr(wrapped, "module") else wrapped._orig_mod
        assert_equal(run(inner, args), run(net, args))


@pytest.mark.parametrize(
    "use",
    [
        lambda net, x, path: slim.extract(net, 0.5, example=x),
        lambda net, x, path: slim.freeze(net, [0.5], example=x),
        lambda net, x, path: slim.export(net, path / "net", [0.5], x, formats=["torch"]),
    ],
    ids=["extract", "freeze", "export"],
)
def test_outputs_that_no_number_tells_apart_are_refused(use, tmp_path):
    net = slim.convert(MLP(), torch.randn(2, 8))
    with pytest.raises(ValueError, match="no finite number on the example; give one on which it does"):
        use(net, torch.full((2, 8), torch.nan), tmp_path)
    assert not list(tmp_path.iterdir())


def test_switchable_network_saves_its_private_parameters(tmp_path):
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image(), widths=slim.Switches(0.25, 1.0), norm="switchable")
    for p in net.parameters():
        p.data.add_(torch.rand_like(p))
    slim.save(net, tmp_path / "net.safetensors")
    again = slim.load(tmp_path / "net.safetensors", into=MobileNet())
    assert again.state_dict().keys() == net.state_dict().keys()
    for width in (0.25, 1.0):
        x = image()[0]
        slim.set_width(net.eval(), width)
        slim.set_width(again.eval(), width)
        assert torch.equal(net(x), again(x))
        assert torch.equal(slim.extract(net, width)(x), net(x))


def test_extracted_network_runs_where_slimlib_is_not(tmp_path):
    net = slim.convert(
        nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 4, 1)), torch.randn(2, 3, 8, 8)
    )
    net.eval()
    slim.calibrate(net, [torch.randn(4, 3, 8, 8)], [0.5])
    plain, x = slim.extract(net, 0.5), torch.randn(1, 3, 8, 8)
    torch.save({"net": plain, "x": x, "y": plain(x).detach()}, tmp_path / "plain.pt")
    code = (
        "import sys; sys.modules['slimlib'] = None\n"
        f"import torch; d = torch.load({str(tmp_path / 'plain.pt')!r}, weights_only=False)\n"
        "assert torch.equal(d['net'](d['x']), d['y'])\n"
        "torch.save(d['net'], __import__('io').BytesIO())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_extract_shares_nothing_and_checks_itself():
    net, args = slimmed("mobilenet")
    plain = slim.extract(net, 0.5, example=args)
    before = run(plain, args)
    for p in net.parameters():
        p.data.zero_()
    assert_equal(run(plain, args), before)


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(50, 32), nn.Linear(32, 32), nn.Linear(32, 50, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.mix(self.embed(tokens)).tanh())


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_tied_parameters_stay_tied(width):
    tokens = torch.randint(0, 50, (2, 7))
    net = slim.convert(Language(), tokens)
    plain = slim.extract(net, width, example=tokens)
    assert plain.out.weight is plain.embed.weight
    assert sum(p.numel() for p in plain.parameters()) == slim.cost(net, tokens, width=width).params


class Probabilities(nn.Module):
    """More than the slimmable network that it holds."""

    def __init__(self, net):
        super().__init__()
        self.net, self.mix = net, nn.Linear(10, 10)

    def forward(self, x):
        return self.mix(self.net(x * 3)).softmax(-1)


def test_a_module_that_holds_the_network_is_copied_with_it():
    net, args = slimmed("mobilenet")
    whole = Probabilities(net).eval()
    frozen = slim.freeze(whole, WIDTHS, args)
    for width in WIDTHS:
        for module in (whole, frozen):
            slim.set_width(module, width)
        expected = run(whole, args)
        assert_equal(run(slim.extract(whole, width, args), args), expected)
        torch.testing.assert_close(run(frozen, args), expected)


def test_only_the_network_itself_is_saved_and_exported(tmp_path):
    net, args = slimmed("mobilenet")
    whole = Probabilities(net).eval()
    for call in (
        lambda: slim.save(whole, tmp_path / "net.safetensors"),
        lambda: slim.export(whole, tmp_path / "exported", [0.5], args),
    ):
        with pytest.raises(ValueError, match="Probabilities computes more than the .* network in it; .*net"):
            call()
    assert not list(tmp_path.iterdir())


class Tied(nn.Module):
    """One matrix forth and back, and a buffer that is a part of it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.Linear(16, 8))
        self.back = nn.Linear(16, 16, bias=False)
        self.back.weight = nn.Parameter(self.inner[2].weight.detach().t())
        self.register_buffer("first", self.inner[3].weight.detach()[:2])

    def forward(self, x):
        x = self.inner[:2](x)
        return self.inner[3](self.back(self.inner[2](x))) + self.first.sum()


def test_tensors_that_share_memory_in_other_shapes_are_saved(tmp_path):
    net = slim.convert(Tied(), torch.randn(2, 8))
    slim.save(net, tmp_path / "net.safetensors")
    x = torch.randn(3, 8)
    assert torch.equal(slim.load(tmp_path / "net.safetensors", into=Tied())(x), net(x))


@pytest.mark.parametrize("wrap", [AveragedModel, torch.compile, nn.DataParallel])
def test_wrappers_of_torch_are_taken_off(wrap):
    net = slimmed("mlp")[0]
    assert type(slim.extract(wrap(net), 0.5)) is type(slim.extract(net, 0.5))


def test_extract_notices_a_forward_that_is_not_a_function_of_its_input():
    class Noisy(MLP):
        def forward(self, x):
            return super().forward(x) + torch.rand(())

    net = slim.convert(MLP(), torch.randn(2, 8))
    net.__class__ = type("SlimNoisy", (type(net), Noisy), {})
    with pytest.raises(RuntimeError, match="random numbers"):
        slim.extract(net, 0.5, example=torch.randn(2, 8))


def test_extract_and_freeze_refuse_uncalibrated_widths():
    net = slim.convert(MobileNet(), image())
    with pytest.raises(UncalibratedWidth, match=r"width 0.5 .*widths=\[0.5\]"):
        slim.extract(net, 0.5)
    with pytest.raises(UncalibratedWidth, match=r"width 0.5 .*widths=\[0.5\]"):
        slim.freeze(net, [1.0, 0.5])


def test_frozen_network_cannot_be_trained():
    net, args = slimmed("residual")
    served = slim.freeze(net, [1.0, 0.5])
    with pytest.raises(RuntimeError, match=r"snapshot .* slimlib.freeze again"):
        served.train()
    assert not any(p.requires_grad for p in served.parameters())
    assert not run(served, args)[0].requires_grad


def test_frozen_network_refuses_other_widths():
    net, _ = slimmed("residual")
    with pytest.raises(ValueError, match=r"width 0.3 was not frozen; frozen: 1, 0.5"):
        slim.set_width(slim.freeze(net, [1.0, 0.5]), 0.3)
    with pytest.raises(ValueError, match=r"widths=\(\) must be a list of one width or more"):
        slim.freeze(net)


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_frozen_network_copies(copier):
    net, args = slimmed("concatenating")
    served = slim.freeze(net, [1.0, 0.5])
    slim.set_width(served, 0.5)
    twin = copier(served)
    assert_equal(run(twin, args), run(served, args))
    slim.set_width(twin, 1.0)
    slim.set_width(served, 1.0)
    assert_equal(run(twin, args), run(served, args))


def test_frozen_network_moves_to_another_type():
    net, args = slimmed("residual")
    served = slim.freeze(net, [1.0, 0.5]).double()
    for width in (1.0, 0.5):
        slim.set_width(served, width)
        assert run(served, (args[0].double(),))[0].dtype == torch.double


def wrong_files(tmp_path):
    net = slim.convert(MobileNet(), image())
    path = tmp_path / "net.safetensors"
    slim.save(net, path)
    whole = path.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign")
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["slimlib"])
    for name, damaged in {
        "lacking": {"layout": about["layout"], "aliases": {}},
        "newer": {**about, "layout": {"format": 9}},
    }.items():
        save_file(load_file(path), tmp_path / name, {"slimlib": json.dumps(damaged)})
    (tmp_path / "pickle").write_bytes(pickle.dumps(print))
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no such file"),
        ("cut", "not a readable safetensors file"),
        ("empty", "not a readable safetensors file"),
        ("pickle", "not a readable safetensors file"),
        ("foreign", "not one that slimlib.save wrote"),
        ("lacking", "not as this slimlib.save writes it .KeyError: 'widths'"),
        ("newer", "not as this slimlib.save writes it .ValueError: channel layout of format 9; this slimlib reads"),
    ],
)
def test_wrong_files_are_refused(name, message, tmp_path):
    wrong_files(tmp_path)
    dense = MobileNet()
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        slim.load(tmp_path / name, into=dense)
    assert type(dense) is MobileNet


def test_the_file_comes_first(tmp_path):
    path = wrong_files(tmp_path)
    with pytest.raises(TypeError, match=r"slimlib\.load takes the file first: slimlib\.load\(.*, into=net\)"):
        slim.load(MobileNet(), path)


def test_wrong_network_is_refused_naming_the_layer(tmp_path):
    path = wrong_files(tmp_path)
    other = MobileNet(channels=(32, 96))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match=r"belongs to another network: .*'features.8.0.weight'|'features.10.0.weight'"):
        slim.load(path, into=other)
    assert type(other) is MobileNet
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


def test_other_layout_is_refused_naming_the_difference(tmp_path):
    path = wrong_files(tmp_path)
    other = slim.convert(MobileNet(), image(), divisor=4)
    with pytest.raises(ValueError, match="divisor 8 there; .*divisor 4 here"):
        slim.load(path, into=other)


def test_recipe_must_be_plain_data(tmp_path):
    with pytest.raises(ValueError, match="the recipe must be a dict of plain data, and is 'sandwich'"):
        slim.save(slim.convert(MLP(), torch.randn(2, 8)), tmp_path / "net.safetensors", "sandwich")
    with pytest.raises(ValueError, match="plain data"):
        slim.save(slim.convert(MLP(), torch.randn(2, 8)), tmp_path / "x", recipe={"rule": object()})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    net = slim.convert(MLP(), torch.randn(2, 8))
    slim.save(net, tmp_path / "net")
    before = (tmp_path / "net").read_bytes()

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("slimlib.saving.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        slim.save(net, tmp_path / "net")
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert (tmp_path / "net").read_bytes() == before


def test_a_file_has_the_rights_of_any_other(tmp_path):
    other, path = tmp_path / "other", tmp_path / "net"
    other.touch()
    for _ in range(2):  # also in place of an earlier one
        slim.save(slim.convert(MLP(), torch.randn(2, 8)), path)
        assert path.stat().st_mode == other.stat().st_mode


def test_a_missing_folder_is_told_by_the_path_that_was_given(tmp_path):
    path = tmp_path / "missing" / "net"
    with pytest.raises(FileNotFoundError, match=re.escape(f"cannot write {path}: No such file or directory")):
        slim.save(slim.convert(MLP(), torch.randn(2, 8)), path)


def test_layout_survives_json():
    net, _ = slimmed("shufflenet")
    layout = net.slim.layout
    assert type(layout).from_json(json.loads(json.dumps(layout.to_json()))) == layout
    with pytest.raises(ValueError, match="reads format"):
        type(layout).from_json({"format": 99})


def test_extracted_network_pickles_and_copies():
    net, args = slimmed("wdsr")
    plain = slim.extract(net, 0.5)
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    buffer.seek(0)
    assert_equal(run(torch.load(buffer, weights_only=False), args), run(plain, args))
    assert_equal(run(copy.deepcopy(plain), args), run(plain, args))
