"""Slimmable networks: one set of weights that runs at any channel width, chosen at run time."""

from slimlib.calibration import calibrate
from slimlib.convert import convert
from slimlib.core.handwritten import adopt
from slimlib.core.layers import SlimConv1d, SlimConv2d, SlimConvTranspose2d, SlimLinear
from slimlib.core.norms.batchnorm import UncalibratedWidth
from slimlib.core.setting import at_width, current_width, set_width
from slimlib.core.width import Switches, WidthPlan, WidthRange
from slimlib.dynamic.cascade import Cascade
from slimlib.dynamic.fitting import AccuracyLoss, fit_cascade
from slimlib.dynamic.gate import SlimmingGate
from slimlib.dynamic.gate_training import GateTraining
from slimlib.dynamic.gated import Gated, gated_plans
from slimlib.dynamic.routing import route
from slimlib.export import export
from slimlib.saving import load, read_recipe, save
from slimlib.search import search
from slimlib.search.budgets import Budget
from slimlib.search.costs import PlanCosts, plan_costs
from slimlib.search.latency_table import LatencyTable, latency_table
from slimlib.search.learned_ranking import learned_ranking
from slimlib.search.plan_file import FoundPlan, FoundPlans, load_plans
from slimlib.search.scores import ChannelScores, channel_scores
from slimlib.search.sorting import sort_channels
from slimlib.serving.cost import Cost, cost, latency
from slimlib.serving.extraction import extract
from slimlib.serving.freezing import freeze
from slimlib.serving.governor import Governor
from slimlib.serving.profiling import Profile, profile, widest_within
from slimlib.training.distillation import (
    AveragedTeacher,
    Ensemble,
    Lesson,
    Lessons,
    kl_divergence,
    l1,
    mse,
    soft_cross_entropy,
)
from slimlib.training.graphs import Graphs
from slimlib.training.sandwich import (
    EveryWidth,
    LargestAndRandom,
    RandomWidths,
    Sandwich,
    SingleWidth,
    SmallestAndRandom,
)

__version__ = "0.1.0"
__all__ = [
    "AccuracyLoss",
    "AveragedTeacher",
    "Budget",
    "Cascade",
    "ChannelScores",
    "Cost",
    "Ensemble",
    "EveryWidth",
    "FoundPlan",
    "FoundPlans",
    "GateTraining",
    "Gated",
    "Governor",
    "Graphs",
    "LargestAndRandom",
    "LatencyTable",
    "Lesson",
    "Lessons",
    "PlanCosts",
    "Profile",
    "RandomWidths",
    "Sandwich",
    "SingleWidth",
    "SlimConv1d",
    "SlimConv2d",
    "SlimConvTranspose2d",
    "SlimLinear",
    "SlimmingGate",
    "SmallestAndRandom",
    "Switches",
    "UncalibratedWidth",
    "WidthPlan",
    "WidthRange",
    "adopt",
    "at_width",
    "calibrate",
    "channel_scores",
    "convert",
    "cost",
    "current_width",
    "export",
    "extract",
    "fit_cascade",
    "freeze",
    "gated_plans",
    "kl_divergence",
    "l1",
    "latency",
    "latency_table",
    "learned_ranking",
    "load",
    "load_plans",
    "mse",
    "plan_costs",
    "profile",
    "read_recipe",
    "route",
    "save",
    "search",
    "set_width",
    "soft_cross_entropy",
    "sort_channels",
    "widest_within",
]
