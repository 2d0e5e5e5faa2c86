"""The one ONNX file for several widths: weights are stored once, for uniform widths, plans and switches."""

import pytest
import torch

import slimlib as slim
from tests.exports import assert_close, expected, from_onnx
from tests.networks import MLP, MobileNet, image

pytest.importorskip("onnxruntime")
PLANS = (slim.WidthPlan([256, 64]), slim.WidthPlan([64, 256]))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    torch.manual_seed(0)
    net = slim.convert(MLP((8, 256, 256, 4)), torch.randn(2, 8)).eval()
    folder = tmp_path_factory.mktemp("wide") / "out"
    manifest = slim.export(net, folder, [0.9, 1.0, 0.8], torch.randn(1, 8), formats=["onnx", "onnx-any-width"])
    return net, folder, manifest


def test_weights_are_stored_once(wide):
    _, _, manifest = wide
    sizes = [entry.files["onnx"].bytes for entry in manifest.widths]
    assert manifest.any_width.bytes < 1.1 * max(sizes) < 0.5 * sum(sizes)


def test_index_is_the_place_in_widths(wide):
    net, folder, _ = wide
    args = (torch.randn(3, 8),)
    for place, width in enumerate([0.9, 1.0, 0.8]):
        assert_close(
            from_onnx(folder / "any-width.onnx", args, width_index=torch.tensor(place)), expected(net, width, args)
        )


def test_index_out_of_range_is_an_error(wide):
    _, folder, _ = wide
    with pytest.raises(Exception, match="out of data bounds"):
        from_onnx(folder / "any-width.onnx", (torch.randn(3, 8),), width_index=torch.tensor(3))


def test_plans_share_weights_that_none_has_all_of(wide, tmp_path):
    net, _, uniform = wide
    manifest = slim.export(net, tmp_path / "out", PLANS, torch.randn(2, 8), formats=["onnx-any-width"])
    args = (torch.randn(3, 8),)
    for place, plan in enumerate(PLANS):
        assert_close(
            from_onnx(tmp_path / "out/any-width.onnx", args, width_index=torch.tensor(place)), expected(net, plan, args)
        )
    assert [entry.width for entry in manifest.widths] == list(PLANS)
    assert manifest.any_width.bytes < uniform.any_width.bytes


def test_switches_keep_their_own_batchnorm(tmp_path):
    torch.manual_seed(0)
    net = slim.convert(MobileNet(), image(), widths=slim.Switches(0.5, 1.0), norm="switchable").eval()
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape))
    slim.export(net, tmp_path / "out", [0.5, 1.0], image(), formats=["onnx-any-width"], fold=False)
    args = image()
    for place, width in enumerate([0.5, 1.0]):
        assert_close(
            from_onnx(tmp_path / "out/any-width.onnx", args, width_index=torch.tensor(place)),
            expected(net, width, args),
        )
