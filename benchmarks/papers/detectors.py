"""The networks of detection without its images, for counting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.detection.networks import Regions
from tasks.detection.settings import DetectionSettings
from tasks.detection.task import Detection

COCO_CLASSES, COCO_KEYPOINTS = 80, 17


class DetectorsAlone(Detection):
    """Detectors of as many classes as COCO has, on the regions that they learn from: a quarter of them has objects."""

    def __init__(self, settings: DetectionSettings) -> None:
        persons = settings.head == "keypoints"
        self.settings = settings
        self.classes = ["person"] if persons else [str(number) for number in range(COCO_CLASSES)]
        self.keypoints = [str(number) for number in range(COCO_KEYPOINTS if persons else 0)]

    def example(self) -> Any:
        """As many regions as in training."""
        images, targets, _ = super().example()
        return images, targets, Regions(self.settings.sampled, self.settings.sampled // 4)


def detectors_alone(settings: Mapping[str, Any]) -> DetectorsAlone:
    """The networks that these settings are about; the first weights do not matter."""
    return DetectorsAlone(DetectionSettings(**settings, data="shapes", start="scratch"))
