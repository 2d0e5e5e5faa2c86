"""What every training rule does in a step: draw widths, and run each of them backward as soon as its loss is ready.

Every rule draws widths with its own generator, so that the draws do not depend on anything else
that is random, are the same on every rank, and go on where a checkpoint left off.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from slimlib.core.arguments import arguments
from slimlib.core.setting import set_width, slimming_of, trainable_parts
from slimlib.core.structures import map_tensors
from slimlib.core.width import Switches, Width, Widths, as_widths, check_is, check_whole
from slimlib.training.distillation import Distillation, Lesson, Lessons, as_lessons
from slimlib.training.gradients import adding_in_place
from slimlib.training.graphs import Graphs
from slimlib.training.step import Average, Step, loss_of_width

Self = TypeVar("Self", bound="Rule")


class Rule(ABC):
    """One training step of a slimmable network: draw the widths, and run each of them backward.

    Args:
        widths: that the network is trained for.
        distill: short for `lesson=Lesson(data=0, distill=distill)`: all but the largest width learn from the largest.
        lesson: what all but the largest width learn from; the largest learns from the data. Or `Lessons`, which can
            differ by width.
        seed: of the random widths.

    Attributes:
        generator: what random widths are drawn with.
        lessons: what each width learns from.
        sizes: height and width that images are scaled to for a width; all others see them unchanged.

    Raises:
        ValueError: `widths` or `seed` is invalid, or the lessons need the largest width, which some steps may
            leave out.
    """

    trains_largest: ClassVar[bool] = True
    """Whether every step trains the largest width."""

    def __init__(
        self,
        widths: Widths,
        *,
        distill: Distillation | None = None,
        lesson: Lesson | Lessons | None = None,
        seed: int = 0,
    ) -> None:
        self.widths = as_widths(widths)
        check_whole(seed=(seed, 0))
        self.generator = torch.Generator().manual_seed(seed)
        self._learn(as_lessons(distill, lesson))

    def size_at(self, width: Width) -> int | None:
        """Side in pixels of the images that a width trains on in this step; None: as they are."""
        return None

    @abstractmethod
    def draw(self, step: Step | None = None) -> list[Width]:
        """The widths of the next step, all different, largest first.

        Args:
            step: the training step, with its `net`, and `step.loss(width)`, the loss of a width before it is trained.
                Optional for rules that use neither.
        """

    def ends(self, steps: int) -> list[int]:
        """The step after which each stage ends, if an ordinary training takes `steps`.

        Raises:
            ValueError: there are too few steps.
        """
        return [steps]

    def stage(self, number: int, net: nn.Module, optimizer: Optimizer) -> AbstractContextManager[None]:
        """Within the block the optimizer trains what belongs to this stage. Each stage needs its own optimizer."""
        return nullcontext()

    def lesson(self, width: Width) -> Lesson:
        """What a width learns from."""
        largest, between, smallest = self.lessons.all
        return largest if width == self.widths.largest else smallest if width == self.widths.smallest else between

    def taught(self: Self, lessons: Lessons) -> Self:
        """This rule with other lessons: a new object that draws from the same random sequence."""
        other = copy.copy(self)
        other._learn(lessons)
        return other

    def backward(
        self,
        net: nn.Module,
        x: Tensor | tuple[Any, ...],
        loss: Callable[..., Tensor],
        *,
        scaler: GradScaler | None = None,
        autocast: torch.dtype | None = None,
        forward: Callable[..., Any] | None = None,
        graphs: Graphs | None = None,
    ) -> dict[Width, Tensor]:
        """Draw widths and add the gradient of the sum of their losses to the parameters' `.grad`.

        The backward pass of each width runs as soon as its loss is ready, so a step needs the memory of one pass. A
        loss that depends on no trained parameter, because layers are frozen, adds nothing. The network keeps the width
        that it was set to. In DistributedDataParallel the gradients are exchanged once, in the last pass; with
        find_unused_parameters=True (switchable BatchNorm, whose switches have private parameters) in every pass.

        Args:
            net: a slimmable network.
            x: its input, the tuple of its arguments, or a dict of them by name.
            loss: the loss on the data: network output -> scalar, or (output, width) -> scalar.
            scaler: scales each loss before its backward pass, for float16.
            autocast: the network computes in this lower precision (torch.bfloat16, torch.float16) where
                torch.autocast does; the losses are of its outputs in float32.
            forward: what computes the output from `x` with the parts of `net`, where its own forward does not.
            graphs: records the passes of each width on a GPU, and replays them; holds `x` and what `loss` reads.

        Returns:
            The detached loss of each width, as its lesson adds it up, largest first.

        Raises:
            ValueError: nothing in `net` is slimmable; it is frozen, or in DistributedDataParallel(static_graph=True);
                it does not allow all widths of this rule; a loss is not a scalar; or forward does not accept `x`.
            TypeError: an argument is of another type than here.
            RuntimeError: no loss of the step depends on a trained parameter.
        """
        check_is(Callable, "a function of the output", loss=loss)
        check_is(Callable | None, "a function of the arguments of forward", forward=forward)
        check_is(torch.dtype | None, "torch.bfloat16 or torch.float16", autocast=autocast)
        check_is(Graphs | None, "slimlib.Graphs(net)", graphs=graphs)
        check_is(GradScaler | None, "a torch.amp.GradScaler", scaler=scaler)
        of_data = loss_of_width(loss)
        args = arguments(net, x)
        before = self._check(net)
        for average in self._averages.values():
            average.follow(net)
        step = Step(net, args, of_data, forward=forward, autocast=autocast, averages=self._averages)
        losses: dict[Width, Tensor] = {}
        learning = False
        if graphs is not None:
            graphs.begin()
        try:
            step.widths = self.draw(step)
            for position, width in enumerate(step.widths):
                lesson = self.lesson(width)
                taught = lesson.taught_by and lesson.taught_by.teach(step, self.widths.largest, width)
                heard = any(teacher.hears(position) for teacher in self._teachers)
                set_width(net, width)
                last, size = position == len(step.widths) - 1, self.size_at(width)
                if graphs is not None and taught is not None:
                    taught = graphs.hold(taught, "teacher")
                run = partial(_pass, step, lesson, taught, width, heard, scaler, size)
                with _gradients_stay_local(net, last=last):
                    if graphs is not None:
                        key = slimming_of(net).channels, lesson, len(step.widths), heard, size
                        run = partial(graphs.run, key, run)
                    losses[width], (output, learns) = run()
                learning |= learns
                if heard:
                    step.keep(width, output)
                del output
            if not learning:
                losses[width].backward()  # torch says so
        finally:
            set_width(net, before)
        return losses

    @contextmanager
    def averages_of(self, net: nn.Module) -> Iterator[list[dict[nn.Parameter, Tensor]]]:
        """The averaged parameters of a network that its teachers keep. Within, its channels may change places."""
        yield [average.of(net) for average in self._averages.values() if average.begun]
        for average in self._averages.values():
            average.note_order(net)

    def state_dict(self) -> dict[str, Any]:
        """The state of the random draws and of the averaged teachers, as plain lists, numbers and tensors."""
        state: dict[str, Any] = {"generator": self.generator.get_state().tolist()}
        if self._averages:
            state["averages"] = [average.state_dict() for average in self._averages.values()]
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: it comes from another rule, or from one with other averaged teachers; this rule is then
                unchanged.
        """
        check_is(Mapping, "what state_dict() of a rule returned", state=state)
        averages = state.get("averages", [])
        if len(averages) != len(self._averages):
            raise ValueError(f"the state has {len(averages)} averaged teachers, and this rule {len(self._averages)}")
        if state.keys() != (own := self.state_dict().keys()):
            raise ValueError(
                f"the state is of another rule: it holds {', '.join(state)}; {type(self).__name__} has {', '.join(own)}"
            )
        self.generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))
        for average, saved in zip(self._averages.values(), averages, strict=True):
            average.load_state_dict(saved)

    def _check(self, net: nn.Module) -> Width:
        """The width that is set, of a network that can have all widths of this rule: drawn, one may come late."""
        parts = trainable_parts(net)
        ends = self.widths.smallest, self.widths.largest
        for width in self.widths.widths if isinstance(self.widths, Switches) else ends:
            for part in parts:
                part.check(width)
        return parts[0].width

    def _learn(self, lessons: Lessons) -> None:
        name = type(self).__name__
        teachers = [lesson.taught_by for lesson in lessons.all if lesson.taught_by]
        if not self.trains_largest and any(teacher.needs_largest for teacher in teachers):
            raise ValueError(
                f"{name} cannot distil from the largest width, which is not in every step. "
                "Use Sandwich or LargestAndRandom, an AveragedTeacher, or no distillation."
            )
        largest, between, smallest = (lesson.data != 0 for lesson in lessons.all)
        if not (largest and self.trains_largest) and not (between and smallest):
            raise ValueError(f"in some steps of {name} no width would learn from the data; give data=, for example 0.5")
        self.lessons, self._teachers = lessons, teachers
        self._averages: dict[Hashable, Average] = {}
        for averaged in [each for teacher in teachers for each in teacher.averages()]:
            self._averages.setdefault(averaged, averaged.begin())


def _pass(
    step: Step,
    lesson: Lesson,
    taught: Any,
    width: Width,
    heard: bool,
    scaler: GradScaler | None,
    size: int | None,
) -> tuple[Tensor, tuple[Any, bool]]:
    """Run the width that is set forward and backward.

    Returns:
        Its loss; and its output if a teacher is to hear it, and whether anything learns from the loss.
    """
    assert step.of_data is not None
    with adding_in_place(step.net, casts=step.casts) as run_backward:
        output = step.run(size)
        value = lesson.loss(output, taught, step.of_data, width, len(step.widths))
        kept = map_tensors(Tensor.detach, output) if heard else None
        del output  # its graph goes with the backward pass, before the next width runs
        # Without a backward pass, DistributedDataParallel would not send what the other passes have added up.
        learns = value.requires_grad or hasattr(step.net, "no_sync")
        if learns:
            run_backward(value if scaler is None else scaler.scale(value))
    return value.detach(), (kept, learns)


def _gradients_stay_local(net: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """For all but the last pass: DistributedDataParallel only adds gradients up, and sends them with the last."""
    if not last and getattr(net, "static_graph", False):
        raise ValueError(
            "DistributedDataParallel(static_graph=True) takes one pass in each step, and a rule runs one for each "
            "width; leave static_graph out"
        )
    no_sync = getattr(net, "no_sync", None)
    if last or no_sync is None or getattr(net, "find_unused_parameters", False):
        return nullcontext()
    context: AbstractContextManager[Any] = no_sync()
    return context
