"""Padding, unfolding, cropping and other operations in space leave the channels alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from slimlib.flow import follow
from tests.slimlib.flow.judging import (
    Net,
    between_convolutions,
    between_linears,
    conv,
    image,
    share_left,
    share_left_as_twin,
    tokens,
)

MIDDLES = {
    "zeros all around": lambda net, x: F.pad(x, (1, 1, 1, 1)),
    "zeros on one side": lambda net, x: F.pad(x, (0, 1, 0, 1)),
    "another number": lambda net, x: F.pad(x, (1, 1, 1, 1), value=2.5),
    "cut off": lambda net, x: F.pad(x, (-1, -1, -1, -1)),
    "nothing": lambda net, x: F.pad(x, (0, 0)),
    "reflected": lambda net, x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "circular": lambda net, x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "before max pooling": lambda net, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2),
    "before mean pooling": lambda net, x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, 1),
    "before a norm": lambda net, x: F.instance_norm(F.pad(x, (0, 1, 0, 1))),
    "before a norm over groups": lambda net, x: F.group_norm(F.pad(x, (0, 1, 0, 1)), x.shape[1] // 4),
    "unfolded and folded": lambda net, x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "sampled": lambda net, x: F.grid_sample(x, x.new_full((2, 8, 8, 2), 0.3), align_corners=False),
    "sorted": lambda net, x: x.flatten(2).sort(-1)[0].view_as(x),
    "less the median": lambda net, x: x - x.flatten(2).median(-1)[0][..., None, None],
    "transposed copies": lambda net, x: (
        x.transpose(2, 3).contiguous().permute(0, 2, 3, 1).reshape(2, 8, 8, -1).permute(0, 3, 1, 2)
    ),
    "channels last": lambda net, x: x.contiguous(memory_format=torch.channels_last),
    "rounded to another type": lambda net, x: x.to(torch.bfloat16).to(x.dtype),
    "in place by a view": lambda net, x: (x.view(2, -1, 64).neg_(), x)[1],
}


@pytest.mark.parametrize("name", MIDDLES)
def test_operations_in_space_leave_channels_alone(name):
    assert share_left(between_convolutions(MIDDLES[name]), image()) < 0.35


def test_padding_on_the_input():
    net = nn.Sequential(nn.ZeroPad2d(1), conv(3, 32, padding=0), nn.ReLU(), conv(32, 32), nn.ReLU(), conv(32, 3))
    assert share_left(net, image()) < 0.35


def test_causal_padding():
    net = nn.Sequential(
        nn.Conv1d(3, 32, 1), nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(32, 32, 3), nn.ReLU(), nn.Conv1d(32, 3, 1)
    )
    assert share_left(net, torch.randn(2, 3, 12)) < 0.35


def test_padding_before_a_depthwise_convolution():
    net = between_convolutions(lambda net, x: net.depthwise(F.pad(x, (1, 1, 1, 1))), depthwise=conv(32, 32, groups=32))
    assert share_left(net, image()) < 0.35


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes_of_convolutions(mode):
    net = nn.Sequential(conv(3, 32), nn.ReLU(), conv(32, 32, padding_mode=mode), nn.ReLU(), conv(32, 3))
    assert share_left(net, image()) < 0.35


def test_padded_tokens():
    assert share_left(between_linears(lambda net, x: F.pad(x, (0, 0, 1, 0))[:, :-1].cumsum(1)), tokens()) < 0.4


def test_unfold_hands_windows_to_a_linear_layer():
    net = nn.Sequential(conv(3, 32), nn.ReLU(), nn.Unfold(2, stride=2), nn.Flatten(), nn.Linear(32 * 4 * 16, 3))
    assert share_left(net, image()) < 0.55


def test_a_convolution_by_unfold_and_a_product():
    def middle(net, x):
        return (net.weight.view(len(net.weight), -1) @ F.unfold(x, 3, padding=1)).view(len(x), -1, 8, 8)

    net = between_convolutions(middle, weight=nn.Parameter(torch.randn(32, 32, 3, 3)))
    assert share_left(net, image()) < 0.35


def shifted(net, x):
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1]
    return y


def moved_columns(net, x):
    y = torch.empty_like(x)
    y[..., :4], y[..., 4:] = x[..., 4:], x[..., :4]
    return y


def without_border(net, x):
    x = x.clone()
    x[..., 0], x[:, :, -1] = 0.0, 0.0
    return x


def one_image_of_four(net, x):
    batch = torch.zeros(4, *x.shape[1:])
    batch[1:3] = x
    return batch


def test_slice_writes_are_followed():
    assert share_left(between_linears(shifted), tokens()) < 0.4
    assert share_left(between_convolutions(moved_columns), image()) < 0.35
    assert share_left(between_convolutions(without_border), image()) < 0.35


def test_slice_writes_of_the_input_are_followed():
    net = between_linears(lambda net, x: x)
    forward = net.compute
    net.compute = lambda net, x: forward(net, shifted(net, x))
    assert share_left(net, tokens()) < 0.4
    net = between_convolutions(lambda net, x: x)
    convolutions = net.compute
    net.compute = lambda net, x: convolutions(net, one_image_of_four(net, x))
    assert share_left(net, image()) < 0.35


def rotated_channels(net, x):
    half, y = x.shape[1] // 2, torch.zeros_like(x)
    y[:, :half], y[:, half:] = x[:, half:], x[:, :half]
    return y


def test_halves_of_the_channels_written_by_slices():
    assert share_left(between_convolutions(rotated_channels), image()) < 0.35


NOISES = {
    "added": lambda x: x + 0.1 * torch.randn_like(x),
    "of the same shape": lambda x: x + 0.1 * torch.randn(x.shape),
    "of each channel": lambda x: x * torch.rand(*x.shape[:2], 1, 1),
    "dropout by hand": lambda x: x * (torch.rand_like(x) > 0.5),
    "dropped paths": lambda x: x * x.new_empty((len(x), 1, 1, 1)).bernoulli_(0.9),
    "of a distribution": lambda x: torch.normal(x, torch.ones_like(x)),
    "exponential": lambda x: x + torch.empty_like(x).exponential_().log(),
}


@pytest.mark.parametrize("name", NOISES)
def test_noise_in_training(name):
    net = between_convolutions(lambda net, x: NOISES[name](x) if net.training else x)
    assert share_left(net, image()) < 0.35


def test_views_of_features_as_images():
    def forward(net, z):
        return net.last(F.relu(net.up(F.relu(net.linear(z)).view(len(z), -1, 4, 4))))

    net = Net(forward, linear=nn.Linear(16, 1024), up=nn.ConvTranspose2d(64, 32, 4, 2, 1), last=conv(32, 3))
    assert share_left(net, torch.randn(2, 16)) < 0.4
    net = nn.Sequential(nn.Linear(16, 512), nn.Unflatten(1, (-1, 8)), nn.Conv1d(64, 32, 3), nn.Conv1d(32, 3, 1))
    assert share_left(net, torch.randn(2, 16)) < 0.5


def test_a_literal_number_of_channels_in_a_view_stays():
    def forward(net, z):
        return net.last(F.relu(net.conv(F.relu(net.linear(z)).view(-1, 64, 4, 4))))

    net = Net(forward, linear=nn.Linear(16, 1024), conv=conv(64, 32), last=conv(32, 3))
    layout = follow(net, torch.randn(2, 16))
    assert "view in the network's own forward" in layout.kept["linear"]
    assert {group.name for group in layout.groups} == {"conv"}


def low_frequencies(net, x):
    """An own matrix for each of the lowest frequencies (Li et al. 2021, Fourier Neural Operator, sec. 4)."""
    spectrum = torch.fft.rfft2(x)
    made = torch.zeros(len(x), net.channels, 8, 5, dtype=spectrum.dtype)
    made[..., :3, :3] = torch.einsum("nixy,ioxy->noxy", spectrum[..., :3, :3], net.low)
    made[..., -3:, :3] = torch.einsum("nixy,ioxy->noxy", spectrum[..., -3:, :3], net.high)
    return torch.fft.irfft2(made, s=(8, 8)) + net.beside(x)


def test_a_fourier_transform_over_space():
    weights = {name: nn.Parameter(torch.randn(32, 32, 3, 3, dtype=torch.cfloat) * 0.1) for name in ("low", "high")}
    net = between_convolutions(low_frequencies, beside=conv(32, 32, 1), **weights)
    net.channels = 32
    assert share_left(net, image()) < 0.3


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_convolution_along_the_channels(dilation):
    """ECA (Wang et al. 2020): beyond the last channel are zeros at any width."""

    def middle(net, x):
        return x * net.along(x.mean((2, 3))[:, None])[:, 0, :, None, None].sigmoid()

    net = between_convolutions(middle, along=nn.Conv1d(1, 1, 3, padding=dilation, dilation=dilation))
    assert share_left(net, image()) < 0.3


def test_unpooling_ties_the_channels_whose_places_it_takes():
    """SegNet (Badrinarayanan et al. 2015): pooled values go back to where they were."""

    def middle(net, x):
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(net.back(F.relu(net.deeper(pooled))), places, 2)

    net = between_convolutions(middle, deeper=conv(32, 48), back=conv(48, 32))
    assert share_left(net, image()) < 0.3
    assert {("first", "back")} <= {tuple(group.layers)[:2] for group in net.slim.layout.groups}


@pytest.mark.parametrize("pool", [F.avg_pool2d, F.max_pool2d])
def test_a_pool_along_one_axis_leaves_the_channels_along_the_other_alone(pool):
    """Tokens are pooled as if they were an image, as in Funnel-Transformers (Dai et al. 2020)."""

    def middle(net, x):
        return pool(x[:, None], (2, 1), stride=(2, 1), ceil_mode=True)[:, 0]

    net = between_linears(middle)
    assert share_left(net, tokens(5)) < 0.35
    assert set(net.slim.layout.kept) == {"last"}


def test_kernels_over_whole_embeddings():
    """Sentences taken for images, as TextCNN and DPCNN do: a kernel of some words by all channels is a product."""

    def forward(net, words):
        x = net.words(words).unsqueeze(1)
        x = torch.cat([F.relu(net.two(x)).amax(2), F.relu(net.three(x)).amax(2)], 1)
        return net.head(x.flatten(1))

    layers = {"two": nn.Conv2d(1, 16, (2, 32)), "three": nn.Conv2d(1, 32, (3, 32)), "head": nn.Linear(48, 3)}
    assert share_left(Net(forward, words=nn.Embedding(30, 32), **layers), torch.randint(0, 30, (2, 8))) < 0.36


def test_kernels_over_some_of_the_channels_mix_them():
    """ConvE takes vectors for images: these stay, what the kernels make slims."""

    def forward(net, x):
        return net.head(F.relu(net.kernels(net.first(x).unsqueeze(1))).flatten(1))

    layers = {"first": nn.Linear(16, 32), "kernels": nn.Conv2d(1, 16, 3), "head": nn.Linear(16 * 3 * 30, 3)}
    net = Net(forward, **layers)
    share_left(net, tokens())
    kept = net.slim.layout.kept
    assert "acts along another axis than the channels" in kept["first"] and set(kept) == {"first", "head"}


FILTERS = {"buffer": torch.Tensor, "parameter": nn.Parameter, "number": torch.Tensor.tolist}


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_channels_that_all_have_the_same_filters_slim(count, kind):
    """Several for each channel, as of wavelets, and back."""

    def forward(net, x):
        x = net.a(x)
        filters = torch.as_tensor(net.filters).repeat(x.shape[1], 1, 1, 1)
        parts = net.b(F.conv2d(x, filters, stride=2, groups=x.shape[1])).relu()
        return net.last(F.conv_transpose2d(parts, filters, stride=2, groups=x.shape[1]))

    def make(channels):
        filters = FILTERS[kind](torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(1)))
        layers = {"a": conv(3, channels), "b": conv(channels * count, channels * count), "last": conv(channels, 3)}
        return Net(forward, filters=filters, **layers)

    assert share_left_as_twin(make, image()) < 0.4
