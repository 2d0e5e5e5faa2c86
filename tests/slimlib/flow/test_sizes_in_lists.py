"""Numbers that a module reads out of lists, and heads of which there is one."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import WidthPlan
from slimlib.flow.example import smallest


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
        y = (q @ k.transpose(-2, -1) / self.size**0.5).softmax(-1) @ v
        return self.leave(y.transpose(1, 2).flatten(2)).mean(1)


def test_an_example_is_too_small_where_its_parts_are_the_same():
    net, x = OneHead().eval(), (torch.randn(2, 3, 64, 64),)
    assert smallest(net, x) is x


def test_the_scale_of_one_head_is_compared_over_several_places():
    torch.manual_seed(0)
    net, x = OneHead().double().eval(), torch.randn(2, 3, 64, 64).double()
    slim.convert(net, x)
    assert {"q", "k", "v"} <= set(net.slim.layout.kept)
    assert "size" not in net.slim.layout.numbers.get("", {})
