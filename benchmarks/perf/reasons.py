"""Why a limit is missed, found by profiling; shown below the table for what is over."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.perf.measurement import Measurement

NOISE = (
    "No operation differs from the dense network's: an extracted network is one, and a frozen one runs the same torch "
    "functions on tensors of the same layout. What remains is where its tensors lie in memory: two copies of one dense "
    "network differ as much, and another run has another row over."
)
COPIES = (
    "The kernels of a narrow width are strided slices of the full ones, and oneDNN wants them contiguous: "
    "torch.profiler shows the copies as the one operation that the dense networks lack. They depend on the weights "
    "alone, so they weigh less the more pixels a batch has. Other orders of storage do not help: on the AMD EPYC, in "
    "channels_last at batch 1, a 3 x 3 convolution with a slice of up to 256 channels takes 1.01 to 1.07 of one with a "
    "contiguous kernel, and 1.10 to 1.49 with 512 channels at 7 px; with the taps stored outermost, so that each is a "
    "strided matrix, 1.00 to 1.05 and 1.11 to 1.38; with a copy made before, the same."
)

STARTING = (
    "Dense MobileNets of all widths take the same time at batch 1, with .07 to 1 of the multiply-adds: it is spent "
    "on starting kernels, not on what they compute, and a slice of a kernel is one more call from Python. A frozen "
    "network has no slices, and `graphs=true` replays the passes of a training without Python."
)


@dataclass(frozen=True)
class Reason:
    """What holds for measurements of one kind whose setting has certain words in it."""

    what: str
    words: str
    text: str
    device: str = "cpu"


REASONS = (
    Reason(
        "inference folded and channels_last",
        "",
        "What folding takes away, a pass over the channels after each convolution, weighs least at full width, where "
        "the pointwise convolutions are nearly all of the time, and neither folding nor the format changes these.",
    ),
    Reason("inference frozen", "", NOISE),
    Reason("inference extracted", "", NOISE),
    Reason(
        "sandwich step",
        "over a plain NCHW loop",
        "The format gives the dense networks themselves no more (the row below it): oneDNN's depthwise convolutions in "
        "training gain less from channels_last than in inference.",
    ),
    Reason(
        "sandwich step",
        "over a step of the full network",
        "The four dense networks take as much in sum (the next row): torch.profiler finds 95 % of the step in the "
        "kernels of convolutions, BatchNorm and activations, and about 2 % in views, gradients in Python and the "
        "optimizer. The widths' multiply-adds are 1.89 of the full network's, but narrow kernels do fewer in a second: "
        "in bfloat16 width .25 takes .24 of the full step with .07 of its multiply-adds, and .75 takes .74 with .57: "
        "the backward pass of a 3 x 3 convolution with 96 channels at 4 px takes as long as with 128. The whole step "
        "does more than half of the multiply-adds a second of a product of matrices (rate of arithmetic): no settings "
        "train twice as many images a second of this network.",
    ),
    Reason("sandwich step", "", f"{COPIES} Besides, autograd runs a view of each kernel backward."),
    Reason(
        "routing",
        "64 px",
        "Routing itself takes .02 of the full width's time: the rest is the frozen network on groups of 16, as the sum "
        "of the parts shows. With images of 64 px the last layers have 2 x 2 pixels, and reading their weights weighs "
        "more in a small group: torch.profiler has the full width's convolutions take 1.34 ms an image in a group of "
        "16, 1.09 in the whole batch.",
    ),
    Reason(
        "routing",
        "32 px",
        "All samples run as one group at the full width. Deciding so takes .055 ms, under a hundredth of the time; the "
        "quartiles of two equal runs lie as far apart.",
    ),
    Reason(
        "routing",
        "",
        "torch.profiler on MobileNet v1 (224 px, batch 8, widths equally often, .48 of the multiply-adds): pointwise "
        "convolutions take .57 of the full width's time, depthwise ones .89, BatchNorm .23; gathering the samples "
        "takes less than .01. Groups of two are too few for the kernels to be as efficient as over the whole batch.",
    ),
    Reason(
        "freeze",
        "folded",
        "What folds is found by following one run of the network on the example, here of 224 px; at each width the "
        "outputs are then compared, in four runs, half of them in double precision. With an example of 64 px it is "
        "1.7 s.",
    ),
    Reason("inference in place", "", STARTING, device="cuda"),
    Reason("sandwich step", "", STARTING, device="cuda"),
    Reason("inference frozen", "", NOISE, device="cuda"),
    Reason("inference extracted", "", NOISE, device="cuda"),
    Reason("spectrum", "", COPIES),
    Reason("calibration", "", COPIES),
    Reason(
        "plan evaluation",
        "shared",
        "The first of the plans runs whole, and each of the others from the layer that the one before it changed: "
        "by multiply-adds that is .65 of a forward on the average, by time less, since the first layers are slow.",
    ),
)


def reason(measurement: Measurement, device: str) -> str:
    """Why it is over its limit on such a device; empty if the reason is not known."""
    fitting = (
        r for r in REASONS if (r.what, r.device) == (measurement.what, device) and r.words in measurement.setting
    )
    return next((r.text for r in fitting), "")
