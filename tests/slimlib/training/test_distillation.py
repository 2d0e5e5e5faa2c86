"""Distillation losses against their definitions, written out."""

import pickle

import pytest
import torch
from torch import Tensor

from slimlib.training.distillation import DISTILLATIONS, kl_divergence, l1, mse, soft_cross_entropy


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 7, generator=generator, dtype=torch.float64), torch.randn(
        5, 7, generator=generator, dtype=torch.float64
    )


def test_soft_cross_entropy_is_its_definition(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    by_hand = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_cross_entropy(student, teacher), by_hand)


def test_soft_cross_entropy_of_maps_is_a_mean_over_positions(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = (t.t()[None, :, :, None] for t in logits)  # [1, 7, 5, 1]
    by_hand = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_cross_entropy(student, teacher), by_hand)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_its_definition(logits: tuple[Tensor, Tensor], temperature: float) -> None:
    student, teacher = logits
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    by_hand = temperature**2 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(kl_divergence(temperature)(student, teacher), by_hand)


def test_kl_at_temperature_one_has_the_gradient_of_soft_cross_entropy(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].requires_grad_(), logits[1]
    (of_kl,) = torch.autograd.grad(kl_divergence()(student, teacher), student)
    (of_soft,) = torch.autograd.grad(soft_cross_entropy(student, teacher), student)
    torch.testing.assert_close(of_kl, of_soft)


def test_l1_and_mse_are_means(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    torch.testing.assert_close(l1(student, teacher), (student - teacher).abs().mean())
    torch.testing.assert_close(mse(student, teacher), ((student - teacher) ** 2).mean())


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_student_that_equals_its_teacher_has_no_gradient(name: str, logits: tuple[Tensor, Tensor]) -> None:
    student = logits[0].requires_grad_()
    (gradient,) = torch.autograd.grad(DISTILLATIONS[name]()(student, student.detach()), student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_unequal_shapes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"student gives \[2, 3\], the teacher \[2, 4\]"):
        DISTILLATIONS[name]()(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        kl_divergence(temperature)


@pytest.mark.parametrize("name", DISTILLATIONS)
def test_losses_survive_pickle(name: str, logits: tuple[Tensor, Tensor]) -> None:
    again = pickle.loads(pickle.dumps(DISTILLATIONS[name]()))
    torch.testing.assert_close(again(*logits), DISTILLATIONS[name]()(*logits))
