"""SpikeBudget: a callback for `fit` that trains a network to a number of spikes.

`model.fit(x, y, callbacks=[SpikeBudget(spikes=20000, data=x_val[:500])])`
"""

from typing import Any

import keras
import tensorflow as tf

from keras_ttfs import checks

STATE = ("first", "last", "integral", "lambda_s")


class SpikeBudget(keras.callbacks.Callback):
    """Steers the weight of the expected spikes in the loss until the spikes per sample meet a number.

    Forward: the loss gains `lambda_s * R`, where R sums, over all TKBatchNorm that an encoder follows, the mean over channels
    of `regularizers.firing_probability`, each layer weighed by its neurons (`TTFSModel.firing_probability`). Every `every`
    training steps the callback counts the spikes S of the hidden layers on `data`. With S_next, the count that the last two
    counts lead to in twice `every` steps, it sets

        lambda_s = max(0, gain * e + I)    with  e = S_next / target - 1,
        I += gain / 10 * min(e, 0.2)  if e > 0,  else  I *= 0.7

    The target falls from the first count to the budget over the share `ramp` of the run, in a straight line, because spikes
    that go slowly cost less accuracy, and because many go by themselves while the learning rate falls. Once a network is below
    its budget, lambda_s falls to 0. When `fit` ends, it is 0. The callback draws nothing at random and remembers `state`, so a
    run that is resumed with it goes on exactly.

    The logs of each epoch gain `lambda_s` [1]. `rows` is a list of dicts, one for each count: `step`, `spikes`, `target`
    [spikes per sample] and `lambda_s`.

    >>> SpikeBudget(spikes=100, data=[[0.0, 1.0]]).spikes
    100.0

    Args:
        spikes: float > 0: the budget [spikes per sample], of the hidden layers.
        data: array `(samples, ...)`: inputs on which spikes are counted, validation data, say. A few hundred are enough.
        every: int >= 1: counts spikes every so many training steps [steps].
        ramp: float in [0, 1]: share of the run after which the budget holds [1].
        gain: float > 0: of the control [1]. Runs of few steps need more.
        state: `state` of an interrupted run, or None.

    Raises:
        ValueError: "Expected ... Received: ..." for an argument out of its range, and in `fit` for a model that is no
            TTFSModel, whose P_TB pairs are none, or for data whose number of steps is not known.

    Differs from the paper, whose lambda_TB P_TB has one weight for all runs and meets no number.
    """

    def __init__(
        self,
        spikes: float,
        data: Any,
        every: int = 20,
        ramp: float = 0.8,
        gain: float = 1.0,
        state: dict[str, float] | None = None,
    ):
        super().__init__()
        self.spikes = checks.number("spikes", spikes, above=0, unit="spikes per sample")
        self.data = checks.array("data", data)
        self.every = checks.integer("every", every, unit="steps")
        self.ramp = checks.share("ramp", ramp)
        self.gain = checks.number("gain", gain, above=0, unit="1")
        self.state = dict(state or dict.fromkeys(STATE, 0.0))
        if self.state.keys() != set(STATE):
            raise ValueError(f"Expected the state of a SpikeBudget. Received: state={state!r}")
        self.rows: list[dict[str, float]] = []
        self.epoch = 0
        self._counted_at: int | None = None
        self._count: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        if not hasattr(self.model, "steer_spikes") or not self.model.batch_norm_pairs():
            raise ValueError(
                "Expected a TTFSModel with a TKBatchNorm that an encoder follows, because their scale and shift decide how "
                f"many neurons fire. Received: {type(self.model).__name__} {self.model.name!r}"
            )
        if not self.params["steps"]:
            raise ValueError(
                "Expected a known number of training steps in an epoch, because the target follows them. "
                "Received: steps_per_epoch=None and data without a length"
            )
        self.lambda_s = self.model.steer_spikes()
        self.lambda_s.assign(self.state["lambda_s"])
        data, count = tf.convert_to_tensor(self.data), tf.function(self.model.count_spikes, autograph=False)
        self._count = lambda: count(data)

    def on_train_end(self, logs: Any = None) -> None:
        # A later fit without the callback trains without the term. `state` keeps the number for one that resumes.
        self.lambda_s.assign(0.0)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._counted_at is None:  # A resumed run counts when the whole run would.
            self._counted_at = (epoch * self.params["steps"] - 1) // self.every
        self.epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = self.epoch * self.params["steps"] + batch
        # Not each multiple: with steps_per_execution Keras tells of some steps only.
        if step // self.every != self._counted_at:
            self._counted_at = step // self.every
            self._steer(step, step / (self.params["epochs"] * self.params["steps"]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["lambda_s"] = self.state["lambda_s"]

    def _steer(self, step, done):
        """Counts and sets lambda_s, when the share `done` of the run is over."""
        spikes, state = float(sum(self._count().values())), self.state
        state["first"] = state["first"] or spikes
        expected = max(0.0, spikes + 2.0 * (spikes - (state["last"] or spikes)))
        state["last"] = spikes
        share = min(1.0, done / self.ramp) if self.ramp else 1.0
        target = max(self.spikes, state["first"] + (self.spikes - state["first"]) * share)
        error = expected / target - 1.0
        more = state["integral"] + 0.1 * self.gain * min(error, 0.2)
        state["integral"] = more if error > 0 else 0.7 * state["integral"]
        state["lambda_s"] = max(0.0, self.gain * error + state["integral"])
        self.lambda_s.assign(state["lambda_s"])
        self.rows.append({"step": step, "spikes": spikes, "target": target, "lambda_s": state["lambda_s"]})
