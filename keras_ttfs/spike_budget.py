"""SpikeBudget: a callback for `fit` that trains a network to a number of spikes.

`model.fit(x, y, callbacks=[SpikeBudget(spikes=20000, data=x_val[:500])])`
"""

import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import checks, distribution

STATE = ("first", "ratio")
# Of the moving average of counts, which scatter while the learning rate is large: moving statistics lag behind the weights.
SHARE_OF_A_COUNT = 0.1
# What one move takes from the firing probability at most, because the move is right to first order alone [1].
LARGEST_CUT = 0.05
MOST_MOVES = 60
# Above this share of the budget the callback warns when `fit` ends [1].
MISSED = 1.1


class SpikeBudget(keras.callbacks.Callback):
    """Brings the spikes per sample to a number while `fit` trains: gradient descent that is projected onto the budget.

    Every `every` training steps the callback counts the spikes S of the hidden layers on `data`. R is
    `TTFSModel.firing_probability`, what the scales and shifts of all TKBatchNorm that an encoder follows say of the spikes,
    and k the moving average of S / R. Where k * R is above the target, these scales and shifts, together v, move down the
    gradient of R,

        v <- v - (R - target / k) * dR/dv / |dR/dv|**2

    in several moves where one would take more than a twentieth of R, with a count after each. That is the smallest change
    that meets the target. The loss stays what it is, and training goes on from there. The target falls from the first count
    to the budget over the share `ramp` of the run, in a straight line. Spikes follow it with some delay, because k is a
    moving average, and end within a few per cent of the budget. A network within its target is left alone. A run that ends
    far above its budget, because too few layers can be moved, ends with a warning. The callback draws nothing at random and
    remembers `state`, so a run that is resumed with it goes on exactly.

    The logs of each epoch gain `spike_target` [spikes per sample]. `rows` is a list of dicts, one for each count: `step`,
    `spikes` (S), `expected` (k * R before it is moved) and `target` [spikes per sample].

    >>> SpikeBudget(spikes=100, data=[[0.0, 1.0]]).spikes
    100.0

    Args:
        spikes: float > 0: the budget [spikes per sample], of the hidden layers.
        data: array `(samples, ...)`: inputs on which spikes are counted, validation data, say. A few hundred are enough.
        every: int >= 1: counts spikes every so many training steps [steps].
        ramp: float in [0, 1]: share of the run after which the budget holds [1].
        state: `state` of an interrupted run, or None.

    Raises:
        ValueError: "Expected ... Received: ..." for an argument out of its range, and in `fit` for a model that is no
            TTFSModel, for one without a trainable scale or shift of a TKBatchNorm that an encoder follows, or for data
            whose number of steps is not known.

    Differs from the paper, whose lambda_TB P_TB has one weight for all runs and meets no number.
    """

    def __init__(
        self,
        spikes: float,
        data: Any,
        every: int = 20,
        ramp: float = 0.3,
        state: dict[str, float] | None = None,
    ):
        super().__init__()
        self.spikes = checks.number("spikes", spikes, above=0, unit="spikes per sample")
        self.data = checks.array("data", data)
        self.every = checks.integer("every", every, unit="steps")
        self.ramp = checks.share("ramp", ramp)
        self.state = dict(state or dict.fromkeys(STATE, 0.0))
        if self.state.keys() != set(STATE):
            raise ValueError(f"Expected the state of a SpikeBudget. Received: state={state!r}")
        self.rows: list[dict[str, float]] = []
        self.epoch = 0
        self._counted_at: int | None = None
        self._count: Any = None
        self._moved: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        pairs = self.model.batch_norm_pairs() if hasattr(self.model, "batch_norm_pairs") else []
        # `(TKBatchNorm, place in its affine map, weight)`.
        self._moved = [
            (norm, place, weight)
            for norm in dict.fromkeys(norm for norm, _ in pairs)
            for place, weight in enumerate((norm.gamma, norm.beta))
            if norm.trainable and weight is not None and weight.trainable
        ]
        if not self._moved:
            raise ValueError(
                "Expected a TTFSModel with a trainable TKBatchNorm that an encoder follows, because its scale and shift "
                f"decide how many neurons fire. Received: {type(self.model).__name__} {self.model.name!r}"
            )
        if not self.params["steps"]:
            raise ValueError(
                "Expected a known number of training steps in an epoch, because the target follows them. "
                "Received: steps_per_epoch=None and data without a length"
            )
        data, strategy = tf.convert_to_tensor(self.data), self.model.distribute_strategy
        count = tf.function(lambda: sum(self.model.count_spikes(data).values()), autograph=False)
        self._count = lambda: distribution.on_all_replicas(strategy, count)

    def on_train_end(self, logs: Any = None) -> None:
        if self.rows and self.rows[-1]["target"] == self.spikes and (left := self._count()) > MISSED * self.spikes:
            warnings.warn(
                f"Expected {self.spikes:g} spikes per sample at the end of training. Received: {left:g}. Train longer, or "
                "let more TKBatchNorm be trainable.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._counted_at is None:  # A resumed run counts when the whole run would.
            self._counted_at = (epoch * self.params["steps"] - 1) // self.every
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = self.epoch * self.params["steps"] + batch
        # Not each multiple: with steps_per_execution Keras tells of some steps only.
        if step // self.every != self._counted_at:
            self._counted_at = step // self.every
            self._project(step, step / (self.params["epochs"] * self.params["steps"]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None and self.rows:
            logs["spike_target"] = self.rows[-1]["target"]

    def _project(self, step, done):
        """Counts, and moves scales and shifts, when the share `done` of the run is over."""
        spikes, state = self._count(), self.state
        probability = self._probability()
        state["first"] = state["first"] or spikes
        ratio = spikes / probability if probability else state["ratio"]
        state["ratio"] += (SHARE_OF_A_COUNT if state["ratio"] else 1.0) * (ratio - state["ratio"])
        share = min(1.0, done / self.ramp) if self.ramp else 1.0
        target = max(self.spikes, state["first"] + (self.spikes - state["first"]) * share)
        expected = state["ratio"] * probability
        self.rows.append({"step": step, "spikes": spikes, "expected": expected, "target": target})
        if expected > target:
            self._lower(target)

    def _probability(self):
        return float(distribution.agreed(self.model.distribute_strategy, self.model.firing_probability()))

    def _lower(self, target):
        """Moves scales and shifts down the gradient of the firing probability until it means the target."""
        for _ in range(MOST_MOVES):
            # Of tensors, because the variables of a distribution strategy have no gradient outside of its replicas.
            affine = {norm: norm.affine() for norm, _ in self.model.batch_norm_pairs()}
            moved = [affine[norm][place] for norm, place, _ in self._moved]
            with tf.GradientTape() as tape:
                tape.watch(moved)
                probability = self.model.firing_probability(affine)
            strategy = self.model.distribute_strategy
            gradients = [distribution.agreed(strategy, each) for each in tape.gradient(probability, moved)]
            probability = distribution.agreed(strategy, probability)
            square = sum(float(tf.reduce_sum(gradient**2)) for gradient in gradients)
            missing = float(probability) - target / self.state["ratio"]
            # Without a gradient every neuron fires, or none, whatever a small move does.
            if missing < 1e-4 * float(probability) or not square:
                return
            cut = min(missing, LARGEST_CUT * float(probability))
            for (_, place, weight), old, gradient in zip(self._moved, moved, gradients):
                new = old - cut / square * gradient
                # A scale keeps its sign, and half of its size at least.
                new = new if place else tf.where(new / old > 0.5, new, 0.5 * old)
                weight.assign(tf.cast(new, weight.dtype))
            if cut < missing:
                # What a large cut leaves is counted, because spikes may go faster than their probability.
                self.state["ratio"] = self._count() / self._probability()
                if not self.state["ratio"]:
                    return
