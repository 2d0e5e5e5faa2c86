"""extract(..., fold=True): the same outputs without the BatchNorms, where that is certain."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import slimlib as slim
from slimlib.models import NAMES, build
from slimlib.serving.folding import fold, fold_like
from slimlib.serving.reads import tensors
from tests.extent import at_night
from tests.networks import NETWORKS, MobileNet, conv_bn, image
from tests.networks_to_fold import FOLDED, KEPT, C, Pair, Plain, in_order, norms, scramble

WIDTHS = (1.0, 0.5)
EACH_KIND = ("mobilenet_v2", "resnet18", "shufflenet_v1")  # inverted and plain residuals, concatenations
LEFT = {"concatenating": 4}  # norms of a concatenation


def run(net, args):
    with torch.no_grad():
        return tensors(net(*args))


def assert_close(ours, theirs, tolerance=1e-4):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def slimmed(dense, args, **rule):
    net = slim.convert(scramble(dense), args, **rule).eval()
    slim.calibrate(net, [tuple(3 * x + 1 if torch.is_tensor(x) and x.is_floating_point() else x for x in args)], WIDTHS)
    return net


@pytest.mark.parametrize("name", [name if name in EACH_KIND else at_night(name) for name in NAMES])
def test_published_networks_fold_whole(name):
    torch.manual_seed(0)
    dense = build(name, classes=10, size=32, multiplier=0.25)
    args = (torch.randn(2, 3, 32, 32),)
    net = slimmed(dense, args, **dense.channel_rule)
    for width in WIDTHS:
        plain = slim.extract(net, width)
        folded = slim.extract(net, width, args, fold=True)
        assert norms(folded) == []
        assert_close(run(folded, args), run(plain, args))


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_equals_extracted(name):
    torch.manual_seed(0)
    dense, args = NETWORKS[name]()
    net = slimmed(dense, args)
    for width in WIDTHS:
        plain = slim.extract(net, width).eval()
        folded = slim.extract(net, width, args, fold=True)
        assert len(norms(folded)) == LEFT.get(name, 0)
        assert_close(run(folded, args), run(plain, args))
        assert not any(type(m).__module__.startswith("slimlib.") for m in folded.modules())


@pytest.mark.parametrize("name", KEPT)
def test_norm_that_cannot_be_folded_stays(name):
    torch.manual_seed(0)
    net, args = KEPT[name]()
    before = copy.deepcopy(scramble(net).eval())
    fold(net, args)
    assert norms(net) == norms(before) != []
    for a, b in zip(run(net, args), run(before, args), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", FOLDED)
def test_norm_that_can_be_folded_is(name):
    torch.manual_seed(0)
    net, args = FOLDED[name]()
    before = copy.deepcopy(scramble(net).eval())
    fold(net, args)
    assert norms(net) == []
    assert_close(run(net, args), run(before, args))


KINDS = {  # layer -> its norm, and the size of an input but for batch and channels
    nn.Linear: (nn.BatchNorm1d, ()),
    nn.Conv1d: (nn.BatchNorm1d, (7,)),
    nn.Conv2d: (nn.BatchNorm2d, (6, 5)),
    nn.Conv3d: (nn.BatchNorm3d, (4, 5, 3)),
    nn.ConvTranspose1d: (nn.BatchNorm1d, (5,)),
    nn.ConvTranspose2d: (nn.BatchNorm2d, (4, 3)),
    nn.ConvTranspose3d: (nn.BatchNorm3d, (2, 3, 2)),
}
PRECISION = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(list(KINDS)),
    groups=st.sampled_from([1, 2, 3, 6]),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    bias=st.booleans(),
    affine=st.booleans(),
    stride=st.integers(1, 2),
    eps=st.sampled_from([1e-5, 0.1]),
    dtype=st.sampled_from(list(PRECISION)),
    seed=st.integers(0, 99),
)
def test_any_layer_folds(kind, groups, inputs, outputs, bias, affine, stride, eps, dtype, seed):
    torch.manual_seed(seed)
    norm_kind, size = KINDS[kind]
    options = {} if kind is nn.Linear else {"kernel_size": 3, "padding": 1, "stride": stride, "groups": groups}
    layer = kind(groups * inputs, groups * outputs, bias=bias, **options)
    net = scramble(Plain(layer, norm_kind(groups * outputs, affine=affine, eps=eps))).to(dtype).eval()
    args = (torch.randn(2, groups * inputs, *size, dtype=dtype),)
    exact = run(copy.deepcopy(net).double(), (args[0].double(),))
    fold(net, args)
    assert norms(net) == []
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert_close([out.double() for out in run(net, args)], exact, PRECISION[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_deep_network_of_a_coarse_type_folds(dtype):
    torch.manual_seed(0)
    args = (torch.randn(2, 3, 16, 16, dtype=dtype),)
    net = scramble(MobileNet(channels=(32, 64, 64, 64, 64, 64))).to(dtype)
    assert norms(fold(net, args)) == []


def test_weights_that_the_type_cannot_hold_are_not_folded():
    net = scramble(Plain(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C))).half()
    net.layers[0].weight.data.fill_(2e4)
    net.layers[1].weight.data.fill_(9.0)
    args = (torch.randn(1, C, 2, 2).half(),)
    assert norms(fold(net, args)) == ["layers.1"]


def test_network_that_cannot_run_in_double_precision_folds():
    net = scramble(Plain(Pair(lambda net, x: net.norm(net.conv(x.float()))), nn.Conv2d(C, 2, 1)))
    args = image_of(C)
    before = copy.deepcopy(net.eval())
    assert norms(fold(net, args)) == []
    assert_close(run(net, args), run(before, args))


def image_of(channels):
    return (torch.randn(2, channels, 6, 6),)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_norm_is_computed_and_folded(norm):
    torch.manual_seed(0)
    layers = norm(nn.Conv2d(3, 16, 3)), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 1)
    net = slimmed(nn.Sequential(*layers), image_of(3))
    for width in WIDTHS:
        folded = slim.extract(net, width, image_of(3), fold=True)
        assert set(folded.state_dict()) == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_private_affine_and_statistics_are_folded():
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image(), widths=slim.Switches(0.25, 1.0), norm="switchable").eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor))
    for width in (0.25, 1.0):
        assert_close(
            run(slim.extract(net, width, image(), fold=True), (x := image())), run(slim.extract(net, width), x)
        )


def test_memory_format_and_sizes_stay():
    torch.manual_seed(0)
    net = slimmed(MobileNet().to(memory_format=torch.channels_last), image())
    folded = slim.extract(net, 0.5, image(), fold=True)
    plain = slim.extract(net, 0.5)
    for name, parameter in folded.named_parameters():
        if name.endswith("weight"):
            assert parameter.shape == plain.get_parameter(name).shape
            assert parameter.stride() == plain.get_parameter(name).stride()


def test_folded_network_is_for_serving():
    net = slimmed(MobileNet(), image())
    folded = slim.extract(net.train(), 0.5, image(), fold=True)
    assert not any(module.training for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert_close(run(pickle.loads(pickle.dumps(folded)), (x := image())), run(folded, x), 0.0)


def test_the_network_that_is_extracted_stays_as_it_was():
    net = slimmed(MobileNet(), image())
    slim.set_width(net, 0.5)
    before, state = run(net, (x := image())), copy.deepcopy(net.state_dict())
    for parameter in slim.extract(net, 0.5, image(), fold=True).parameters():
        parameter.zero_()
    assert_close(run(net, x), before, 0.0)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_arguments_and_state_stay_as_they_were():
    def forward(net, x):
        net.conv.seen.add_(1)
        return net.norm(net.conv(x.add_(1) * net.conv.seen))

    net, args = scramble(Pair(forward)), image_of(C)
    net.conv.register_buffer("seen", torch.zeros(()))
    before = args[0].clone()
    assert norms(fold(net, args)) == []
    assert torch.equal(args[0], before)
    assert net.conv.seen == 0


def test_network_that_runs_only_once_folds():
    def forward(net, x):
        net.runs += 1
        assert net.runs == 1
        return net.norm(net.conv(x))

    net = scramble(Pair(forward))
    net.runs = 0
    assert norms(fold(net, image_of(C))) == []


def test_fold_needs_an_example():
    net = slimmed(MobileNet(), image())
    with pytest.raises(ValueError, match=r"extract\(\.\.\., fold=True\) needs example="):
        slim.extract(net, 0.5, fold=True)


def test_sequential_loses_what_does_nothing_and_layers_keep_their_names():
    net = nn.Sequential(
        OrderedDict(stem=conv_bn(C, C), drop=nn.Dropout(0.3), act=nn.ReLU(), same=nn.Identity(), out=nn.Conv2d(C, C, 1))
    )
    fold(scramble(net), image_of(C))
    assert [name for name, _ in net.named_modules()] == ["", "stem", "stem.0", "act", "out"]


def test_sequential_whose_layers_are_called_by_position_keeps_them():
    layers = nn.Sequential(*conv_bn(C, C), nn.Dropout(0.3), nn.ReLU())
    net = Pair(lambda net, x: net.layers(x) + net.layers[3](x), layers=layers)
    fold(scramble(net), image_of(C))
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.Identity, nn.Identity, nn.ReLU]


def test_sequential_that_is_not_called_keeps_its_layers():
    net = Pair(in_order, layers=nn.Sequential(nn.Identity(), nn.ReLU()))
    fold(scramble(net), image_of(C))
    assert len(net.layers) == 2


def test_sequential_with_a_forward_of_its_own_keeps_its_layers():
    class Tapped(nn.Sequential):
        def forward(self, x):
            for position, layer in enumerate(self):
                x = 2 * layer(x) if position == 2 else layer(x)
            return x

    net = Tapped(*conv_bn(C, C), nn.ReLU())
    fold(scramble(net), image_of(C))
    assert [type(layer) for layer in net] == [nn.Conv2d, nn.Identity, nn.ReLU]


def test_other_containers_keep_identities():
    net = Plain(nn.Conv2d(C, C, 1), nn.BatchNorm2d(C), nn.Dropout(0.3))
    fold(scramble(net), image_of(C))
    assert [type(layer) for layer in net.layers] == [nn.Conv2d, nn.Identity, nn.Identity]


def test_dropout_that_does_something_is_kept():
    class MonteCarlo(nn.Dropout):
        def train(self, mode=True):
            return super().train(True)

    class AlwaysOn(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def train(self, mode=True):
            super().train(mode)
            self.dropout.train()
            return self

        def forward(self, x):
            return self.dropout(x)

    hooked = nn.Dropout(0.5)
    hooked.register_forward_hook(lambda module, args, output: output + 1)
    net = nn.Sequential(MonteCarlo(0.5), AlwaysOn(), hooked)
    fold(net, (torch.randn(2, 100),))
    assert isinstance(net[0], MonteCarlo)
    assert isinstance(net[1].dropout, nn.Dropout)
    assert isinstance(net[2], nn.Dropout)


def test_difference_is_refused_naming_the_layer():
    def forward(net, x):
        y = net.norm(net.conv(x))
        return net.after(net.act(y * 2 if isinstance(net.norm, _BatchNorm) else y))

    net = scramble(Pair(forward, act=nn.Tanh(), after=nn.Conv2d(C, C, 1)))
    with pytest.raises(RuntimeError, match=r"different outputs on the example, first in 'act' \(Tanh\)"):
        fold(net, image_of(C))
    assert norms(net) == ["norm"]


def test_small_difference_is_noticed_in_a_coarse_type():
    def forward(net, x):
        return net.norm(net.conv(x)) * (1.01 if isinstance(net.norm, _BatchNorm) else 1)

    with pytest.raises(RuntimeError, match="different outputs on the example, first in its own forward"):
        fold(scramble(Pair(forward)).bfloat16(), (image_of(C)[0].bfloat16(),))


def test_norm_whose_parameters_a_forward_needs_is_refused():
    net = scramble(Pair(lambda net, x: net.norm(net.conv(x.to(net.norm.weight.dtype)))))
    with pytest.raises(RuntimeError, match=r"folded Pair fails on the example: AttributeError: .*'weight'"):
        fold(net, image_of(C))


def test_numbers_of_a_norm_and_a_dropout_can_still_be_read():
    net = scramble(
        Pair(lambda net, x: net.norm(net.conv(x)) * net.norm.num_features * net.dropout.p, dropout=nn.Dropout(0.3))
    )
    before = copy.deepcopy(net.eval())
    args = image_of(C)
    assert norms(fold(net, args)) == []
    assert_close(run(net, args), run(before, args))


def test_nan_is_no_difference():
    net = scramble(Pair(in_order))
    args = image_of(C)
    args[0][0] = torch.nan
    assert norms(fold(net, args)) == []


class Reader(nn.Module):
    """From four channels on, it needs what the convolution returns."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, channels, 3), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y if y.shape[1] > 3 else self.norm(y)


def test_what_folds_at_one_width_is_folded_at_another_only_where_it_fits() -> None:
    narrow, wide, x = Reader(3), Reader(6), torch.randn(2, 3, 8, 8)
    nn.init.normal_(wide.norm.bias)
    expected = wide.eval()(x)
    found = fold_like(narrow, x, None)
    assert list(found.norms) == ["norm"]
    assert fold_like(Reader(2), x, found) is found
    assert not fold_like(wide, x, found).norms
    assert torch.equal(wide(x), expected)
