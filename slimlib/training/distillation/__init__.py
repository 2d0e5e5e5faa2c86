"""In-place distillation: who teaches a width, by which loss, and how much that weighs beside the data.

In the papers the largest width of a step learns from the data, and every other from what the largest has put
out. A lesson says this of a width: its loss is `data` times the loss of the data plus `weight` times the distance
from a teacher's output.

Source: Yu & Huang 2019 (US-Nets), in-place distillation; Li et al. 2021 (DS-Net), in-place ensemble bootstrapping.
"""

from slimlib.training.distillation.lessons import LESSON, Lesson, Lessons, as_lessons, lesson_settings, lessons_named
from slimlib.training.distillation.losses import (
    DISTILLATIONS,
    Distillation,
    alpha_divergence,
    kl_divergence,
    l1,
    mse,
    soft_cross_entropy,
)
from slimlib.training.distillation.teachers import LARGEST, TEACHERS, AveragedTeacher, Ensemble, Teacher

__all__ = [
    "DISTILLATIONS",
    "LARGEST",
    "LESSON",
    "TEACHERS",
    "AveragedTeacher",
    "Distillation",
    "Ensemble",
    "Lesson",
    "Lessons",
    "Teacher",
    "alpha_divergence",
    "as_lessons",
    "kl_divergence",
    "l1",
    "lesson_settings",
    "lessons_named",
    "mse",
    "soft_cross_entropy",
]
