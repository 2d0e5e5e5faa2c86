"""Networks that no one here wrote, converted as they come: at every width the dense network of the slices."""

import pytest
import torch

import slimlib as slim
from tests.families.findings import OUTPUT, TOLERANCE, difference, finding, without_chance
from tests.families.members import FAMILIES, TESTED
from tests.families.packages import ABSENT, WHY_SKIPPED
from tests.families.twins import TWINS

if ABSENT:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

every_member = pytest.mark.parametrize("member", TESTED, ids=str)


@every_member
def test_outputs_are_those_of_the_dense_network_of_the_slices(member):
    found = finding(member)
    assert {where: d for where, d in found.outputs.items() if not d <= found.tolerance} == {}


@every_member
def test_gradients_are_those_of_the_dense_network_of_the_slices(member):
    found = finding(member)
    assert found.gradients <= found.tolerance
    assert found.still == ()


@every_member
def test_full_width_is_the_original_bit_for_bit(member):
    assert finding(member).same_when_full


@every_member
def test_extract_equals_set_width(member):
    assert finding(member).extracted <= finding(member).tolerance


@pytest.mark.parametrize("member", [m for m in TESTED if m.at_most is not None], ids=str)
def test_no_more_parameters_are_left_than_in_the_study(member):
    assert finding(member).halves <= member.at_most + 5e-4


@every_member
def test_what_stays_full_has_a_reason_that_names_where(member):
    found = finding(member)
    assert not found.refused or " in '" in found.refused or "forward of '" in found.refused
    for why in found.kept.values():
        assert why in (OUTPUT, "never ran") or " in '" in why or "forward of '" in why or "with those of '" in why, why


@pytest.mark.parametrize("family", TWINS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
def test_half_width_equals_a_network_built_with_half_the_channels(family, training):
    assert family in FAMILIES
    wide, twin = TWINS[family].pair()
    x = torch.randn(2, 3, TWINS[family].size, TWINS[family].size, dtype=torch.double)
    for net in (wide, twin):
        without_chance(net.train(training))
    slim.convert(wide, x, norm="shared", divisor=1)
    slim.set_width(wide, 0.5)
    assert difference(wide(x), twin(x)) <= TOLERANCE
    assert slim.cost(wide, x, width=0.5).params == sum(p.numel() for p in twin.parameters())
