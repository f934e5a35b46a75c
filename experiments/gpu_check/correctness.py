"""Checks the arithmetic and the methods on a device, against the CPU or against each other."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from callbacks import blended_norm
from callbacks.ensemble import Ensemble
from callbacks.iabn import IaBN
from callbacks.mc_dropout import MCDropout
from callbacks.method import Method
from callbacks.seg_ttt import SegTTT
from callbacks.tent import Tent
from callbacks.tta import TTA
from experiments.benchmark.cost import autocast, float32_products, measure_peak
from experiments.benchmark.plain_loop import normalise_features
from experiments.benchmark.subject import Subject
from experiments.gpu_check.runner import Row, Setup
from lightning_modules.predictor import predict_plainly
from lightning_modules.semantics import Semantics

# Largest error allowed, relative to the largest value: a few units in the last place of the type.
NORM_ERRORS = {torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 5e-3}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
# Smallest share of equal labels allowed. Rounding changes some labels after steps in bf16; a wrong formula, far more.
SAME_LABELS = {"32-true": 0.995, "bf16-mixed": 0.95}
VARIANT_SLACK = 1e-3  # share of labels that may differ beyond the variation between identical runs
NEARLY_TIED = 0.05  # difference of a pixel's two highest probabilities, below which rounding decides its label
COUNTS = (1, 3, 6)
FEW, MANY = 2, 8  # numbers of steps; the host must wait equally often for both
ALPHA, EPS = 0.3, 1e-5  # of the blended norm


def make_methods(steps: int, lr: float) -> dict[str, Method]:
    """Makes the methods that need nothing but a network."""
    return {
        "IaBN": IaBN(),
        "IaBN refined": IaBN(refine=steps),
        "TTA": TTA(),
        "TTA autocontrast": TTA(autocontrast=True),
        "SegTTT": SegTTT(num_steps=steps, lr=lr),
        "SegTTT released": SegTTT(num_steps=steps, lr=lr, semantics="released"),
        "Tent": Tent(num_steps=steps),
    }


def check_norm(setup: Setup) -> Iterator[Row]:
    """Compares the blended norm, forward and backward, with its formula in float64 on the CPU."""
    height, width = (9, 14) if setup.tiny else (128, 256)
    pair = (2, 64, height, width)
    cases = [((1, 64, height, width), False), (pair, False), ((1, 64, 1, 1), False), (pair, True)]
    for dtype, layout, (size, pooled) in product(NORM_ERRORS, LAYOUTS, cases):
        row: Row = {"type": str(dtype), "layout": layout, "size": "x".join(map(str, size)), "pooled": pooled}
        errors = measure_norm_errors(setup.device, dtype, LAYOUTS[layout], size, pooled)
        served = blended_norm.fast_path_report().items()  # keys: cuda:0 torch.bfloat16 channels_last
        row["served by"] = next((how for key, how in served if key.endswith(f"{dtype} {layout}")), None)
        ok = max(errors.values()) <= NORM_ERRORS[dtype]
        yield {**row, **errors, "allowed": NORM_ERRORS[dtype], "ok": ok}


def measure_norm_errors(
    device: torch.device, dtype: torch.dtype, layout: torch.memory_format, size: tuple[int, ...], pooled: bool
) -> dict[str, float]:
    """Measures the largest errors of the output and each gradient, relative to the largest value; inf for NaN."""
    torch.manual_seed(0)
    mean, bias = torch.randn(2, size[1])
    var, weight = torch.rand(2, size[1]) + 0.5
    x = (torch.randn(size) * 1.5 + bias[:, None, None]).to(dtype)
    x[:, 0] = 2.0  # a channel without variance
    # A clone lies in the layout also where a side is 1, as after global pooling; `contiguous` would keep it.
    x, gradient = (tensor.clone(memory_format=layout) for tensor in (x, torch.randn(size).to(dtype)))
    given = (x, mean, var, weight, bias, gradient)
    formula = normalise_together if pooled else normalise_features
    expected = differentiate(formula, *(tensor.double() for tensor in given))
    fast = partial(blended_norm.normalize_blended, pooled=pooled)
    found = differentiate(fast, *(tensor.detach().to(device) for tensor in given))
    errors = {}
    for name, one, other in zip(("output", "gradient", "of weight", "of bias"), found, expected, strict=True):
        error = (one.double().cpu() - other).abs().amax() / other.abs().amax()
        errors[name] = error.nan_to_num(float("inf")).item()
    return errors


def normalise_together(x: Tensor, *others: Any) -> Tensor:
    """Normalises by the statistics of the whole batch, as `normalise_features` does for one joined image."""
    together = normalise_features(torch.cat(tuple(x), dim=1)[None], *others)
    return torch.stack(together[0].chunk(len(x), dim=1))


def differentiate(
    normalize: Callable[..., Tensor], x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, grad: Tensor
) -> list[Tensor]:
    """Returns the output of a norm, and the gradients of features, weight and bias for output gradient `grad`."""
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    output = normalize(x, mean, var, weight, bias, ALPHA, EPS)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def check_methods(setup: Setup) -> Iterator[Row]:
    """Compares every method's prediction on the device, in exact float32 and in bf16, with the CPU's in float32."""
    subject = setup.make_subject()
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/one.pth", f"{folder}/other.pth"]
        for path, network in zip(paths, (subject.network, setup.make_subject(seed=1).network), strict=True):
            torch.save(network.state_dict(), path)
        methods = {"plain": None, **make_methods(2, subject.lr), "Ensemble": Ensemble(paths)}
        for name, method in methods.items():
            yield from compare_method(setup, name, method, subject)
    # Another device draws other dropout masks: labels may differ, but the network must still be left unchanged.
    yield from compare_method(setup, "MCDropout", MCDropout(passes=4), setup.make_subject(dropout=0.1), alike=False)


def compare_method(
    setup: Setup, name: str, method: Method | None, subject: Subject, alike: bool = True
) -> Iterator[Row]:
    """Compares a method on the device, in two precisions, with the CPU; labels must agree only if `alike`."""
    predict = predict_plainly if method is None else method.predict
    expected = predict(subject.network, subject.image)
    network, image = deepcopy(subject.network).to(setup.device), subject.image.to(setup.device)
    before = copy_state(network)
    for precision, limit in SAME_LABELS.items():
        with float32_products(tf32=False), autocast(setup.device, precision):
            output, peak = measure_peak(partial(predict, network, image), setup.device)
        same, unchanged = share_equal(output, expected), is_unchanged(network, before)
        fell_back = method is not None and any(adaptation.fallback for adaptation in method.adaptations)
        row: Row = {"method": name, "precision": precision, "same labels": same, "network as before": unchanged}
        ok = unchanged and not fell_back and (same >= limit or not alike)
        yield {**row, "fell back": fell_back, "peak MB": peak, "ok": ok}


def check_variants(setup: Setup) -> Iterator[Row]:
    """Compares several numbers of steps in one pass with each alone, allowing for the variation between runs."""
    subject = setup.make_subject(setup.device)
    network, image = subject.network, subject.image
    before = copy_state(network)
    for precision, semantics in product(SAME_LABELS, get_args(Semantics)):
        variants = [SegTTT(num_steps=count, lr=subject.lr, semantics=semantics) for count in COUNTS]
        with autocast(setup.device, precision):
            pairs = variants[0].predict_variants(network, image, variants)
            together = {number: outcome.probabilities for number, _, outcome in pairs}
            for number, variant in enumerate(variants):
                first, *others = [variant.predict(network, image) for _ in range(3)]
                repeated = min(share_equal(again, first) for again in others)
                same, unchanged = share_equal(together[number], first), is_unchanged(network, before)
                ok = unchanged and 1 - same <= 2 * (1 - repeated) + VARIANT_SLACK
                row: Row = {"precision": precision, "semantics": semantics, "steps": variant.num_steps}
                row |= {"same labels": same, "same when repeated": repeated}
                yield {**row, "network as before": unchanged, "ok": ok}


def check_waits(setup: Setup) -> Iterator[Row]:
    """Checks that the host waits for the GPU equally often at few and at many steps on one image."""
    if setup.device.type != "cuda":
        yield {"note": f"not applicable: the host waits only for a GPU, found {setup.device.type}"}
        return
    subject = setup.make_subject(setup.device)
    for precision in SAME_LABELS:
        methods, longer = make_methods(FEW, subject.lr), make_methods(MANY, subject.lr)
        for name in methods:
            with autocast(setup.device, precision):
                few, many = (count_waits(each[name], subject) for each in (methods, longer))
            more = dict(many - few)
            row: Row = {"method": name, "precision": precision, f"waits at {FEW} steps": few.total()}
            row |= {f"waits at {MANY} steps": many.total(), "where more": str(more) if more else None}
            yield {**row, "where": str(dict(few)), "ok": few.total() == many.total()}


def count_waits(method: Method, subject: Subject) -> Counter[str]:
    """Counts the waits of one prediction by source line; a first prediction absorbs waits that occur only once."""
    method.predict(subject.network, subject.image)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            method.predict(subject.network, subject.image)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    return Counter(f"{'/'.join(Path(warning.filename).parts[-2:])}:{warning.lineno}" for warning in waits)


def copy_state(network: nn.Module) -> list[Tensor]:
    """Copies the state that a method must leave unchanged: parameters, buffers, train flags and requires_grad."""
    flags = [module.training for module in network.modules()]
    flags += [parameter.requires_grad for parameter in network.parameters()]
    return [*(tensor.detach().clone() for tensor in network.state_dict().values()), torch.tensor(flags)]


def is_unchanged(network: nn.Module, before: list[Tensor]) -> bool:
    """Returns whether a network is bit-identical to an earlier `copy_state`."""
    return all(torch.equal(*pair) for pair in zip(copy_state(network), before, strict=True))


def share_equal(probabilities: Tensor, reference: Tensor) -> float:
    """Returns the share of pixels labelled as in a (1, K, H, W) reference, among those not nearly tied there."""
    best = reference.cpu().topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > NEARLY_TIED
    equal = probabilities.cpu().argmax(dim=1) == reference.cpu().argmax(dim=1)
    return equal[clear].double().mean().item()
