"""Sizes that forward reads: out of lists, off its layers, and of heads of which there is one."""

import copy
import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import WidthPlan
from slimlib.flow import FlowError, follow
from slimlib.flow.example import smallest
from tests.slimlib.flow.judging import Net, share_left


class Stages(nn.Module):
    """A pyramid that reshapes by the sizes in a list of its configuration (PVTv2 of transformers)."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(sizes=list(sizes), name="stages")
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 3, 2, 1) for inputs, outputs in zip((3, *sizes), sizes, strict=False)
        )
        self.head = nn.Linear(sizes[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        for size, conv in zip(self.config.sizes, self.convs, strict=True):
            x = conv(x).relu().flatten(2)
            side = int((x.numel() // len(x) // size) ** 0.5)
            x = x.reshape(len(x), size, side, side)
        x = x.permute(0, 2, 3, 1).reshape(len(x), -1, self.config.sizes[-1])
        return self.head(x.mean(1))


@pytest.mark.parametrize("plan", [0.5, 0.25, (8, 24), (24, 16)], ids=str)
def test_sizes_in_a_list_of_a_configuration_slim(plan):
    torch.manual_seed(0)
    net, x = Stages(32, 64).double().eval(), torch.randn(2, 3, 16, 16).double()
    sizes, config = plan if isinstance(plan, tuple) else [round(plan * size) for size in (32, 64)], net.config
    slim.convert(net, x)
    assert set(net.slim.layout.kept) == {"head"}
    width = WidthPlan(list(plan)) if isinstance(plan, tuple) else plan
    twin = Stages(*sizes).double().eval()
    twin.load_state_dict(slim.extract(net, width).state_dict())
    slim.set_width(net, width)
    torch.testing.assert_close(net(x), twin(x))
    assert net.config.sizes == list(sizes)
    assert config.sizes == [32, 64]


class OneHead(nn.Module):
    """Keys and values of every 32nd place; with one of them alone the scale of the product would not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 32
        self.enter, self.reduce = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 32, 32)
        self.q, self.k, self.v, self.leave = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        few = self.reduce(x).flatten(2).transpose(1, 2)
        q = self.q(x.flatten(2).transpose(1, 2)).view(len(x), -1, 1, self.size).transpose(1, 2)
        k, v = (layer(few).view(len(x), -1, 1, self.size).transpose(1, 2) for layer in (self.k, self.v))
        y = (q @ k.transpose(-2, -1) / math.log(self.size)).softmax(-1) @ v
        return self.leave(y.transpose(1, 2).flatten(2)).mean(1)


def test_an_example_is_too_small_where_its_parts_are_the_same():
    net, x = OneHead().eval(), (torch.randn(2, 3, 64, 64),)
    assert smallest(net, x) is x


class MasksTime(nn.Module):
    """In training it needs sequences that are longer than what it masks, as wav2vec 2.0 does."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Conv1d(1, 32, 8, 8), nn.Linear(32, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).transpose(1, 2)
        if self.training and x.shape[1] <= 10:
            raise ValueError(f"mask_length 10 has to be smaller than sequence_length {x.shape[1]}")
        return self.leave(self.inner(x.relu()).relu())


def test_an_example_that_is_long_enough_for_training_is_taken_as_it_is():
    assert share_left(MasksTime(), torch.randn(2, 1, 128)) < 0.4
    with pytest.raises(
        FlowError, match=r"on the example in training: .*MasksTime, given \[2, 1, 64\], raises ValueError"
    ):
        follow(MasksTime(), torch.randn(2, 1, 64))


def test_the_scale_of_one_head_is_compared_over_several_places():
    torch.manual_seed(0)
    net, x = OneHead().double().eval(), torch.randn(2, 3, 64, 64).double()
    slim.convert(net, x)
    assert {"q", "k", "v"} <= set(net.slim.layout.kept)
    assert "size" not in net.slim.layout.numbers.get("", {})


def scaled_embedding(net: Net, x: Tensor) -> Tensor:
    return net.last(net.second(net.first(x.long()) * net.first.embedding_dim**0.5).relu())


def scaled_linear(net: Net, x: Tensor) -> Tensor:
    return net.last(net.second(net.first(x) / net.first.out_features**0.5).relu())


def scaled_and_viewed(net: Net, x: Tensor) -> Tensor:
    x = net.first(x[..., None, None]).mean((2, 3)).view(-1, net.first.out_channels)
    return net.last(net.second(x * net.second.in_features**-0.5).relu())


READ: dict[str, tuple[Callable[[Net, Tensor], Tensor], nn.Module, dict[str, dict[str, int]]]] = {
    "embedding": (scaled_embedding, nn.Embedding(7, 32), {"first": {"embedding_dim": 32}}),
    "linear": (scaled_linear, nn.Linear(16, 32), {"first": {"out_features": 32}}),
    "viewed by one, scaled by another": (scaled_and_viewed, nn.Conv2d(16, 32, 1), {"second": {"in_features": 32}}),
}


@pytest.mark.parametrize("name", READ)
def test_a_size_that_forward_computes_with_is_that_of_the_full_layer(name):
    compute, first, stays = READ[name]
    net = Net(compute, first=copy.deepcopy(first), second=nn.Linear(32, 64), last=nn.Linear(64, 3))
    x = torch.randint(0, 7, (4,)) if isinstance(first, nn.Embedding) else torch.randn(4, 16)
    assert share_left(net, x) < 0.4
    assert set(net.slim.layout.kept) == {"last"}
    for layer, sizes in stays.items():
        for small in (net, slim.extract(net, 0.5)):
            assert {size: getattr(small.get_submodule(layer), size) for size in sizes} == sizes


def test_attention_behind_an_embedding_that_is_scaled_by_its_size_slims():
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.table(x) * net.table.embedding_dim**0.5
        return net.last(y + net.attention(net.norm(y), y, y)[0])

    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    net = Net(forward, table=nn.Embedding(9, 32), norm=nn.LayerNorm(32), attention=attention, last=nn.Linear(32, 3))
    assert share_left(net, torch.randint(0, 9, (2, 6))) < 0.4
