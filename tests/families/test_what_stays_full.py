"""What does not slim in the networks of other packages is named."""

import pytest

from tests.families.findings import OUTPUT, finding
from tests.families.members import MEMBERS, TESTED
from tests.families.packages import ABSENT, WHY_SKIPPED

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


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "layer", "reason"), KEPT)
def test_layers_that_stay_full_have_their_reason(name, layer, reason):
    assert finding(BY_NAME[name]).kept[layer] == reason


@pytest.mark.parametrize("name", ["timm-nf_resnet26", "timm-vit_tiny_patch16_224", "transformers-Llama"])
def test_all_layers_but_the_one_that_gives_the_classes_slim(name):
    assert BY_NAME[name] in TESTED
    assert set(finding(BY_NAME[name]).kept.values()) == {OUTPUT}
