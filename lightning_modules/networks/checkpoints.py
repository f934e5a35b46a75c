"""What a state dict has to be to fit a network."""

from collections.abc import Mapping

from torch import Tensor


def find_difference(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str | None:
    """Says how saved tensors differ in names and shapes from a network's own: how many, and examples. None if they fit.

    Args:
        own: The state dict of the network.
        saved: The state dict to be loaded.
    """
    shapes = {key: tuple(value.shape) for key, value in own.items()}
    found = {key: tuple(value.shape) for key, value in saved.items()}
    missing, unknown = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
    differing = sorted(key for key in shapes.keys() & found.keys() if shapes[key] != found[key])
    if not (missing or unknown or differing):
        return None
    examples = [f"{key} is missing" for key in missing[:2]]
    examples += [f"{key} is not part of the network" for key in unknown[:2]]
    examples += [f"{key} is {found[key]}, the network has {shapes[key]}" for key in differing[:2]]
    counts = f"{len(missing)} tensors missing, {len(unknown)} unknown, {len(differing)} of another shape"
    return f"{counts} (e.g. {'; '.join(examples)})"
