"""What does not slim in the networks of torchvision and timm is named, and so is what refuses a network."""

import re

import pytest

from tests.families.findings import finding
from tests.families.members import MEMBERS, REFUSED, TESTED
from tests.families.packages import ABSENT, WHY_SKIPPED

if ABSENT:
    pytest.skip(WHY_SKIPPED, allow_module_level=True)

BY_NAME = {str(member): member for member in MEMBERS}
KEPT = [
    (
        "torchvision-shufflenet_v2_x1_0",
        "stage2.0.branch1.2",
        "all its channels are tied into one unit, with those of 'stage2.0.branch1.2'",
    ),
    (
        "timm-convnextv2_atto",
        "stages.0.blocks.0.mlp.fc1",
        "statistic over channels: mean in 'stages.0.blocks.0.mlp.grn' (GlobalResponseNorm)",
    ),
    (
        "timm-mixer_s32_224",
        "blocks.0.mlp_tokens.fc1",
        "acts along another axis than the channels: mm in 'blocks.0.mlp_tokens.fc1' (Linear)",
    ),
    (
        "timm-poolformer_s12",
        "stages.0.blocks.0.mlp.fc2",
        "all its channels are tied into one unit, with those of 'stem.conv'",
    ),
]


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "layer", "reason"), KEPT)
def test_layers_that_stay_full_have_their_reason(name, layer, reason):
    assert finding(BY_NAME[name]).kept[layer] == reason


@pytest.mark.parametrize("member", [m for m in REFUSED if m in TESTED], ids=str)
def test_a_network_that_cannot_slim_is_refused_with_the_name_of_the_layer(member):
    assert re.search(member.refused, finding(member).refused)
