"""Commands end with one line and one code, whatever goes wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.features.__main__ import main as features
from benchmarks.merge import main as merge
from benchmarks.records.folder import FolderInUse
from benchmarks.records.record import MetricInfo
from benchmarks.report.__main__ import main as report
from benchmarks.run import main as run
from benchmarks.running.command import DONE, FAILED, IN_USE, INTERRUPTED, WRONG_SETTINGS, command, notes, one_line
from benchmarks.tables.__main__ import main as tables

COMMANDS = {"run": run, "features": features, "merge": merge, "tables": tables, "report": report}


def raises(error: BaseException) -> Callable[[object], int]:
    def work(_: object) -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("the data are not there"), FAILED, "the data are not there"),
        (OSError(28, "No space left on device", "x.csv"), FAILED, "No space left on device: x.csv"),
        (FolderInUse("another run works in x"), IN_USE, "another run works in x"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted; nothing was written"),
    ],
)
def test_work_that_cannot_be_done_ends_with_its_code(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command([], "", list, raises(error), interrupted="nothing was written") == code
    assert capsys.readouterr().err == f"error: {says}\n"


def test_a_record_that_cannot_be_made_is_told_with_its_place() -> None:
    with pytest.raises(ValueError) as error:
        MetricInfo.model_validate({"name": "psnr", "unit": "dB", "better": "more"})
    assert one_line(error.value) == "better: Input should be 'higher' or 'lower'"


def test_an_error_of_ours_is_no_line() -> None:
    with pytest.raises(TypeError, match="a fault"):
        command([], "", list, raises(TypeError("a fault")), interrupted="")


def test_the_trace_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="the data"):
        command([], "", list, raises(ValueError("the data are not there")), interrupted="")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_keys_and_refuses_others(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("-h", "--help", "help"):
        assert COMMANDS[name]([word]) == DONE
        assert f"benchmarks.{name}" in capsys.readouterr().out
    assert COMMANDS[name](["resultz=x"]) == WRONG_SETTINGS
    out, err = capsys.readouterr()
    assert err.startswith("error: unknown key 'resultz'") and err.count("\n") == 1 and not out


def test_a_note_is_told_once_however_often_it_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    with notes():
        for text in ("two files are left out", "two files are left out", "another"):
            with warnings.catch_warnings():  # which forgets what was told before
                warnings.simplefilter("always")
            warnings.warn(text, stacklevel=1)
    assert capsys.readouterr().err == "note: two files are left out\nnote: another\n"


@pytest.mark.nightly
def test_a_run_and_its_workers_tell_a_note_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in "abcdefghijkl":
        Image.effect_noise((64, 64), 50).convert("RGB").save(images / f"{name}.png")
    (images / "page.pdf").write_bytes(b"no picture")
    given = f"data=folder data.root={images} steps=1 task.blocks=1 task.features=4 task.patch=8 task.batch=1"
    where = f"results={tmp_path / 'results'} launcher=joblib tracker=none only=[individual,random]"
    assert run([*given.split(), *where.split()]) == DONE
    err = capfd.readouterr().err
    assert err.startswith(f"note: {images}: files that are not read as images: 1 .pdf") and err.count(".pdf") == 1
