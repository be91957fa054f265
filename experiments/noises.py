"""Kinds of `keras_ttfs.noise` by short names, and strengths of each. No TensorFlow.

`jitter=1,dropped=0.05` is both of them, as `--noise` and `experiments.robustness` name them.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from keras_ttfs.noise import Noise


class Kind(NamedTuple):
    """A kind of noise.

    Attributes:
        name: of its class in keras_ttfs.noise.
        strength: what its strength is, in words.
        strengths: from weak to strong, as they are measured.
    """

    name: str
    strength: str
    strengths: tuple[float, ...]


KINDS = {
    "jitter": Kind("Jitter", "jitter of spike times [steps]", (0.25, 0.5, 1.0, 1.5, 2.0)),
    "dropped": Kind("DroppedSpikes", "share of spikes that are lost", (0.01, 0.02, 0.05, 0.1, 0.2)),
    "spurious": Kind("SpuriousSpikes", "share of neurons that fire for no reason", (0.001, 0.002, 0.005, 0.01, 0.02)),
    "dead": Kind("DeadNeurons", "share of dead neurons", (0.01, 0.02, 0.05, 0.1, 0.2)),
    "threshold": Kind("ThresholdMismatch", "deviation of thresholds", (0.02, 0.05, 0.1, 0.2, 0.3)),
    "weight": Kind("WeightMismatch", "deviation of weights", (0.02, 0.05, 0.1, 0.2, 0.3)),
    "bits": Kind("WeightBits", "bits of a weight", (8, 6, 5, 4, 3, 2)),
}


def parsed(text: str) -> dict[str, float]:
    """`{kind: strength}` of a text like `jitter=1,dropped=0.05`; none of "".

    Raises:
        ValueError: "Expected noise like jitter=1,dropped=0.05, of ... Received: ...".
    """
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        kind, _, strength = part.partition("=")
        try:
            if kind not in KINDS or kind in found:
                raise ValueError
            found[kind] = float(strength)
        except ValueError:
            raise ValueError(
                f"Expected noise like jitter=1,dropped=0.05, of {', '.join(KINDS)}, each once. Received: {text!r}"
            ) from None
    return found


def noise_of(strengths: dict[str, float]) -> list["Noise"]:
    """The noise of `{kind: strength}`. Raises ValueError for a strength out of its range."""
    from keras_ttfs import noise

    return [
        getattr(noise, KINDS[kind].name)(int(strength) if kind == "bits" and strength == int(strength) else strength)
        for kind, strength in strengths.items()
    ]
