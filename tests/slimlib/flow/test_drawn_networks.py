"""Networks that are put together by chance are the dense ones of their slices, at any plan."""

import copy

import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

import slimlib as slim
from slimlib.core.width import WidthPlan
from slimlib.flow import FlowError
from tests.extent import NIGHTLY
from tests.families.findings import difference, randomised
from tests.families.slices import DenseOfSlices, active_elements
from tests.slimlib.flow.drawn import PARTS, Drawn

GRAPHS = 500 if NIGHTLY else 12
part = st.tuples(st.integers(0, len(PARTS) - 1), st.integers(0, 11))


@settings(max_examples=GRAPHS, derandomize=not NIGHTLY, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(part, min_size=1, max_size=6), shares=st.lists(st.floats(0.05, 1.0), min_size=3, max_size=5))
def test_drawn_networks_are_the_dense_ones_of_their_slices(parts, shares):
    torch.manual_seed(0)
    dense, x = randomised(Drawn(parts)).double().eval(), torch.randn(2, 3, 8, 8).double()
    try:
        net = slim.convert(copy.deepcopy(dense), x, norm="shared")
    except FlowError as error:
        assert "nothing slims in this Drawn. '" in str(error)
        reject()
    full = [group.units for group in net.slim.layout.groups]
    staggered = WidthPlan([max(1, round(units * shares[i % len(shares)])) for i, units in enumerate(full)])
    slices = DenseOfSlices(copy.deepcopy(dense))
    with torch.no_grad():
        assert torch.equal(net(x), dense(x))
        for width in (staggered, 0.5):
            slim.set_width(net, width)
            slices.keep(active_elements(dense, net.slim.layout, net.slim.channels_at(width)))
            assert difference(net(x), slices(x)) < 1e-9
            assert difference(slim.extract(net, width)(x), net(x)) < 1e-9
