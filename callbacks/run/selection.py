"""The frozen selection of a model: what was chosen on the development set, and a check that a test uses it.

Source: paper, Sec. 5 (evaluation protocol: one model, chosen on the development set, tested on all targets).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KEYS = {"weights", "values", "development"}


@dataclass(frozen=True)
class Selection:
    """A selection, as stored in its file.

    Attributes:
        path: Path of the file.
        sha256: SHA-256 of the file.
        checkpoint: Path of the chosen weights at the time of selection.
        weights: SHA-256 of the chosen weights, see `fingerprint_weights`.
        values: Chosen values by the name of the method's argument, such as ``alpha``.
        semantics: Seg-TTT's argument ``semantics`` at the time of selection; None if unknown.
    """

    path: Path
    sha256: str
    checkpoint: str
    weights: str
    values: Mapping[str, Any]
    semantics: str | None = None

    @classmethod
    def read(cls, path: str | Path) -> "Selection":
        """Reads a selection file.

        Raises:
            ValueError: If the file is missing or holds no selection.
        """
        path = Path(path).expanduser()
        try:
            data = path.read_bytes()
            content = yaml.safe_load(data)
        except (OSError, UnicodeError, yaml.YAMLError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the selection {path} cannot be read ({reason}): {EXPECTED}") from error
        if not isinstance(content, Mapping) or not content.keys() >= KEYS or not isinstance(content["values"], Mapping):
            found = f"the keys {sorted(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
            raise ValueError(f"the selection {path} contains {found}, not the keys {sorted(KEYS)}: {EXPECTED}")
        digest = hashlib.sha256(data).hexdigest()
        checkpoint, semantics = str(content.get("checkpoint")), content.get("semantics")
        return cls(path, digest, checkpoint, content["weights"], content["values"], semantics)

    def check(self, settings: Mapping[str, Any] | None, weights: str, departures: Sequence[str]) -> None:
        """Raises ValueError if a run does not use the selected weights and values.

        Args:
            settings: Arguments of the run's method by name; None without a method.
            weights: SHA-256 of the run's weights.
            departures: Names of arguments that differ on purpose.
        """
        if weights != self.weights:
            raise ValueError(
                f"the weights of this run are not those of {self.path} (SHA-256 {weights[:12]}... instead of "
                f"{self.weights[:12]}...): expected the checkpoint that was chosen, --ckpt_path={self.checkpoint}"
            )
        chosen = {**self.values, **({} if self.semantics is None else {"semantics": self.semantics})}
        unknown = sorted(set(departures) - chosen.keys())
        if unknown:
            raise ValueError(
                f"results.departures names {', '.join(unknown)}, which {self.path} does not choose: expected some of "
                f"{', '.join(chosen)}"
            )
        for name, value in chosen.items():
            if settings is None or name not in settings or name in departures:
                continue
            own = list(settings[name]) if isinstance(settings[name], tuple) else settings[name]
            if own != value:
                raise ValueError(
                    f"{settings['name']} has {name}={own}, but {self.path} chose {value}: expected the chosen value, "
                    f"--method.{name}={value}; if it differs on purpose, pass --results.departures=[{name}]"
                )

    def describe(self, departures: Sequence[str]) -> dict[str, Any]:
        """Returns the selection's entry in results.json."""
        return {"file": str(self.path), "sha256": self.sha256, "departures": list(departures)}


EXPECTED = "expected the selection.yaml that `python -m experiments.protocol` writes"
