"""What a frozen network adds to `extract`: threads, shared memory, and the attributes of the width that is set."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import slimlib as slim
from tests.networks import NETWORKS

WIDTHS = (0.25, 0.5, 1.0)


def perceptron():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))
    return slim.convert(net, torch.randn(2, 8)).eval()


def test_threads_compute_at_widths_of_their_own():
    net, seen = perceptron(), torch.randn(5, 8)
    frozen = slim.freeze(net, WIDTHS)
    expected = {}
    for width in WIDTHS:
        slim.set_width(net, width)
        expected[width] = net(seen).detach()
    wrong, together = [], threading.Barrier(len(WIDTHS) * 2)

    def serve(width):
        together.wait()
        for _ in range(200):
            slim.set_width(frozen, width)
            if not torch.equal(frozen(seen), expected[width]) or slim.current_width(frozen) != width:
                wrong.append(width)

    threads = [threading.Thread(target=serve, args=(width,)) for width in WIDTHS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert slim.current_width(frozen) == 0.25, "of this thread, which has set none"


def test_thread_without_a_width_has_that_of_the_one_that_froze():
    frozen = slim.freeze(perceptron(), WIDTHS)
    slim.set_width(frozen, 0.5)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(slim.current_width(frozen)))
    thread.start()
    thread.join()
    assert seen == [0.5]


def test_leading_parts_share_memory():
    net = perceptron()
    frozen = slim.freeze(net, WIDTHS)
    full = sum(p.nbytes for p in net.parameters())
    # Of the first layer only rows go, of all biases leading entries, and the last bias stays: these are stored once.
    alone = {width: sum(p.nbytes for p in slim.extract(net, width).parameters()) for width in WIDTHS}
    copied = sum(4 * (w1 * w2 + 4 * w2) for w1, w2 in ((8, 16), (16, 32)))
    assert frozen.slim.bytes == full + copied
    assert str(frozen.slim) == (
        f"frozen at 0.25, 0.5, 1: {full + copied:,} bytes, {sum(alone.values()):,} if the widths shared nothing"
    )


def test_widths_that_compute_with_the_same_channels_take_no_more():
    net = perceptron()
    assert slim.freeze(net, [0.5, 0.501]).slim.bytes == slim.freeze(net, [0.5]).slim.bytes


@pytest.mark.parametrize(
    "copier", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copies_share_as_much_and_are_apart(copier):
    frozen = slim.freeze(perceptron(), WIDTHS)
    slim.set_width(frozen, 0.5)
    twin = copier(frozen)
    assert slim.current_width(twin) == 0.5
    assert twin.slim.bytes == frozen.slim.bytes
    slim.set_width(twin, 0.25)
    assert slim.current_width(frozen) == 0.5


def test_sharing_survives_another_type():
    frozen = slim.freeze(perceptron(), WIDTHS)
    seen = torch.randn(3, 8, dtype=torch.double)
    before = frozen.slim.bytes
    expected = []
    for width in WIDTHS:
        slim.set_width(frozen, width)
        expected.append(frozen(seen.float()))
    frozen.double()
    assert frozen.slim.bytes == 2 * before
    for width, was in zip(WIDTHS, expected, strict=True):
        slim.set_width(frozen, width)
        torch.testing.assert_close(frozen(seen).float(), was)


def test_recurrent_layers_move_to_another_type():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rnn, self.last = nn.Linear(4, 16), nn.GRU(16, 8, batch_first=True), nn.Linear(8, 16)
            self.out = nn.Linear(16, 2)

        def forward(self, x):
            return self.out(torch.relu(self.last(self.rnn(torch.relu(self.first(x)))[0])))

    torch.manual_seed(0)
    net = slim.convert(Net(), torch.randn(2, 3, 4)).eval()
    frozen = slim.freeze(net, [0.5]).double()
    slim.set_width(net, 0.5)
    seen = torch.randn(2, 3, 4)
    torch.testing.assert_close(frozen(seen.double()).float(), net(seen))


def test_methods_and_attributes_are_those_of_the_width():
    class Net(nn.Sequential):
        def hidden(self):
            return self[0].out_features

    net = slim.convert(Net(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(2, 8))
    frozen = slim.freeze(net, WIDTHS)
    for width, units in zip(WIDTHS, (8, 16, 32), strict=True):
        slim.set_width(frozen, width)
        assert frozen.hidden() == units
        assert [m.out_features for m in frozen.modules() if isinstance(m, nn.Linear)] == [units, 4]
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = frozen.nothing_like_this


def test_hooks_of_the_frozen_network_run():
    frozen, seen = slim.freeze(perceptron(), WIDTHS), []
    frozen.register_forward_hook(lambda *_: seen.append(1))
    frozen(torch.randn(1, 8))
    assert seen == [1]


def test_an_example_folds_the_norms_of_each_width():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32), nn.ReLU()]
    images = torch.randn(8, 3, 12, 12) * 3 + 1
    net = slim.convert(nn.Sequential(*layers, nn.Conv2d(32, 2, 1)), images[:1])
    net(images), slim.calibrate(net, [images], widths=[0.25, 0.5])
    net.eval()
    frozen = slim.freeze(net, WIDTHS, example=images[:1])
    for width in WIDTHS:
        slim.set_width(net, width)
        slim.set_width(frozen, width)
        torch.testing.assert_close(frozen(images), net(images), rtol=1e-4, atol=1e-4)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in slim.freeze(net, WIDTHS).modules())


@pytest.mark.parametrize("name", ["concatenating", "residual", "wdsr"])
def test_parameters_are_those_of_the_width_and_cannot_learn(name):
    dense, args = NETWORKS[name]()
    net = slim.convert(dense, args, norm="shared").eval()
    frozen = slim.freeze(net, [0.5, 1.0])
    for width in (0.5, 1.0):
        slim.set_width(frozen, width)
        plain = slim.extract(net, width)
        shown, expected = [dict([*m.named_parameters(), *m.named_buffers()]) for m in (frozen, plain)]
        assert shown.keys() == expected.keys()
        assert all(torch.equal(shown[key], value) for key, value in expected.items())
    assert not any(p.requires_grad for p in frozen.parameters()) and frozen.state_dict() == {}
    assert not frozen(*args).requires_grad
    assert frozen.eval() is frozen and frozen.requires_grad_(False) is frozen
    for refused in (frozen.train, frozen.requires_grad_):
        with pytest.raises(RuntimeError, match="a frozen network is a snapshot for serving and cannot be trained"):
            refused()


class AsksItself(nn.Module):
    """Its forward asks its parameters where they are, as those of Transformers do."""

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x):  # [N, 8] -> [N, 4]
        own = next(self.parameters())
        return self.out(torch.relu(self.up(x.to(own.device, own.dtype))))


def test_forward_may_ask_for_the_type_of_its_parameters():
    torch.manual_seed(0)
    x = torch.randn(3, 8)
    net = slim.convert(AsksItself(), x).eval()
    frozen = copy.deepcopy(slim.freeze(net, [0.5, 1.0], example=x)).double()
    for width in (0.5, 1.0):
        slim.set_width(net, width), slim.set_width(frozen, width)
        assert frozen(x).dtype == next(frozen.parameters()).dtype == torch.double
        torch.testing.assert_close(frozen(x).float(), net(x))
    held = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for n in frozen.slim.nets.values()
        for p in n.parameters()
    }
    assert sum(held.values()) == frozen.slim.bytes, "what is shown is what is computed with"


def test_forward_that_needs_real_parameters_is_told_when_it_is_frozen():
    class Needs(AsksItself):
        def forward(self, x):
            return super().forward(x) + self.get_parameter("out.bias")

    x = torch.randn(3, 8)
    net = slim.convert(Needs(), x)
    with pytest.raises(RuntimeError, match=r"width 0\.5 fails on the example once it is frozen: AttributeError"):
        slim.freeze(net, [0.5, 1.0], example=x)


def load_what_was_saved(frozen, path):
    slim.save(perceptron(), path)
    slim.load(path, frozen)


X = torch.zeros(2, 8)
NEED_THE_NETWORK = {
    "freeze": lambda frozen, _: slim.freeze(frozen, [0.5]),
    "extract": lambda frozen, _: slim.extract(frozen, 0.5),
    "save": slim.save,
    "load": load_what_was_saved,
    "calibrate": lambda frozen, _: slim.calibrate(frozen, [X], [0.5]),
    "channel_scores": lambda frozen, _: slim.channel_scores(frozen),
    "latency_table": lambda frozen, _: slim.latency_table(frozen, X),
    "plan_costs": lambda frozen, _: slim.plan_costs(frozen, X),
    "train": lambda frozen, _: slim.Sandwich(slim.WidthRange(0.25, 1.0)).backward(frozen, X, torch.sum),
    "convert": lambda frozen, _: slim.convert(frozen, X),
    "convert what holds it": lambda frozen, _: slim.convert(nn.Sequential(frozen), X),
    "adopt": lambda frozen, _: slim.adopt(frozen),
}


@pytest.mark.parametrize("call", NEED_THE_NETWORK.values(), ids=NEED_THE_NETWORK)
def test_what_needs_the_network_itself_refuses_its_snapshot(call, tmp_path):
    with pytest.raises(ValueError, match="a frozen network is a snapshot for serving; give the network that it was"):
        call(slim.freeze(perceptron(), [0.5]), tmp_path / "net")
