"""IaBN's alpha: one number for all layers, or one per layer, as a mapping or in a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from callbacks.adaptation.arguments import check_number

Alpha = float | dict[str, float] | str
MEANING = "the weight of the test image's statistics in [0, 1], e.g. 0.1 (0 is t-BN, 1 is p-BN)"


def read_alpha(alpha: Alpha | Mapping[str, float]) -> float | dict[str, float]:
    """Returns the weight of the image's statistics, for all layers or per layer.

    Args:
        alpha: A number in [0, 1]; a mapping from module names to such numbers; or the path of a YAML file that has such
            a mapping under ``alpha``, as `experiments.learn_alpha` writes it.

    Raises:
        ValueError: If a weight is outside [0, 1], or the file has no weights.
        FileNotFoundError: If there is no such file.
    """
    if isinstance(alpha, str):
        name = alpha
        try:
            alpha = float(name)
        except ValueError:
            alpha = _read_file(name)
    if not isinstance(alpha, Mapping):
        check_number("alpha", alpha, 0, 1, expected=MEANING)
        return alpha
    for name, value in alpha.items():
        check_number(f"alpha of {name}", value, 0, 1, expected=MEANING)
    return {name: float(value) for name, value in alpha.items()}


def _read_file(name: str) -> Mapping[str, float]:
    path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"alpha is {name!r}: expected a number in [0, 1], a mapping from layers to such numbers, or a file written "
            "by `python -m experiments.learn_alpha`"
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    found = content.get("alpha") if isinstance(content, Mapping) else None
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"{path} has no weights: expected a mapping from layer names to numbers under `alpha`")
    return {str(name): value for name, value in found.items()}


def is_blended(alpha: float | Mapping[str, float]) -> bool:
    """Returns whether any layer uses the test image's statistics, i.e. has a weight above 0."""
    return any(value > 0 for value in (alpha.values() if isinstance(alpha, Mapping) else [alpha]))


def spread_alpha(alpha: float | Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """Returns the weight of each layer; a name covers all layers at and below it, and the longest match wins.

    Raises:
        ValueError: If a layer has no weight, or a name covers no layer.
    """
    layers = list(layers)
    if not isinstance(alpha, Mapping):
        return dict.fromkeys(layers, alpha)
    fitting = {layer: [name for name in alpha if f"{layer}.".startswith(f"{name}.")] for layer in layers}
    unknown = sorted(set(alpha).difference(*fitting.values()))
    missing = [layer for layer, names in fitting.items() if not names]
    if unknown or missing:
        wrong = f"names {unknown[0]}, which matches no BatchNorm" if unknown else f"has no weight for {missing[0]}"
        raise ValueError(
            f"alpha {wrong}: expected a weight for each of the network's {len(layers)} BatchNorm layers, such as "
            f"{', '.join(layers[:3])}, and no others. Was it learned for another network?"
        )
    return {layer: alpha[max(names, key=len)] for layer, names in fitting.items()}
