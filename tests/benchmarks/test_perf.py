"""What the timings compare is equal but for slimlib, and what is written is what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import slimlib as slim
from benchmarks.perf.exporting import exporting
from benchmarks.perf.inference import folded, inference
from benchmarks.perf.measure import main
from benchmarks.perf.measurement import Measurement
from benchmarks.perf.networks import NETWORKS, build, channel_rule
from benchmarks.perf.reasons import reason
from benchmarks.perf.records import read, write
from benchmarks.perf.report import write_report
from benchmarks.perf.spectrum import spectrum
from benchmarks.perf.timing import Spread, ratio, take_turns
from benchmarks.perf.training import sandwich_step
from slimlib.serving.profiling import peak_bytes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_networks_have_the_channels_of_the_width(name: str) -> None:
    image = torch.randn(1, 3, 64, 64)
    full = build(name)
    net = slim.convert(full, image, **channel_rule(full))
    for width in (0.25, 0.4, 1.0):
        assert slim.cost(build(name, width), image) == slim.cost(net, image, width)


@pytest.mark.parametrize(
    ("name", "params"), [("MobileNet v1", 4_231_976), ("MobileNet v2", 3_504_872), ("ResNet-50", 25_557_032)]
)
def test_networks_have_the_published_number_of_parameters(name: str, params: int) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == params


def test_inference_compares_networks_with_equal_outputs_and_gives_every_row() -> None:
    rows = list(inference("MobileNet v1", widths=(0.25, 1.0), size=64, rounds=2, formats=("NHWC",)))  # checks inside
    assert [(m.what, m.setting) for m in rows] == [
        (f"inference {kind}", f"width {width}, NHWC")
        for width in ("0.25", "1")
        for kind in ("in place", "frozen", "extracted")
    ]
    assert all(0.1 < m.value.median < 10 for m in rows)


def test_a_sandwich_step_is_timed_in_both_formats_and_against_a_plain_loop() -> None:
    rows = list(sandwich_step("MobileNet v1", size=32, batch=2, rounds=1))
    assert [m.setting for m in rows] == [
        "n=4, batch 2, NCHW",
        "n=4, batch 2, NHWC",
        "n=4, batch 2, NHWC over a plain NCHW loop",
        "n=4, batch 2, the dense networks themselves, NHWC over NCHW",
    ]
    assert [m.limit for m in rows] == [1.0, 1.0, 0.70, None]


@pytest.mark.parametrize(("name", "limit"), [("MobileNet v1", 0.75), ("WDSR-A", 0.9)])
def test_folded_networks_are_timed_with_equal_outputs(name: str, limit: float) -> None:
    rows = list(folded(name, widths=(0.25,), size=32, rounds=1))  # checks inside
    assert [m.setting for m in rows] == [
        f"width 0.25, {what}" for what in ("extracted", "frozen", "dense in channels_last")
    ]
    assert [m.limit for m in rows] == [limit, limit, None]


@pytest.mark.nightly
def test_exported_files_are_timed_with_equal_outputs() -> None:
    rows = list(exporting("MobileNet v2", widths=(0.25, 0.5), size=32, rounds=1))  # checks inside
    assert [m.what for m in rows] == ["export"] * 2 + ["inference exported"] * 4
    assert [(m.unit, m.limit) for m in rows[:2]] == [("s", 60.0)] * 2


def test_what_is_over_its_limit_has_a_reason() -> None:
    over = [m for record in read(ROOT / "results/perf") for m in record.measurements if m.verdict == "over"]
    assert [m for m in over if not reason(m)] == []


def test_spectrum_and_calibration_are_timed_over_networks_with_equal_scores() -> None:
    rows = list(spectrum("MobileNet v1", widths=3, size=32, batch=4, batches=2, rounds=1))  # checks inside
    assert [(m.what, m.setting) for m in rows] == [
        (what, "3 widths, 2 batches of 4") for what in ("spectrum", "calibration")
    ]


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio({"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 1.0]}, "a", "b") == Spread(3.0, 2.5, 3.5)


def test_turns_alternate_and_each_round_runs_everything() -> None:
    calls: list[str] = []
    times = take_turns({name: lambda name=name: calls.append(name) or sum(range(400_000)) for name in "ab"}, rounds=3)
    assert [len(seconds) for seconds in times.values()] == [3, 3]
    runs = [name for name, before in zip(calls[1:], calls, strict=False) if name != before]
    assert "".join(runs).endswith("bab")  # a b, b a, a b


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def step() -> None:
        for _ in range(3):
            a = torch.ones(1000)
            b = a + a
            del a, b

    assert peak_bytes(step, torch.device("cpu")) == pytest.approx(8000, abs=200)


def test_the_table_comes_from_the_records(tmp_path: Path) -> None:
    kept = Measurement("sandwich step", "Net", "n=4", Spread(0.99, 0.9, 1.1), limit=1.0, seconds=0.5)
    over = Measurement("width switch", "Net", "in place", Spread(21.0, 20.0, 22.0), unit="us", limit=20.0)
    write(tmp_path, [kept, over], rounds=7)
    assert {m for record in read(tmp_path) for m in record.measurements} == {kept, over}
    table = write_report(tmp_path)
    assert (tmp_path / "table.md").read_text() == table
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert ["sandwich step", "Net", "n=4", "0.99", "0.90 to 1.10", "1.00", "kept", "500.0 ms"] in rows
    assert ["width switch", "Net", "in place", "21.0 us", "20.0 to 22.0", "20.0 us", "over", ""] in rows
    assert table.startswith("# slimlib keeps 1 of 2 limits")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    write(tmp_path, [Measurement("sandwich step", "Net", "n=4", Spread(1.0, 1.0, 1.0))], rounds=1)
    (tmp_path / "records" / "sandwich-step-net.json").write_text("{")
    with pytest.raises(ValueError, match=r"sandwich-step-net\.json is not a performance record"):
        write_report(tmp_path)


@pytest.mark.parametrize("arguments", [["inferense"], ["--rounds", "0"], ["--network", "VGG"]])
def test_impossible_arguments_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "error: " in capsys.readouterr().err
