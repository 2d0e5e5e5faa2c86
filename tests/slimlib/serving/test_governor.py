"""The governor answers in time, uses the room it has, and does not swing; profiles measure every width."""

import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import slimlib as slim
from slimlib.serving.governor import MOST_PATIENCE, QUICK, ROOM, SETTLED
from slimlib.serving.profiling import WidthProfile

WIDTHS = (0.25, 0.5, 0.75, 1.0)
COSTS = (2.0, 5.0, 9.0, 16.0)


def made_up(costs=COSTS):
    rows = tuple(WidthProfile(w, ms, 1.1 * ms, 1e3 / ms, 0) for w, ms in zip(WIDTHS, costs, strict=True))
    return slim.Profile(rows, "cpu", 1, 10)


def governor(budget):
    return slim.Governor(slim.adopt(slim.SlimLinear(8, 8)), made_up(), budget)


def place_of(g):
    return WIDTHS.index(g.width)


def serve(g, slower, requests):
    """Requests on a machine that is so much slower; the width of each."""
    seen = []
    for number in range(requests):
        seen.append(g.width)
        factor = slower(number) if callable(slower) else slower
        g.observe(factor * COSTS[place_of(g)])
    return seen


@given(
    slower=st.floats(0.3, 12), budget=st.floats(1, 60), noise=st.lists(st.floats(0.97, 1.03), min_size=20, max_size=20)
)
@settings(max_examples=200, deadline=None)
def test_under_a_steady_load_it_settles_on_the_widest_that_fits(slower, budget, noise):
    g = governor(budget)
    serve(g, lambda i: slower * noise[i % 20], 600)
    late = serve(g, lambda i: slower * noise[i % 20], 400)
    near_the_edge = any(0.96 * budget < slower * cost < 1.04 * budget for cost in COSTS)
    if not near_the_edge:
        assert len(set(late)) == 1
        place = place_of(g)
        assert place == 0 or slower * COSTS[place] <= budget
        if place + 1 < len(COSTS):
            assert slower * COSTS[place + 1] * 1.03 > ROOM * budget, "there was room for a wider one"


def test_begins_with_the_widest_that_the_profile_promises():
    assert [governor(budget).width for budget in (1.0, 5.0, 8.9, 16.0, 100.0)] == [0.25, 0.5, 0.5, 1.0, 1.0]


def test_sudden_load_makes_it_narrower_within_three_requests_and_at_once_enough():
    g = governor(17.0)
    serve(g, 1.0, 50)
    assert g.width == 1.0
    assert serve(g, 3.0, QUICK + 1)[-1] == 0.5  # 3 x 5 = 15 fits, 3 x 9 does not
    assert set(serve(g, 3.0, 200)) == {0.5}


def test_room_is_used_again_when_the_load_goes():
    g = governor(17.8)
    serve(g, 1.0, 50)
    serve(g, 6.0, 30)
    assert g.width == 0.25
    assert serve(g, 1.0, 4 * SETTLED + 4)[-1] == 1.0


def test_single_slow_request_changes_nothing():
    g = governor(17.0)
    assert set(serve(g, lambda i: 10.0 if i % 7 == 3 else 1.0, 300)) == {1.0}


@pytest.mark.parametrize("period", [15, 30])
def test_load_that_comes_and_goes_does_not_make_it_swing(period):
    """Each time it has just become wider, the load comes back: it waits longer and longer."""
    g = governor(10.0)
    seen = serve(g, lambda i: 2.5 if (i // period) % 2 else 0.9, 4000)
    changes = sum(a != b for a, b in pairwise(seen))
    late = sum(a != b for a, b in pairwise(seen[-1000:]))
    assert changes < 4000 / period
    assert late <= 1000 / period + 1
    g = governor(10.0)
    taken_back = serve(g, lambda _: 2.5 if g.width == 0.75 else 0.9, 20_000)
    assert sum(a != b for a, b in pairwise(taken_back)) < 80
    assert g._patience == MOST_PATIENCE


def test_new_budget_is_kept():
    g = governor(100.0)
    serve(g, 1.0, 20)
    g.budget_ms = 6.0
    assert serve(g, 1.0, QUICK + 1)[-1] == 0.5
    g.budget_ms = 100.0
    assert serve(g, 1.0, 3 * SETTLED + 3)[-1] == 1.0
    with pytest.raises(ValueError, match="budget_ms=0 must be a number of milliseconds above 0"):
        g.budget_ms = 0


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return slim.convert(net, torch.randn(2, 8)).eval()


def test_requests_are_computed_with_the_width_chosen():
    net, seen = network(), torch.randn(3, 8)
    frozen = slim.freeze(net, WIDTHS)
    ticks = iter(range(10**6))
    g = slim.Governor(frozen, made_up(), 0.5, clock=lambda: next(ticks))  # each request takes a second
    for _ in range(10):
        expected = g.width
        output = g(seen)
        slim.set_width(net, expected)
        torch.testing.assert_close(output, net(seen))
        assert not output.requires_grad
    assert g.width == 0.25
    assert repr(g) == "Governor(width 0.25, budget 0.5 ms)"


def test_threads_share_one_governor():
    frozen, seen = slim.freeze(network(), WIDTHS), torch.randn(3, 8)
    g = slim.Governor(frozen, slim.profile(frozen, seen, WIDTHS, rounds=5), 1000.0)
    shapes = []
    threads = [threading.Thread(target=lambda: shapes.extend(g(seen).shape for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shapes == [torch.Size([3, 4])] * 200


def test_profile_measures_every_width_and_leaves_the_network_as_it_was(monkeypatch):
    now, takes = 0.0, {width: iter([9.0, 0.003, 0.001, 0.010, 0.002, 0.0]) for width in (0.25, 1.0)}

    def forward(net, *_):
        nonlocal now
        now += slim.current_width(net) * next(takes[slim.current_width(net)])

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    net = network().train()
    net.register_forward_hook(forward)
    slim.set_width(net, 0.5)
    before = torch.get_num_threads()
    measured = slim.profile(net, torch.randn(16, 8), [1.0, 0.25], rounds=4, warmup=1, threads=1)
    assert [row.width for row in measured.rows] == [0.25, 1.0]
    assert (slim.current_width(net), net.training, torch.get_num_threads()) == (0.5, True, before)
    for row in measured.rows:
        assert row.milliseconds == pytest.approx(2.5 * row.width)
        assert row.p95 == pytest.approx(8.95 * row.width)  # between the two largest of four
        assert row.throughput == pytest.approx(16 / (0.0025 * row.width))
    assert measured[1.0].peak_bytes > measured[0.25].peak_bytes >= 16 * 16 * 4
    assert str(measured).splitlines()[0] == "cpu, 1 threads, 4 rounds, widths in turns"
    with pytest.raises(KeyError, match=r"width 0\.5 was not profiled; profiled: 0\.25, 1"):
        measured[0.5]


def test_widest_within_a_budget():
    measured = made_up()
    for budget, width in ((2.2, 0.25), (10.0, 0.75), (1e3, 1.0)):
        assert slim.widest_within(measured, milliseconds=budget) == width
    with pytest.raises(
        ValueError, match=r"no width is within 1 ms; the narrowest, 0\.25, takes 2\.2 ms \(p95\) on cpu"
    ):
        slim.widest_within(measured, milliseconds=1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"widths": []}, "profile needs the widths to measure"),
        ({"widths": [0.5, 0.5]}, "each once"),
        ({"widths": [2.0]}, "width 2 is outside"),
        ({"rounds": 1}, "rounds=1 must be a whole number, at least 2"),
        ({"threads": -1}, "threads=-1 must be a whole number, at least 1"),
        ({"threads": 0}, "threads=0 must be"),
        ({"warmup": 2.5}, "warmup=2.5 must be"),
        ({"widths": 0.5}, "for example [0.25, 0.5, 1.0]; got 0.5"),
        ({"example": ("no tensor",)}, "profile needs an example input"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(changes, says):
    given = {"example": torch.randn(2, 8), "widths": [0.5]} | changes
    with pytest.raises(ValueError) as error:
        slim.profile(network(), given.pop("example"), given.pop("widths"), **given)
    assert says in str(error.value)


GOVERNED = {
    "no profile": (lambda net: slim.Governor(net, None, 5.0), TypeError, "must be what slimlib.profile returned"),
    "no budget": (lambda net: slim.Governor(net, made_up(), None), ValueError, "budget_ms=None must be a number"),
    "dense": (
        lambda net: slim.Governor(nn.Linear(2, 2), made_up(), 5.0),
        ValueError,
        "make it so with slimlib.convert",
    ),
    "other widths": (lambda net: slim.Governor(slim.freeze(net, [1.0]), made_up(), 5.0), ValueError, "was not frozen"),
    "text": (
        lambda net: slim.widest_within(made_up(), milliseconds="5"),
        TypeError,
        "milliseconds='5' must be a number",
    ),
    "no passes": (lambda net: slim.latency(net, torch.randn(2, 8), repeats=0), ValueError, "repeats=0 must be a whole"),
}


@pytest.mark.parametrize(("call", "kind", "says"), GOVERNED.values(), ids=GOVERNED)
def test_what_cannot_be_governed_or_measured_is_refused_at_once(call, kind, says):
    with pytest.raises(kind, match=says):
        call(slim.convert(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.randn(2, 8)))


def test_uncalibrated_width_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    image = torch.randn(1, 3, 8, 8)
    with pytest.raises(slim.UncalibratedWidth, match=r"width 0\.5 has no BatchNorm statistics"):
        slim.profile(slim.convert(net, image), image, [0.5])


def test_a_cascade_is_governed_by_its_quality() -> None:
    torch.manual_seed(0)
    net = slim.convert(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(2, 8)).eval()
    cascade = slim.Cascade(slim.freeze(net, (0.25, 1.0)), (0.25, 1.0), [0.4])
    seen = torch.randn(16, 8)
    measured = slim.profile(cascade, seen, [0.0, 0.5, 1.0], rounds=2, warmup=0)
    assert cascade.thresholds == (0.4,) and [row.width for row in measured.rows] == [0.0, 0.5, 1.0]
    rows = tuple(replace(row, milliseconds=ms) for row, ms in zip(measured.rows, (1.0, 2.0, 4.0), strict=True))
    governor = slim.Governor(cascade, replace(measured, rows=rows), budget_ms=10.0)
    governor(seen)
    assert (governor.width, cascade.quality) == (1.0, 1.0)
    for _ in range(3):
        governor.observe(30.0)
    torch.testing.assert_close(governor(seen), slim.route(cascade.net, seen, [0.25] * 16))
    assert (governor.width, cascade.quality) == (0.0, 0.0)
