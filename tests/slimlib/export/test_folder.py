"""The folder of an export appears whole, replaces only an earlier export, and can be verified."""

import json
import os
import stat
import tempfile

import pytest
import torch

import slimlib as slim
from slimlib.core.tolerance import Tolerance
from slimlib.export import folder as folder_module
from slimlib.export.folder import new_folder
from slimlib.export.manifest import Manifest, read_manifest
from slimlib.export.trials import Trial
from tests.networks import MLP

X = torch.randn(2, 8)


def export(path, widths=(0.5,)):
    return slim.export(slim.convert(MLP(), X).eval(), path, widths, X, formats=["torch"])


def test_earlier_export_is_replaced(tmp_path):
    export(tmp_path / "out", [0.5, 1.0])
    export(tmp_path / "out", [0.25])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"width-0.25.pt2", "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    export(tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_missing_folders_above_are_made(tmp_path):
    export(tmp_path / "a" / "b" / "out")
    assert (tmp_path / "a/b/out/manifest.json").is_file()


def test_folder_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "other").mkdir()
    with new_folder(tmp_path / "out"):
        pass
    rights = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out", "other")]
    assert rights[0] == rights[1]


def test_folder_with_anything_else_is_refused_by_name(tmp_path):
    export(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt, which no export wrote; give a new folder"):
        export(tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "manifest.json").write_text("[]")
    with pytest.raises(ValueError, match=r"holds manifest.json, notes.txt, width-0.5.pt2, which no export wrote"):
        export(tmp_path / "out")


def test_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is a file; export writes a folder"):
        export(tmp_path / "file")
    with pytest.raises(ValueError, match=r"out cannot be a folder, as .*file is a file"):
        export(tmp_path / "file" / "out")


def test_read_only_folder_is_an_error_at_once(tmp_path, monkeypatch):
    def refuse(**kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError, match=r"cannot write the export .*out: Permission denied"):
        export(tmp_path / "out")


@pytest.mark.parametrize("failing", ["width-1.0.pt2", "manifest.json"])
def test_failed_write_leaves_the_earlier_export(failing, tmp_path, monkeypatch):
    export(tmp_path / "out")
    before = read_manifest(tmp_path / "out")

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    if failing == "manifest.json":
        monkeypatch.setattr(Manifest, "write", full_disk)
    else:
        monkeypatch.setattr(torch.export, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        export(tmp_path / "out", [1.0])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_manifest(tmp_path / "out") == before


def test_failed_move_puts_the_earlier_export_back(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    replace = os.replace

    def fail_once(source, target):
        if str(source).endswith("whole"):
            raise OSError(39, "Directory not empty")
        replace(source, target)

    monkeypatch.setattr(folder_module.os, "replace", fail_once)
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_changed_and_missing_files_are_named(tmp_path):
    export(tmp_path / "out", [0.5, 1.0])
    path = tmp_path / "out" / "width-0.5.pt2"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"width-0.5.pt2 is not the file that was exported: its sha256 differs"):
        read_manifest(tmp_path / "out")
    read_manifest(tmp_path / "out", verify=False)
    path.unlink()
    with pytest.raises(ValueError, match=r"width-0.5.pt2 is missing"):
        read_manifest(tmp_path / "out")


def test_foreign_manifests_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no manifest that slimlib.export wrote"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"has no manifest that slimlib.export wrote .*utf-8"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match=r"is of format 99; this slimlib reads format 1"):
        read_manifest(tmp_path)


def test_plan_is_read_back_as_a_plan(tmp_path):
    plan = slim.WidthPlan([16, 8])
    export(tmp_path / "out", [plan])
    entry = read_manifest(tmp_path / "out").widths[0]
    assert (entry.width, entry.channels, entry.files["torch"].name) == (plan, (16, 8), "plan-0.pt2")


def test_file_with_other_outputs_is_an_error():
    trial = Trial((X,), torch.zeros(2, 4), Tolerance())
    with pytest.raises(
        RuntimeError, match=r"width-0.5.onnx returns different outputs from torch for inputs \[2, 8\]: .* by 0.5"
    ):
        trial.check("width-0.5.onnx", [torch.full((2, 4), 0.5)])
    with pytest.raises(RuntimeError, match=r"they differ in shape: \[2, 5\]"):
        trial.check("width-0.5.onnx", [torch.zeros(2, 5)])
