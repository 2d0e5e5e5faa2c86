"""Tables of positions: longer than the example, by rows, by index, joined and moved about."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import slimlib as slim
from slimlib.flow import follow
from tests.slimlib.flow.judging import Net, between_convolutions, between_linears, image, parameter, share_left, tokens

KINDS = torch.tensor([0, 1, 1, 0, 2])
OF_TOKENS = {
    "longer": (lambda net, x: x + net.table[:, : x.shape[1]], parameter(1, 40, 32)),
    "without a batch": (lambda net, x: x + net.table[: x.shape[1]], parameter(40, 32)),
    "from the middle": (lambda net, x: x + net.table[:, 3 : 3 + x.shape[1]] * 0.5, parameter(1, 40, 32)),
    "buffer": (lambda net, x: x + net.table[:, : x.size(1)], torch.randn(1, 50, 32)),
    "one row": (lambda net, x: x + net.table[2], parameter(4, 32)),
    "last row": (lambda net, x: x * net.table[-1] + net.table[0], parameter(4, 32)),
    "rows by index": (lambda net, x: x + net.table[KINDS], parameter(4, 32)),
    "rows by index_select": (lambda net, x: x + net.table.index_select(0, KINDS), parameter(4, 32)),
    "embedding": (lambda net, x: x + net.table(torch.arange(x.shape[1])), nn.Embedding(40, 32)),
    "row of an embedding": (lambda net, x: x + net.table.weight[1], nn.Embedding(2, 32)),
    "mask token": (lambda net, x: torch.where((KINDS > 0)[None, :, None], net.table, x), parameter(1, 1, 32)),
    "mean of rows": (lambda net, x: torch.cat([x, net.table.mean(0).expand(len(x), 1, -1)], 1), parameter(4, 32)),
    "zeros before it": (
        lambda net, x: x + torch.cat([torch.zeros(1, net.table.shape[1]), net.table[: x.shape[1] - 1]]),
        parameter(40, 32),
    ),
    "moved about": (lambda net, x: x + net.table.t().unsqueeze(0).transpose(1, 2)[:, : x.shape[1]], parameter(9, 32)),
}


@pytest.mark.parametrize("name", OF_TOKENS)
def test_tables_slim_along_their_channels(name):
    middle, table = OF_TOKENS[name]
    net = between_linears(middle, table=table)
    assert share_left(net, tokens()) < 0.45
    cut = [list(axes) for path, axes in net.slim.layout.axes.items() if path.startswith("table")]
    assert cut == [[1 if isinstance(table, nn.Embedding) else table.dim() - 1]]


def test_a_longer_input_than_the_example_runs_at_every_width():
    net = between_linears(OF_TOKENS["longer"][0], table=parameter(1, 40, 32))
    slim.convert(net, tokens(5))
    for width in (0.25, 0.5, 1.0):
        slim.set_width(net, width)
        assert net(tokens(40)).shape == (2, 40, 3)


def test_learned_tokens_that_are_normalised_first():
    def middle(net, x):
        tokens = net.table.unsqueeze(0).repeat(len(x), 1, 1)
        return tokens + net.values(net.norm(tokens)) * x.mean(1, keepdim=True)

    parts = {"norm": nn.LayerNorm(32), "values": nn.Linear(32, 32)}
    assert share_left(between_linears(middle, table=parameter(6, 32), **parts), tokens()) < 0.45


def test_kernels_as_long_as_time_by_their_transforms():
    def middle(net, x):
        x = x.transpose(1, 2)
        time = x.shape[-1]
        spectrum = torch.fft.rfft(x, n=2 * time) * torch.fft.rfft(net.table[:, :time], n=2 * time)
        return torch.fft.irfft(spectrum, n=2 * time)[..., :time].transpose(1, 2)

    net = between_linears(middle, table=parameter(32, 20))
    assert share_left(net, tokens()) < 0.5
    assert list(net.slim.layout.axes["table"]) == [0]


def test_kernels_of_a_diagonal_state_space():
    """S4D: complex states of each channel, written as two real tables, and their powers over time."""

    def middle(net, x):
        x = x.transpose(1, 2)
        time = x.shape[-1]
        state = torch.complex(-net.decay.exp(), net.turn) * net.step.exp().unsqueeze(-1)
        powers = torch.exp(state.unsqueeze(-1) * torch.arange(time))
        kernel = torch.einsum("hn,hnl->hl", torch.view_as_complex(net.table), powers).real
        spectrum = torch.fft.rfft(x, n=2 * time) * torch.fft.rfft(kernel, n=2 * time)
        return torch.fft.irfft(spectrum, n=2 * time)[..., :time].transpose(1, 2)

    tables = {"table": parameter(32, 6, 2), "decay": parameter(32, 6), "turn": parameter(32, 6), "step": parameter(32)}
    net = between_linears(middle, **tables)
    assert share_left(net, tokens()) < 0.45
    assert list(net.slim.layout.axes["table"]) == [0]


def test_class_token_and_positions():
    def middle(net, x):
        return torch.cat([net.token.expand(len(x), -1, -1), x], 1) + net.table[:, : x.shape[1] + 1]

    assert share_left(between_linears(middle, token=parameter(1, 1, 32), table=parameter(1, 40, 32)), tokens()) < 0.45


@pytest.mark.parametrize(
    "join",
    [
        lambda net: (net.rows[:, None] + net.columns[None]).flatten(0, 1),
        lambda net: torch.cat([net.columns[None].repeat(2, 1, 1), net.rows[:, None].repeat(1, 3, 1)], -1).flatten(0, 1),
    ],
)
def test_positions_of_rows_and_columns(join):
    channels = join(Net(lambda net: net, rows=parameter(2, 16), columns=parameter(3, 16))).shape[-1]
    half = 16 if channels == 32 else 32
    net = between_linears(lambda net, x: x + join(net), rows=parameter(2, half), columns=parameter(3, half))
    assert share_left(net, tokens(6)) < 0.45


def test_positions_of_images():
    net = between_convolutions(
        lambda net, x: x + F.interpolate(net.table, size=x.shape[-2:], mode="bilinear"), table=parameter(1, 32, 4, 4)
    )
    assert share_left(net, image()) < 0.35
    net = between_convolutions(
        lambda net, x: x + net.table[..., : x.shape[2], : x.shape[3]], table=parameter(1, 32, 9, 9)
    )
    assert share_left(net, image()) < 0.38


def test_learned_queries():
    net = between_linears(
        lambda net, x: net.table.unsqueeze(0).repeat(len(x), 1, 1) + x.mean(1, keepdim=True), table=parameter(7, 32)
    )
    assert share_left(net, tokens()) < 0.45


def test_a_table_of_relative_positions_indexed_by_a_buffer():
    def attend(net, x):
        q, k, v = (layer(x).view(2, 5, -1, 8).transpose(1, 2) for layer in (net.q, net.k, net.v))
        bias = net.table[net.index.view(-1)].view(5, 5, -1).permute(2, 0, 1)
        scores = (q @ k.transpose(-1, -2) * 8**-0.5 + bias.unsqueeze(0)).softmax(-1)
        return net.out((scores @ v).transpose(1, 2).flatten(2))

    layers = {name: nn.Linear(16, 32) for name in "qkv"}
    net = Net(attend, **layers, out=nn.Linear(32, 3), table=parameter(9, 4), index=torch.randint(0, 9, (5, 5)))
    assert share_left(net, tokens()) < 0.55
    assert list(net.slim.layout.axes["table"]) == [1]


def test_bags_of_embeddings():
    for mode in ("sum", "mean"):
        net = nn.Sequential(nn.EmbeddingBag(20, 32, mode=mode), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 3))
        assert share_left(net, torch.randint(0, 20, (2, 5))) < 0.5


def test_a_table_of_queries_makes_channels_of_its_own():
    def forward(net, x):
        scores = net.q(net.queries) @ net.k(x).transpose(1, 2)
        return net.last(scores.softmax(-1) @ net.v(x))

    layers = {"q": nn.Linear(64, 8), "k": nn.Linear(16, 8), "v": nn.Linear(16, 32), "last": nn.Linear(32, 3)}
    net = Net(forward, queries=parameter(50, 64), **layers)
    assert "queries" in {layer for group in follow(net, tokens()).groups for layer in group.layers}
    assert share_left(net, tokens()) < 0.6


class Asking(nn.Module):
    """A table that holds two kinds of queries side by side, cut apart by a size that forward has as a number."""

    def __init__(self):
        super().__init__()
        self.enter, self.hidden = nn.Linear(16, 32), nn.Linear(32, 64)
        self.back, self.leave = nn.Linear(64, 32), nn.Linear(32, 3)
        self.table, self.of_first, self.of_second = parameter(5, 48), nn.Linear(24, 32), nn.Linear(24, 32)

    def forward(self, x):
        first, second = self.table.split(24, 1)
        x = self.enter(x) + self.of_first(first).relu() * self.of_second(second)
        return self.leave(x + self.back(self.hidden(x).relu()))


def test_only_a_table_stays_whose_parts_have_a_literal_size():
    layout = follow(Asking(), tokens())
    assert set(layout.kept) == {"table", "leave"}
    assert "(not enough values to unpack (expected 2, got 1)): split in the network" in layout.kept["table"]
    assert share_left(Asking(), tokens()) < 0.45


def test_weights_of_tokens_by_a_learned_vector():
    """Attention of one query, as of words in hierarchical attention networks: a matrix times a vector."""

    def middle(net, x):
        weights = (torch.tanh(net.hidden(x)) @ net.query).softmax(1)
        return (weights.unsqueeze(2) * x).sum(1, keepdim=True) + F.linear(x, net.gate).sigmoid().unsqueeze(-1) * x

    parts = {"hidden": nn.Linear(32, 32), "query": parameter(32), "gate": parameter(32)}
    net = between_linears(middle, **parts)
    assert share_left(net, tokens()) < 0.4
    assert {"query", "gate"} <= set(net.slim.layout.axes)


def test_rows_of_a_matrix_by_a_vector_of_activations():
    def forward(net, x):
        seen = net.first(x).sum((0, 1))
        return net.last(F.relu(net.table @ seen) + seen.dot(net.query))

    net = Net(forward, first=nn.Linear(16, 32), table=parameter(24, 32), query=parameter(32), last=nn.Linear(24, 3))
    assert share_left(net, tokens()) < 0.55
    assert list(net.slim.layout.axes["table"]) == [0, 1]


@pytest.mark.parametrize("table", [parameter(1, 64, 32), torch.randn(1, 64, 32)], ids=["learned", "buffer"])
def test_positions_that_are_cut_out_of_a_square_of_them(table):
    """Stable Diffusion 3 crops its table to the image: most of its rows meet nothing, and have the same channels."""

    def middle(net, x):
        rows = net.table.reshape(1, 8, 8, -1)[:, 2:4, 1:4]
        return x + rows.reshape(1, -1, rows.shape[-1])

    net = between_linears(middle, table=table)
    assert share_left(net, tokens(6)) < 0.4
    assert list(net.slim.layout.axes["table"]) == [2]


def test_a_table_that_is_added_to_what_a_layer_makes_of_each_sample():
    """One shift and scale for all layers, and a table for each (PixArt, Sana, Wan): both are cut into rows."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.query, self.back = parameter(1, 2, 32), nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x, condition):
            shift, scale = (self.table + condition).chunk(2, dim=1)
            heads = self.query(x * (1 + scale) + shift).unflatten(-1, (4, -1)).transpose(1, 2)
            seen = F.scaled_dot_product_attention(heads, heads, heads)
            return x + self.back(seen.transpose(1, 2).flatten(2))

    def middle(net, x):
        condition = net.condition(x.mean(1)).unflatten(1, (2, -1))
        for block in net.blocks:
            x = block(x, condition)
        return x

    parts = {"condition": nn.Linear(32, 64), "blocks": nn.ModuleList(Block() for _ in range(2))}
    assert share_left(between_linears(middle, **parts), tokens()) < 0.36
