"""Pictures that lie beside records, to be shown in the page itself: crops of super-resolution, videos, showcases."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.records.json_places import first_wrong
from benchmarks.report.spectrum import Json

MEGABYTE = 1_000_000
KINDS = {".png": "image/png", ".gif": "image/gif"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Crop(_Strict):
    """As `tasks.sr.showcase` lists it."""

    label: str
    file: str
    psnr: float | None


class Photograph(_Strict):
    """A photograph and its crops: the original, bicubic, and networks."""

    name: str
    credit: str
    crops: list[Crop]


class CropIndex(_Strict):
    """What `crops/index.json` says."""

    measured: str
    images: list[Photograph]


@dataclass
class Album:
    """Takes pictures into the page until they would make it too large, and says which it left out.

    Attributes:
        largest: bytes of one file.
        room: bytes of all files together.
        taken: bytes of those that are in the page.
        damaged: files that could not be read, and why.
    """

    largest: int = 4 * MEGABYTE
    room: int = 8 * MEGABYTE
    taken: int = 0
    damaged: dict[Path, str] = field(default_factory=dict)

    def of(self, folder: Path) -> Json:
        """The pictures of a results folder ("crops", "video", "showcase"), whose they are, and what is left out.

        The showcase is taken only where there are no crops, which show the same.
        """
        left_out: list[Json] = []
        crops = self._crops(folder, left_out)
        pictures: Json = {} if crops is None else {"crops": crops}
        for name, file in (("video", "video.gif"), ("showcase", "showcase.png")):
            if (folder / file).exists() and not (name == "showcase" and crops is not None):
                source = self.source(folder / file, left_out)
                if source is not None:
                    pictures[name] = source
        return {"pictures": pictures, "left_out": left_out, **self._network(folder)}

    def _network(self, folder: Path) -> Json:
        """Which network is shown, `sandwich, seed 0`, and the hash of its settings; empty where nothing says it."""
        said = self._json(folder / "showcase.json")
        if not isinstance(said, dict) or not {"recipe", "seed", "hash"} <= set(said):
            return {"network": "", "hash": ""}
        return {"network": f"{said['recipe']}, seed {said['seed']}", "hash": said["hash"]}

    def _crops(self, folder: Path, left_out: list[Json]) -> Json | None:
        path = folder / "crops/index.json"
        said = self._json(path)
        if said is None:
            return None
        try:
            index = CropIndex.model_validate(said)
        except ValidationError as error:
            self.damaged[path] = f"{path.name}: {first_wrong(error)}"
            return None
        images = [self._photograph(folder, photograph, left_out) for photograph in index.images]
        found = [image for image in images if image is not None]
        return {"measured": index.measured, "images": found} if found else None

    def _photograph(self, folder: Path, photograph: Photograph, left_out: list[Json]) -> Json | None:
        """The references first, then a network for each stop of the slider; None where a crop is missing."""
        crops = []
        for crop in photograph.crops:
            path = folder / crop.file
            if not path.resolve().is_relative_to(folder.resolve()):
                self.damaged[folder / "crops/index.json"] = f"index.json: {crop.file} lies outside of the folder"
                return None
            source = self.source(path, left_out)
            if source is None:
                return None
            crops.append({"label": crop.label, "psnr": crop.psnr, "source": source})
        return {"name": photograph.name, "credit": photograph.credit, "crops": crops}

    def _json(self, path: Path) -> Any:
        if not path.exists():
            return None
        try:
            return json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            self.damaged[path] = f"{path.name}: {error}"
            return None

    def source(self, path: Path, left_out: list[Json]) -> str | None:
        """A picture as a data URI; None where it cannot be read or is too large."""
        kind = KINDS.get(path.suffix)
        try:
            if kind is None or not path.is_file():
                raise ValueError("is no picture" if path.exists() else "is missing")
            size = path.stat().st_size
            if why := self._too_large(size):
                left_out.append({"path": path, "why": why})
                return None
            content = path.read_bytes()
        except (OSError, ValueError) as error:
            self.damaged[path] = f"{path.name}: {error}"
            return None
        self.taken += len(content)
        return f"data:{kind};base64,{base64.b64encode(content).decode()}"

    def _too_large(self, size: int) -> str:
        if size > self.largest:
            return f"{_megabytes(size)}, and a page takes files of at most {_megabytes(self.largest)}"
        if self.taken + size > self.room:
            return f"{_megabytes(size)}, and the pictures of this page have reached {_megabytes(self.room)} together"
        return ""


def _megabytes(size: int) -> str:
    return f"{size / MEGABYTE:.1f} MB"
