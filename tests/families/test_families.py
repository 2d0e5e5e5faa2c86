"""Networks that no one here wrote, converted as they come: at every width the dense network of the slices.

One file, since a file is one process: what `finding` keeps of each network serves all tests of it.
"""

import pytest
import torch

import slimlib as slim
from tests.extent import NIGHTLY
from tests.families.findings import OUTPUT, TOLERANCE, difference, finding, without_chance
from tests.families.members import FAMILIES, MEMBERS, TESTED
from tests.families.packages import ABSENT, WHY_SKIPPED
from tests.families.page import COMMAND, PAGE, page, verdicts
from tests.families.twins import TWINS

if ABSENT:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

BY_NAME = {str(member): member for member in MEMBERS}
KEPT = [
    (
        "torchvision-shufflenet_v2_x0_5",
        "stage3.0.branch1.2",
        "all its channels are tied into one unit, with those of 'stage3.0.branch1.2'",
    ),
    (
        "timm-mixer_s32_224",
        "blocks.0.mlp_tokens.fc1",
        "acts along another axis than the channels: linear in 'blocks.0.mlp_tokens.fc1' (Linear)",
    ),
    (
        "timm-gmlp_ti16_224",
        "blocks.0.mlp_channels.gate.proj",
        "acts along another axis than the channels: linear in 'blocks.0.mlp_channels.gate.proj' (Linear)",
    ),
]

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


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "layer", "reason"), KEPT)
def test_layers_that_stay_full_have_their_reason(name, layer, reason):
    assert finding(BY_NAME[name]).kept[layer] == reason


@pytest.mark.parametrize("name", ["timm-convnext_atto", "timm-vit_tiny_patch16_224", "transformers-Llama"])
def test_all_layers_but_the_one_that_gives_the_classes_slim(name):
    assert BY_NAME[name] in TESTED
    assert set(finding(BY_NAME[name]).kept.values()) == {OUTPUT}


def test_the_committed_page_has_these_networks_and_verdicts():
    found = verdicts(page({member: finding(member) for member in TESTED}))
    committed = [row for row in verdicts(PAGE.read_text()) if NIGHTLY or row[:2] in {one[:2] for one in found}]
    assert committed == found, f"run {COMMAND}"


def test_no_verdict_is_wrong():
    assert {member for member in TESTED if finding(member).verdict == "wrong"} == set()


@pytest.mark.parametrize("family", TWINS)
def test_half_width_equals_a_network_built_with_half_the_channels(family):
    assert family in FAMILIES
    wide, twin = TWINS[family].pair()
    x = torch.randn(2, 3, TWINS[family].size, TWINS[family].size, dtype=torch.double)
    for net in (wide, twin):
        without_chance(net.eval())
    slim.convert(wide, x, norm="shared", divisor=1)
    slim.set_width(wide, 0.5)
    for training in (False, True):
        assert difference(wide.train(training)(x), twin.train(training)(x)) <= TOLERANCE
    assert slim.cost(wide, x, width=0.5).params == sum(p.numel() for p in twin.parameters())
