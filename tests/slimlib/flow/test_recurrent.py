"""Recurrent layers: hidden units slim in all gates, and at half width they are the dense layers built for it."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import slimlib as slim
from tests.slimlib.flow.judging import Net, share_left

GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


class Tagger(nn.Module):
    """Features, a recurrent layer, a label for each step."""

    def __init__(self, kind=nn.LSTM, width=1.0, features=32, hidden=32, **options):
        super().__init__()
        self.width, (features, hidden) = width, (int(features * width), int(hidden * width))
        if "proj_size" in options:
            options["proj_size"] = int(options["proj_size"] * width)
        self.features = nn.Linear(6, features)
        self.body = kind(features, hidden, **options)
        given = options.get("proj_size", hidden)
        self.label = nn.Linear(given * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x):  # [N, T, 6] -> [N, T, 3]
        return self.label(self.body(F.relu(self.features(x)))[0])


class Packed(Tagger):
    def forward(self, x):
        lengths = torch.tensor([5, 3, 4][: len(x)])
        steps = pack_padded_sequence(F.relu(self.features(x)), lengths, batch_first=True, enforce_sorted=False)
        out, _ = self.body(steps)
        return self.label(pad_packed_sequence(out, batch_first=True)[0])


class FromItsLastState(Tagger):
    def forward(self, x):
        _, state = self.body(F.relu(self.features(x)))
        last = state[0] if isinstance(state, tuple) else state
        return self.label(torch.cat([last[-2], last[-1]], -1) if self.body.bidirectional else last[-1])


class Decoding(nn.Module):
    """The last states of one layer are the first of another, as in a translator."""

    def __init__(self, width=1.0):
        super().__init__()
        size = int(32 * width)
        self.features = nn.Linear(6, size)
        self.reads, self.writes = nn.LSTM(size, size, batch_first=True), nn.LSTM(6, size, batch_first=True)
        self.label = nn.Linear(size, 3)

    def forward(self, x):
        _, state = self.reads(F.relu(self.features(x)))
        return self.label(self.writes(x, state)[0])


class LearnedState(Tagger):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.first = nn.Parameter(torch.randn(1, 1, self.body.hidden_size))

    def forward(self, x):
        state = self.first.expand(-1, len(x), -1).contiguous()
        state = (state, torch.tanh(state)) if isinstance(self.body, nn.LSTM) else state
        return self.label(self.body(F.relu(self.features(x)), state)[0])


class StateOfZeros(Tagger):
    """Its first state is made in forward, of the layer's own number."""

    def forward(self, x):
        zeros = torch.zeros(1, len(x), self.body.hidden_size, dtype=x.dtype)
        state = (zeros, zeros) if isinstance(self.body, nn.LSTM) else zeros
        return self.label(self.body(F.relu(self.features(x)), state)[0])


class Loop(Tagger):
    """A cell, step by step."""

    def forward(self, x):
        state, outs = None, []
        for step in F.relu(self.features(x)).unbind(1):
            state = self.body(step, state)
            outs.append(state[0] if isinstance(state, tuple) else state)
        return self.label(torch.stack(outs, 1))


class WithMemory(Tagger):
    """A cell that reads what it asks for, from a memory that it writes to (as a neural Turing machine)."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        hidden = self.body.hidden_size
        self.memory = nn.Parameter(torch.randn(6, hidden))
        self.key, self.sharpness = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, x):
        memory, state, outs = self.memory.expand(len(x), -1, -1), None, []
        read = memory.mean(1)
        for step in F.relu(self.features(x)).unbind(1):
            state = self.body(step + read, state)
            key = self.key(state[0])
            alike = F.cosine_similarity(memory, key.unsqueeze(1), dim=-1)
            weights = (F.softplus(self.sharpness(state[0])) * alike).softmax(-1)
            read = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            memory = memory * (1 - weights.unsqueeze(-1) * torch.sigmoid(key).unsqueeze(1))
            outs.append(state[0])
        return self.label(torch.stack(outs, 1))


def net(made, *args, **options):
    return pytest.param(lambda width: made(*args, width=width, **options), id=f"{made.__name__}-{args}-{options}")


KINDS = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
NETS = [
    *(net(Tagger, kind, batch_first=True) for kind in KINDS),
    *(net(Tagger, kind, num_layers=2, bidirectional=True, dropout=0.5) for kind in KINDS),
    net(Tagger, nn.RNN, nonlinearity="relu", bias=False),
    net(Tagger, nn.LSTM, proj_size=16, num_layers=2),
    net(Tagger, nn.LSTM, hidden=64, proj_size=32, bidirectional=True, bias=False),
    *(net(Packed, kind, batch_first=True, bidirectional=True) for kind in KINDS),
    *(net(FromItsLastState, kind, batch_first=True, num_layers=2) for kind in KINDS),
    net(FromItsLastState, nn.LSTM, batch_first=True, bidirectional=True),
    net(Decoding),
    net(LearnedState, nn.LSTM, batch_first=True),
    net(LearnedState, nn.GRU, batch_first=True),
    net(StateOfZeros, nn.LSTM, batch_first=True),
    *(net(Loop, cell) for cell in CELLS),
    net(WithMemory, nn.LSTMCell),
]


def sequences(batch=3):
    return torch.randn(batch, 5, 6, generator=torch.Generator().manual_seed(0))


def carry(full, twin):
    """Give the twin the leading part of every gate, and of what each direction gives out."""
    state, modules = full.state_dict(), dict(full.named_modules())
    both = any(getattr(module, "bidirectional", False) for module in modules.values())
    for name, tensor in twin.state_dict().items():
        value, (layer, _, weight) = state[name], name.rpartition(".")
        for dim, size in enumerate(tensor.shape):
            blocks = 1
            if layer and dim == 0 and "weight_hr" not in weight:
                blocks = GATES.get(type(modules[layer]), 1)
            elif both and dim == 1 and (layer == "label" or weight.startswith("weight_ih_l1")):
                blocks = 2  # both directions, side by side
            picks = torch.arange(value.shape[dim]).view(blocks, -1)[:, : size // blocks].flatten()
            value = value.index_select(dim, picks)
        tensor.copy_(value)
    return twin


@pytest.mark.parametrize("make", NETS)
def test_half_width_equals_the_dense_network_built_for_it(make):
    torch.manual_seed(0)
    dense, x = make(1.0).eval(), sequences()
    full = dense(x)
    twin = carry(dense, make(0.5)).eval()
    net = slim.convert(copy.deepcopy(dense), x)
    assert torch.equal(net(x), full)
    slim.set_width(net, 0.5)
    assert torch.allclose(net(x), twin(x), atol=1e-6)
    small = slim.extract(net, 0.5)
    assert [p.shape for p in small.parameters()] == [p.shape for p in twin.parameters()]
    assert torch.allclose(small(x), twin(x), atol=1e-6)


@pytest.mark.parametrize("make", NETS)
def test_gradients_stay_in_the_slices(make):
    torch.manual_seed(0)
    dense, x = make(1.0), sequences()
    twin = carry(dense, make(0.5))
    net = slim.convert(dense, x).train()
    twin.train()
    for module in [*net.modules(), *twin.modules()]:
        module.dropout = 0.0 if isinstance(module, nn.RNNBase) else None
    slim.set_width(net, 0.5)
    net(x).square().sum().backward()
    twin(x).square().sum().backward()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p.grad.abs().sum(), q.grad.abs().sum(), rtol=1e-4), name


def test_one_training_step_is_seen_by_the_next_forward():
    x = sequences()
    net = slim.convert(Tagger(nn.LSTM, batch_first=True), x)
    slim.set_width(net, 0.5)
    before = net(x)
    before.square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    assert torch.allclose(net(x), slim.extract(net, 0.5)(x), atol=1e-6)
    assert not torch.allclose(net(x), before)


def test_copies_pickles_files_and_casts_keep_the_whole(tmp_path):
    x = sequences()
    net = slim.convert(Tagger(nn.GRU, batch_first=True, num_layers=2, bidirectional=True), x).eval()
    full = net(x)
    slim.set_width(net, 0.5)
    half = net(x)
    copied = copy.deepcopy(net)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    slim.save(net, tmp_path / "net.safetensors")
    loaded = slim.load(
        tmp_path / "net.safetensors", into=Tagger(nn.GRU, batch_first=True, num_layers=2, bidirectional=True).eval()
    )
    for other in (copied, read, loaded, net.double().float()):
        slim.set_width(other, 0.5)
        assert torch.equal(other(x), half)
        slim.set_width(other, 1.0)
        assert torch.equal(other(x), full)
    served = slim.freeze(net, widths=[0.5, 1.0])
    slim.set_width(served, 0.5)
    assert torch.allclose(served(x), half, atol=1e-6)


def test_a_state_that_the_user_gives_keeps_the_hidden_units_full():
    class Given(Tagger):
        def forward(self, x, state):
            return self.label(F.relu(self.body(F.relu(self.features(x)), state)[0]))

    net = slim.convert(Given(nn.GRU, batch_first=True), (sequences(), torch.zeros(1, 3, 32)))
    assert "network's input" in net.slim.layout.kept["body"]
    slim.set_width(net, 0.5)
    assert net(sequences(), torch.zeros(1, 3, 32)).shape == (3, 5, 3)
    assert net.body.weight_ih_l0.shape == (96, 16)


def test_context_that_is_zeros_at_first():
    """A decoder is fed what it attended to, of both directions, beside each token."""

    def decode(net, x):
        seen, last = net.encoder(net.first(x))
        state, context, made = net.bridge(torch.cat([last[0], last[1]], 1)), seen.new_zeros(len(x), seen.shape[2]), []
        for token in net.second(x).unbind(1):
            state = net.cell(torch.cat([token, context], 1), state)
            weights = (net.keys(seen) @ state.unsqueeze(2)).softmax(1)
            context = (weights * seen).sum(1)
            made.append(net.head(torch.cat([state, context], 1)))
        return torch.stack(made, 1)

    layers = {"first": nn.Linear(16, 32), "second": nn.Linear(16, 24)}
    layers |= {"encoder": nn.GRU(32, 32, batch_first=True, bidirectional=True)}
    layers |= {"bridge": nn.Linear(64, 32), "keys": nn.Linear(64, 32), "cell": nn.GRUCell(88, 32)}
    assert share_left(Net(decode, **layers, head=nn.Linear(96, 3)), torch.randn(2, 4, 16)) < 0.36
