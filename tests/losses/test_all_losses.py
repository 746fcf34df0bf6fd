"""What holds for every loss of two maps, whatever it computes."""

from __future__ import annotations

import re
import shutil
from functools import partial
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segfix.losses import (
    DiceLoss,
    EdgeNetwork,
    EPLLoss,
    EPLPointLoss,
    SegFixLoss,
    SemedaLoss,
    epl_loss,
    epl_point_loss,
    semeda_loss,
)
from tests.losses.every_loss import (
    CASES,
    VOID,
    Batch,
    Case,
    blocks,
    case,
    every_loss,
    one_of_a_kind,
    value_and_gradient,
)


@every_loss
def test_logits_at_void_pixels_change_nothing(loss: Case, batch: Batch) -> None:
    logits, target = batch
    void = (target == VOID)[:, None].expand_as(logits)
    value, gradient = value_and_gradient(loss, logits, target)
    assert value != 0
    assert not gradient[void].any()
    ramp = torch.arange(5.0, dtype=torch.float64)[:, None, None]
    for change in (-60.0, 3.0, 40.0):
        changed = torch.where(void, change * ramp, logits)
        new_value, new_gradient = value_and_gradient(loss, changed, target)
        torch.testing.assert_close(new_value, value, rtol=1e-12, atol=0)
        torch.testing.assert_close(new_gradient, gradient, rtol=1e-10, atol=1e-14)


@every_loss
def test_what_cannot_be_differentiated_twice_says_so(loss: Case, batch: Batch) -> None:
    logits, target = batch
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, target), logits, create_graph=True)
    try:
        (second,) = torch.autograd.grad(gradient.square().sum(), logits)
    except RuntimeError as error:
        assert re.search("differentiated only once|once_differentiable", str(error))  # noqa: PT017
        return
    step = 1e-5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).double()
    ends = [value_and_gradient(loss, logits.detach() + s * step, target)[1] for s in (1, -1)]
    apart = (ends[0].square().sum() - ends[1].square().sum()) / 2
    torch.testing.assert_close((second * step).sum(), apart, rtol=1e-3, atol=1e-13)


@every_loss
@pytest.mark.parametrize("void", [-1, 0, 3])
def test_any_number_can_mean_void(loss: Case, batch: Batch, void: int) -> None:
    logits, target = batch
    target = target.masked_fill(target == void, VOID)  # an id of a class means void as well
    other = target.masked_fill(target == VOID, void)
    assert loss(logits, other, ignore_index=void) == loss(logits, target)


@every_loss
def test_without_a_void_id_every_pixel_counts(loss: Case, batch: Batch) -> None:
    logits, target = batch[0], batch[1].masked_fill(batch[1] == VOID, 4)
    assert loss(logits, target, ignore_index=None) == loss(logits, target)
    with pytest.raises(ValueError, match=r"from 0 to 4 \(5 classes in the logits\) but got 255"):
        loss(*batch, ignore_index=None)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_a_valid_pixel_the_loss_is_a_zero_with_a_gradient(
    loss: Case, batch: Batch, dtype: torch.dtype
) -> None:
    target = torch.full_like(batch[1], VOID)
    value, gradient = value_and_gradient(loss, batch[0].to(dtype), target)
    assert value == 0
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert not gradient.any()
    assert not gradient.isnan().any()


@every_loss
def test_an_image_without_a_valid_pixel_adds_nothing_to_the_gradient(
    loss: Case, batch: Batch
) -> None:
    logits, target = batch[0], batch[1].clone()
    target[1] = VOID
    value, gradient = value_and_gradient(loss, logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert bool(gradient[0].any()) == loss.has_gradient


@every_loss
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_images_of_one_class_have_a_finite_loss(loss: Case, classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 5 * torch.randn(2, classes, 6, 7, generator=generator)
    for label in {0, classes - 1}:
        target = torch.full((2, 6, 7), label)
        target[0, 0, 0] = VOID
        value, gradient = value_and_gradient(loss, logits, target)
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 1), (2, 3)])
def test_images_smaller_than_any_window_have_a_finite_loss(
    loss: Case, size: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, *size, generator=generator)
    target = torch.randint(0, 3, (2, *size), generator=generator)
    value, gradient = value_and_gradient(loss, logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_the_best_prediction_costs_least(loss: Case, batch: Batch) -> None:
    target = batch[1]
    labels = target.masked_fill(target == VOID, 0)
    best = 60.0 * torch.nn.functional.one_hot(labels, 5).movedim(-1, 1)
    at_best = loss(best, target)
    assert at_best < loss(batch[0].float(), target)
    assert at_best < loss(torch.zeros_like(best), target)
    # The boundary loss falls below 0, and an arc tangent never gets to its end.
    if loss.name not in ("boundary", "level set, ahf"):
        assert float(at_best) == pytest.approx(0, abs=1e-5)


@every_loss
def test_reductions_are_those_of_torch_over_images(loss: Case, batch: Batch) -> None:
    logits, target = batch[0], batch[1].clone()
    alone = [
        float(loss(scores, labels))
        for scores, labels in zip(logits[:, None], target[:, None], strict=True)
    ]
    each = loss(logits, target, reduction="none")
    assert each.tolist() == pytest.approx(alone, rel=1e-9)
    assert float(loss(logits, target, reduction="sum")) == pytest.approx(sum(alone), rel=1e-9)
    assert float(loss(logits, target)) == pytest.approx(sum(alone) / 4, rel=1e-9)
    # An image of void alone has no loss and doesn't count, as a pixel in torch's cross-entropy.
    target[0] = VOID
    assert float(loss(logits, target)) == pytest.approx(sum(alone[1:]) / 3, rel=1e-9)
    assert loss(logits, target, reduction="none")[0] == 0
    with pytest.raises(ValueError, match="reduction to be one of 'mean', 'sum', 'none'"):
        loss(logits, target, reduction="median")


QUARTERED = [
    case("point", epl_point_loss, EPLPointLoss, width=5),
    case("point, sum", epl_point_loss, EPLPointLoss, width=5, splitter="C", pixels="sum"),
    case("semeda", semeda_loss, SemedaLoss, weights=(1.0, 2.0, 3.0)),
]


@pytest.mark.parametrize("loss", QUARTERED, ids=lambda c: c.name)
@pytest.mark.parametrize("size", [(8, 9), (13, 12), (2, 2), (1, 7)])
def test_random_quarters_are_right_on_average(
    loss: Case, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(2, 5, *size, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 5, (2, *size), generator=generator)
    target[0, 0, 1] = VOID
    expected, gradient = value_and_gradient(loss, logits, target)
    found = []
    for choice in product((0, 1), repeat=2):
        places = iter(choice)
        monkeypatch.setattr(torch, "randint", lambda *_, p=places, **__: torch.tensor(next(p)))
        quarter = partial(loss, quarter=True)
        found.append(value_and_gradient(quarter, logits, target))  # type: ignore[arg-type]
    values, gradients = zip(*found, strict=True)
    torch.testing.assert_close(sum(values) / 4, expected)
    torch.testing.assert_close(sum(gradients) / 4, gradient)


def test_a_quarter_is_looked_at_with_its_surroundings_alone() -> None:
    logits = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(7))
    target = torch.randint(0, 3, (1, 40, 40), generator=torch.Generator().manual_seed(8))
    for loss in (
        case("epl", epl_loss, EPLLoss, width=5, quarter=True),
        case("semeda", semeda_loss, SemedaLoss, quarter=True),
    ):
        _, gradient = value_and_gradient(loss, logits, target)
        seen = gradient.abs().sum(dim=(0, 1)) > 0
        assert 400 <= int(seen.sum()) <= 22 * 22


@every_loss
def test_module_equals_function(loss: Case, batch: Batch) -> None:
    logits, target = batch
    module = loss.module(*loss.extra(5, logits.dtype), **loss.options)
    assert module(logits, target) == loss(logits, target)
    other = target.masked_fill(target == VOID, 9)
    module = loss.module(*loss.extra(5, logits.dtype), ignore_index=9, **loss.options)
    assert module(logits, other) == loss(logits, target)


@every_loss
def test_a_module_says_its_settings(loss: Case) -> None:
    module = loss.module(*loss.extra(5, torch.float32), **loss.options)
    told = repr(module)
    assert told.startswith(f"{loss.module.__name__}(")
    for name, value in {"ignore_index": VOID, **loss.options}.items():
        assert f"{name}={value!r}" in told


def test_printed_losses_read_like_calls() -> None:
    assert repr(DiceLoss(ignore_index=None)) == (
        "DiceLoss(ignore_index=None, reduction='mean', weight=1.0)"
    )
    assert repr(SegFixLoss(class_weights=True)) == "SegFixLoss(class_weights=True)"
    assert "width=7, splitter='A', norm=2, power=10" in repr(EPLLoss())
    assert "weights=(4.0, 2.0, 0.0)" in repr(SemedaLoss(EdgeNetwork(3)))


@every_loss
def test_bytes_as_targets_equal_long_integers(loss: Case, batch: Batch) -> None:
    expected = loss(*batch)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert loss(batch[0], batch[1].to(dtype)) == expected


@every_loss
def test_strides_change_nothing(loss: Case, batch: Batch) -> None:
    logits, target = batch
    expected = float(loss(logits, target))
    wide = torch.stack((logits, logits), -1).flatten(-2)[..., ::2]
    last = logits.contiguous(memory_format=torch.channels_last)
    for same in (wide, last):
        assert float(loss(same, target.mT.contiguous().mT)) == pytest.approx(expected, rel=1e-12)


@every_loss
def test_arguments_stay_as_they_were(loss: Case, batch: Batch) -> None:
    logits, target = batch[0].clone(), batch[1].clone()
    value_and_gradient(loss, logits, target)
    assert torch.equal(logits, batch[0])
    assert torch.equal(target, batch[1])


@every_loss
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"]
)
def test_a_uniform_softmax_over_150_classes_is_finite(
    loss: Case, dtype: torch.dtype, autocast: bool
) -> None:
    target = torch.randint(0, 150, (1, 4, 5), generator=torch.Generator().manual_seed(4))
    target[0, 0, 0] = VOID
    logits = torch.zeros(1, 150, 4, 5, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value, gradient = value_and_gradient(loss, logits, target)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(
    loss: Case, batch: Batch, dtype: torch.dtype
) -> None:
    half, target = batch[0].to(dtype), batch[1]
    expected, gradient = value_and_gradient(loss, half.float(), target)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value, half_gradient = value_and_gradient(loss, half, target)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(half_gradient, gradient.to(dtype), rtol=2e-2, atol=1e-6)


@every_loss
def test_float32_equals_float64(loss: Case, batch: Batch) -> None:
    logits, target = batch
    value, gradient = value_and_gradient(loss, logits, target)
    found, found_gradient = value_and_gradient(loss, logits.float(), target)
    torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=0)
    largest = float(gradient.abs().max())
    torch.testing.assert_close(
        found_gradient.double(), gradient, rtol=1e-4, atol=1e-5 * largest or 1e-9
    )


@every_loss
def test_logits_far_apart_have_finite_gradients(loss: Case, batch: Batch) -> None:
    for scale in (1e2, 1e4):
        value, gradient = value_and_gradient(loss, scale * batch[0].float(), batch[1])
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [c for c in CASES if c.has_gradient], ids=lambda c: c.name)
def test_gradients_agree_with_finite_differences(loss: Case, batch: Batch) -> None:
    target = batch[1][:2, :3, 4:8]
    logits = batch[0][:2, :4, :3, 4:8].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, target), (logits,), fast_mode=True)


@pytest.mark.filterwarnings("default")  # torch's own, of whatever version
@one_of_a_kind
def test_compiled_equals_eager(loss: Case, batch: Batch) -> None:
    torch.compiler.reset()
    logits, target = batch
    module = loss.module(*loss.extra(5, logits.dtype), **loss.options)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    expected, gradient = value_and_gradient(loss, logits, target)
    scores = logits.clone().requires_grad_()
    value = compiled(scores, target)
    torch.autograd.backward(value)
    assert scores.grad is not None
    torch.testing.assert_close(value.detach(), expected)
    torch.testing.assert_close(scores.grad, gradient)


@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_compiles_semeda(batch: Batch) -> None:
    torch.compiler.reset()
    loss = SemedaLoss(EdgeNetwork(4))
    # Of a size where inductor lays the network's maps out channels last.
    logits, target = batch[0][:, :4].float().repeat(1, 1, 4, 4), batch[1].repeat(1, 4, 4) % 4
    found = []
    for each in (loss, torch.compile(loss, fullgraph=True)):
        scores = logits.clone().requires_grad_()
        value = each(scores, target)
        torch.autograd.backward(value)
        found += [value.detach(), scores.grad]
    torch.testing.assert_close(found[2:], found[:2])


@one_of_a_kind
@given(
    order=st.permutations(range(4)),
    classes=st.permutations(range(5)),
    flips=st.sets(st.sampled_from([-1, -2])),
)
@settings(max_examples=5)
def test_order_of_images_and_classes_and_flips_change_nothing(
    loss: Case, order: list[int], classes: list[int], flips: set[int]
) -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 5, 8, 9, generator=generator, dtype=torch.float64)
    target = blocks()
    expected = float(loss(logits, target))
    moved, labels = logits[order], target[order]
    if loss.module is not SemedaLoss:  # the edge network has learned its classes and sides
        moved = moved[:, classes].flip(tuple(flips))
        new_label = torch.full((256,), VOID)
        new_label[classes] = torch.arange(5)
        labels = new_label[labels].flip(tuple(flips))
    assert float(loss(moved, labels)) == pytest.approx(expected, rel=1e-9)
