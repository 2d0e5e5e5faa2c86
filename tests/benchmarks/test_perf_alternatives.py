"""Every way to run a width computes the same, has its row, and is drawn."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.perf import runtimes
from benchmarks.perf.alternatives import WAYS, alternatives, present
from benchmarks.perf.measurement import Machine, Measurement
from benchmarks.perf.records import read, write
from benchmarks.perf.report import write_report
from benchmarks.perf.runtimes import in_onnxruntime, quantise
from benchmarks.perf.timing import Spread
from benchmarks.perf.ways import Timed, finding, timed

ROOT = Path(__file__).parents[2]
EPYC = Machine("AMD EPYC, 2 cores", 1, "2.13.0+cpu", "cpu")
COMPILED = tuple(way for way in WAYS if way.startswith("torch.compile"))


def _rows(ways: tuple[str, ...]) -> list[Measurement]:
    ways = tuple(present(ways)[0])
    return list(alternatives("ResNet-8 x 2", widths=(0.25,), size=32, rounds=1, batches=(1, 2), ways=ways))


def test_every_way_that_is_present_has_its_row_with_equal_outputs() -> None:
    rows = _rows(tuple(way for way in WAYS if way not in COMPILED))  # checks inside
    expected = [way for way in WAYS if way not in COMPILED and (find_spec("openvino") or "OpenVINO" not in way)]
    for batch, unit in ((1, "ms"), (2, "images/s")):
        setting = f"width 0.25, batch {batch}, "
        found = [m for m in rows if m.what == "alternatives" and m.setting.startswith(setting)]
        assert [m.setting.removeprefix(setting) for m in found] == expected
        assert all(m.unit == unit and m.value.median > 0 for m in found)
    errors = [m for m in rows if m.what == "error of int8"]
    assert len(errors) == 2 * sum("int8" in way for way in expected)
    assert all(0 < m.value.median < math.inf and m.unit == "%" for m in errors)


@pytest.mark.nightly
def test_compiled_networks_have_equal_outputs() -> None:
    rows = _rows(("torch, dense", *COMPILED))  # checks inside
    assert len(rows) == 6


def test_an_output_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.perf.alternatives.in_onnxruntime", lambda file: lambda x: torch.zeros(len(x), 1000))
    with pytest.raises(AssertionError, match="onnxruntime float32"):
        _rows(("torch, dense", "onnxruntime float32"))


def test_what_is_missing_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
    monkeypatch.setattr("shutil.which", lambda name: None)
    ways, lines = present()
    assert ways == [way for way in WAYS if not way.startswith(("OpenVINO", "torch.compile"))]
    assert "OpenVINO int8 skipped: no package openvino" in lines
    assert "torch.compile of frozen skipped: no C++ compiler" in lines


def test_a_quantised_file_computes_in_int8_close_to_the_original(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
    images = [torch.randn(1, 3, 16, 16) for _ in range(4)]
    torch.onnx.export(net, (images[0],), tmp_path / "a.onnx", dynamo=True, external_data=False)
    file = quantise(tmp_path / "a.onnx", images, tmp_path / "b.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load(file).graph.node}
    x = images[0].numpy()
    exact, found = torch.tensor(in_onnxruntime(tmp_path / "a.onnx")(x)), torch.tensor(in_onnxruntime(file)(x))
    assert 0 < (found - exact).norm() < 0.05 * exact.norm()


def _measured(way: str, value: float, *, batch: int = 1) -> Measurement:
    unit = "ms" if batch == 1 else "images/s"
    return Measurement("alternatives", "Net", f"width 0.5, batch {batch}, {way}", Spread(value, value, value), unit)


def test_the_page_and_the_figure_come_from_the_records(tmp_path: Path) -> None:
    rows = [
        _measured("torch, dense", 4.0),
        _measured("onnxruntime float32", 2.0),
        _measured("OpenVINO int8", 1.0),
        _measured("torch, dense", 300.0, batch=32),
        _measured("onnxruntime float32", 250.0, batch=32),
        Measurement("error of int8", "Net", "width 0.5, batch 1, OpenVINO int8", Spread(12.0, 12.0, 12.0), "%"),
    ]
    write(tmp_path, rows, EPYC, rounds=1)
    table = write_report(tmp_path)
    assert "alternatives" not in table
    page = (tmp_path / "alternatives.md").read_text()
    title, *rest = page.splitlines()
    assert title == (
        "# Fastest in float32 onnxruntime float32 (1 of 2), torch, dense (1 of 2); "
        "of all OpenVINO int8 (1 of 2), torch, dense (1 of 2)"
    )
    assert f"## {EPYC}" in rest
    assert "| Net, milliseconds of an image | width 0.5 |" in rest
    assert "| onnxruntime float32 | 2.00 |" in rest and "| onnxruntime float32 | 250 |" in rest
    assert "off by 12 to 12 %" in page
    assert (tmp_path / "alternatives.png").read_bytes().startswith(b"\x89PNG")


def test_throughput_is_compared_as_time() -> None:
    slow, fast = (Timed(EPYC, "Net", 0.5, 32, way, "images/s", Spread(n, n, n)) for way, n in (("a", 1.0), ("b", 9.0)))
    assert finding([slow, fast]).startswith("Fastest in float32 b (1 of 1)")


def test_the_committed_page_is_that_of_the_committed_records(tmp_path: Path) -> None:
    from benchmarks.perf.ways import ERROR, page

    records = read(ROOT / "results/perf")
    committed = ROOT / "results/perf/alternatives.md"
    assert committed.exists() == bool(timed(records))
    assert not committed.exists() or page(timed(records), timed(records, ERROR)) == committed.read_text()
