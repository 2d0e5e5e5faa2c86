"""The stream is answered by all servers, and its table and figure tell what was measured."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.serve.__main__ import main
from benchmarks.serve.report import figure, finding, rows, table
from benchmarks.serve.stream import PATCH, PHASES, Request, images_of, load


def requests() -> list[Request]:
    made = []
    for number, phase in enumerate(PHASES):
        for i in range(4):
            second = 10.0 * number + i
            made.append(Request("governor", phase.name, second, 0.5, 10.0, 20.0, 30.0))
            made.append(Request("full width", phase.name, second, 1.0, 15.0 if i else 25.0, 20.0, 31.0))
            made.append(Request("narrowest", phase.name, second, 0.25, 5.0, 20.0, 29.0))
    return made


def test_table_tells_share_in_time_latency_and_quality() -> None:
    made = rows(requests())
    assert len(made) == 3 * len(PHASES)
    assert made[0] == ["room", "governor", "20.0", "100 %", "10.0", "0.50", "30.00"]
    assert made[1] == ["room", "full width", "20.0", "75 %", "15.0", "1.00", "31.00"]
    assert finding(requests()).startswith("governor 100 % in time at 30.00 dB, full width 75 % in time")
    assert table(requests(), "About it.").count("\n") == 3 * len(PHASES) + 6


def test_figure_is_drawn() -> None:
    assert {kind: len(content) > 5000 for kind, content in figure(requests()).items()} == {"png": True, "svg": True}


def test_images_are_parts_that_match() -> None:
    low = torch.arange(3 * 2 * PATCH * (PATCH + 5)).reshape(3, 2 * PATCH, PATCH + 5).remainder(256).to(torch.uint8)
    high = low.repeat_interleave(2, 1).repeat_interleave(2, 2)
    found = images_of([(low, high)], 2)
    assert len(found) == 2
    for image in found:
        assert image.low.shape == (1, 3, PATCH, PATCH)
        torch.testing.assert_close((image.low[0] * 255).round().to(torch.uint8), image.high[:, ::2, ::2])


def test_other_work_ends_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def started(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        begun.append(start(*args, **kwargs))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", started)
    with load():
        assert len(begun) == 2 * (os.cpu_count() or 1)
        assert all(process.poll() is None for process in begun)
    assert all(process.poll() is not None for process in begun)


def test_a_short_stream_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("task.features=8", "task.blocks=1")
    few = {"__main__.NETWORK": small, "__main__.FITTED_ON": 1, "stream.QUALITIES": (0.0, 1.0), "stream.TOGETHER": 2}
    for name, value in few.items():
        monkeypatch.setattr(f"benchmarks.serve.{name}", value)
    threads = torch.get_num_threads()
    try:
        assert main(["--seconds", "0.3", "--steps", "2", "--results", str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(threads)
    record = json.loads((tmp_path / "record.json").read_text())
    phases = {row[record["columns"].index("phase")] for row in record["requests"]}
    assert phases == {phase.name for phase in PHASES}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "cache",
        "figure.png",
        "figure.svg",
        "record.json",
        "table.md",
    ]
    assert "governor" in capsys.readouterr().out
    for arguments, code in ((["--seconds", "0"], 2), (["help"], 0)):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == code
