"""Classification networks of the published tables, as plain dense modules, and their released checkpoints."""

from slimlib.models.building import NAMES, build, from_channels
from slimlib.models.ds_mobilenet import ds_plans
from slimlib.models.plans import width_plan
from slimlib.models.published import PUBLISHED, load_published

__all__ = ["NAMES", "PUBLISHED", "build", "ds_plans", "from_channels", "load_published", "width_plan"]
