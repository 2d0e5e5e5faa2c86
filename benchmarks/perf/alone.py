"""Tasks whose networks are looked at without their images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tasks.classification.settings import ClassificationSettings
from tasks.classification.sources import IMAGENET_CLASSES
from tasks.classification.task import Classification
from tasks.sr.settings import SrSettings
from tasks.sr.task import SuperResolution


class UpscalersAlone(SuperResolution):
    """The networks of super-resolution without its images."""

    def __init__(self, settings: SrSettings) -> None:
        self.settings = settings


class ClassifiersAlone(Classification):
    """The networks of classification, of as many classes as ImageNet has unless told, without its images."""

    def __init__(self, settings: ClassificationSettings, classes: int = IMAGENET_CLASSES) -> None:
        self.settings = settings
        self._train: Any = SimpleNamespace(classes=range(classes))
