"""Heads of attention that are cut into unequal parts, each with kernels of its own, and maps of several scales."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import slimlib as slim
from slimlib.core.width import WidthPlan

SIZE = 4  # channels of a head


class Positions(nn.Module):
    """Relative positions by depthwise convolutions, of another size for each part of the heads (CoaT)."""

    def __init__(self, split: tuple[int, ...]) -> None:
        super().__init__()
        channels = [heads * SIZE for heads in split]
        self.sizes = channels
        self.kernels = nn.ModuleList(nn.Conv2d(c, c, 2 * i + 1, padding=i, groups=c) for i, c in enumerate(channels, 1))

    def forward(self, q: Tensor, v: Tensor, side: int) -> Tensor:  # [N, H, T, D] -> [N, H, T, D]
        n, heads, t, size = q.shape
        images = v.transpose(-1, -2).reshape(n, heads * size, side, side).split(self.sizes, 1)
        made = torch.cat([kernel(image) for kernel, image in zip(self.kernels, images, strict=True)], 1)
        return q * made.reshape(n, heads, size, t).transpose(-1, -2)


class Block(nn.Module):
    """Attention of which keys and values are multiplied first."""

    def __init__(self, split: tuple[int, ...], positions: Positions) -> None:
        super().__init__()
        self.heads, trunk = sum(split), sum(split) * SIZE
        self.norm, self.qkv, self.proj = nn.LayerNorm(trunk), nn.Linear(trunk, 3 * trunk), nn.Linear(trunk, trunk)
        self.positions = positions

    def forward(self, x: Tensor, side: int) -> Tensor:  # [N, T, C]
        n, t, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = q @ (k.softmax(2).transpose(-1, -2) @ v) + self.positions(q, v, side)
        return self.proj(y.transpose(1, 2).reshape(n, t, c))


class Scales(nn.Module):
    """Images at two scales, whose maps are resized and added to each other, then stacked and weighed."""

    def __init__(self, split: tuple[int, ...] = (2, 3, 3), hidden: int = 32) -> None:
        super().__init__()
        trunk = sum(split) * SIZE
        self.fine, self.coarse = nn.Conv2d(3, trunk, 2, 2), nn.Conv2d(trunk, trunk, 2, 2)
        positions = Positions(split)
        self.blocks = nn.ModuleList(Block(split, positions) for _ in range(2))
        self.up, self.down = nn.Linear(trunk, hidden), nn.Linear(hidden, trunk)
        self.weigh, self.head = nn.Conv1d(2, 1, 1), nn.Linear(trunk, 3)

    def forward(self, images: Tensor) -> Tensor:  # [N, 3, 16, 16] -> [N, 3]
        maps = [self.fine(images)]
        maps.append(self.coarse(maps[0]))
        made = []
        for block, x in zip(self.blocks, maps, strict=True):
            y = block(x.flatten(2).transpose(1, 2), x.shape[-1])
            made.append(y.transpose(1, 2).view(x.shape))
        maps = [
            maps[0] + made[0] + F.interpolate(made[1], scale_factor=2.0, mode="bilinear"),
            maps[1] + made[1] + F.interpolate(made[0], scale_factor=0.5, mode="bilinear"),
        ]
        maps = [x + self.down(self.up(x.movedim(1, -1)).relu()).movedim(-1, 1) for x in maps]
        both = torch.stack([x.mean((2, 3)) for x in maps], 1)
        return self.head(self.weigh(both)[:, 0])


PLANS = {0.5: ((1, 2, 2), 16), 0.25: ((1, 1, 1), 8), (1, 3, 2): ((1, 3, 2), 24), (2, 1, 1): ((2, 1, 1), 16)}


@pytest.fixture(scope="module")
def converted():
    """A dense network, the same converted, and images."""
    torch.manual_seed(0)
    dense, x = Scales().double().eval(), torch.randn(2, 3, 16, 16).double()
    return dense, slim.convert(copy.deepcopy(dense), x), x


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_parts_of_heads_slim_each_by_itself(plan, converted):
    dense, net, x = converted
    slim.set_width(net, 1.0)
    assert torch.equal(net(x), dense(x))
    assert set(net.slim.layout.kept) == {"weigh", "head"}
    split, hidden = PLANS[plan]
    if isinstance(plan, tuple):
        sizes = iter(plan)
        plan = WidthPlan([hidden if group.units == 32 else next(sizes) for group in net.slim.layout.groups])
    slim.set_width(net, plan)
    twin = Scales(split, hidden).double().eval()
    twin.load_state_dict(slim.extract(net, plan).state_dict())
    torch.testing.assert_close(net(x), twin(x))
    for name, weight in twin.named_parameters():  # of the trunk, every part keeps its first heads
        if name == "coarse.bias":
            parts = dense.coarse.bias.split([8, 12, 12])
            assert torch.equal(weight, torch.cat([p[: n * SIZE] for p, n in zip(parts, split, strict=True)]))
