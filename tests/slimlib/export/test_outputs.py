"""export: every file gives what the slimmable network gives, and the manifest says what is there."""

import re
from pathlib import Path

import pytest
import torch

import slimlib as slim
from slimlib.export import read_manifest
from tests.exports import EVERY_FORMAT, IMAGE_SIZE, assert_close, expected, from_every_file, slimmed
from tests.extent import at_night

pytest.importorskip("onnxruntime")
WIDTHS = (1.0, 0.5, 0.25)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory):
    net, args = slimmed("mobilenet", WIDTHS)
    folder = tmp_path_factory.mktemp("mobilenet") / "new" / "export"
    metrics = {0.5: {"top-1": 71.5}}
    manifest = slim.export(net, folder, WIDTHS, args, formats=EVERY_FORMAT, metrics=metrics)
    return net, folder, manifest


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("place", range(len(WIDTHS)))
def test_files_equal_set_width_for_any_batch(mobilenet, place, batch):
    net, folder, manifest = mobilenet
    args = (torch.randn(batch, 3, 16, 16),)
    for got in from_every_file(folder, manifest, place, args).values():
        assert_close(got, expected(net, WIDTHS[place], args))


@pytest.mark.parametrize(
    ("name", "dynamic"),
    [
        ("wdsr", IMAGE_SIZE),  # PixelShuffle, weight normalisation
        at_night("group_norm", IMAGE_SIZE),
        at_night("concatenating", IMAGE_SIZE),  # weights that are no plain leading parts
        ("training_head", None),  # a dict of inputs, a tuple of outputs
        at_night("transformer", None),  # LayerNorm, attention, the batch read by len(x)
    ],
)
def test_networks_of_all_kinds_equal_set_width(name, dynamic, tmp_path):
    net, args = slimmed(name, [0.5])
    manifest = slim.export(net, tmp_path / "out", [1.0, 0.5], args, formats=EVERY_FORMAT, dynamic=dynamic)
    if dynamic:
        args = (torch.randn(3, 3, 20, 14),)
    for place, width in enumerate([1.0, 0.5]):
        for got in from_every_file(tmp_path / "out", manifest, place, args).values():
            assert_close(got, expected(net, width, args))


def test_folder_holds_what_the_manifest_names(mobilenet):
    _, folder, manifest = mobilenet
    names = {f"width-{width}.{ending}" for width in WIDTHS for ending in ("onnx", "pt2")}
    assert {path.name for path in folder.iterdir()} == names | {"any-width.onnx", "manifest.json"}
    assert {file.name for file in manifest.files} == names | {"any-width.onnx"}
    assert read_manifest(folder) == manifest


def test_manifest_has_cost_metrics_and_shapes(mobilenet):
    net, _, manifest = mobilenet
    assert [entry.width for entry in manifest.widths] == list(WIDTHS)
    assert [dict(entry.metrics) for entry in manifest.widths] == [{}, {"top-1": 71.5}, {}]
    for entry in manifest.widths:
        assert entry.macs == slim.cost(net, torch.randn(1, 3, 16, 16), entry.width).macs
        assert entry.channels == net.slim.channels_at(entry.width)
    assert [(v.name, v.shape, v.dtype) for v in manifest.inputs] == [("x", ("batch", 3, 16, 16), "float32")]
    assert [(v.name, v.shape, v.dtype) for v in manifest.outputs] == [("output", ("batch", 10), "float32")]
    assert manifest.network == "MobileNet"
    assert manifest.opset >= 18
    assert manifest.versions.keys() == {"slimlib", "torch", "onnx", "onnxruntime", "onnxscript"}


def test_manifest_names_dynamic_sizes(tmp_path):
    net, args = slimmed("wdsr", [0.5])
    manifest = slim.export(net, tmp_path / "out", [0.5], args, formats=["torch"], dynamic=IMAGE_SIZE)
    assert manifest.inputs[0].shape == ("batch", 3, "height", "width")
    assert manifest.outputs[0].shape == ("batch", 3, "3*height", "3*width")


def test_files_hold_no_paths_of_this_machine(mobilenet):
    _, folder, manifest = mobilenet
    here = str(Path(slim.__file__).parent.parent).encode()
    for file in manifest.files:
        assert not re.search(rb"site-packages|" + re.escape(here), (folder / file.name).read_bytes()), file.name


def test_network_stays_as_it_was(mobilenet, tmp_path):
    net, *_ = mobilenet
    slim.set_width(net.train(), 0.5)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    slim.export(net, tmp_path / "out", [1.0], torch.randn(1, 3, 16, 16), formats=["torch"])
    assert slim.current_width(net) == 0.5
    assert all(module.training for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    net.eval()


def test_export_prints_and_warns_nothing(tmp_path, capfd, recwarn):
    net, args = slimmed("mlp", [0.5])
    slim.export(net, tmp_path / "out", [0.5], args, formats=["onnx", "torch"])
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
