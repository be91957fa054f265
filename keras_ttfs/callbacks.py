"""Callbacks for `fit`: the schedule of the stochastic relaxation, kernels that wait, and the history of the kernels.

`model.fit(x, y, callbacks=[RelaxationSchedule(target_epoch=50), TemporalKernelHistory()])`
"""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_ttfs import checks, temporal_kernel, topology
from keras_ttfs.layers import TTFSActivation, TTFSEncode


class RelaxationSchedule(keras.callbacks.Callback):
    """Sets the relaxation of every TTFSActivation at the start of each epoch e.

    Forward: `p(e) = max(0, 1 - (e + 1) / target_epoch)`, e counted from 0. The first epoch without relaxation is
    `target_epoch - 1`. The schedule assigns a variable, so nothing is retraced. It depends on the epoch alone, so a run
    resumed with `initial_epoch` goes on exactly.

    >>> [RelaxationSchedule(target_epoch=4).probability(epoch) for epoch in range(5)]
    [0.75, 0.5, 0.25, 0.0, 0.0]

    Args:
        target_epoch: int >= 1: e_tar [epochs].

    Raises:
        ValueError: "Expected target_epoch to be an integer >= 1 ...".

    Reference: section 4, p(e); Fig. 4.
    """

    def __init__(self, target_epoch: int):
        super().__init__()
        self.target_epoch = checks.integer("target_epoch", target_epoch, unit="epochs")

    def probability(self, epoch: int) -> float:
        """p(e) in [0, 1] of an epoch, an int >= 0."""
        epoch = checks.integer("epoch", epoch, least=0, unit="epochs")
        return max(0.0, 1.0 - (epoch + 1) / self.target_epoch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for layer in topology.layers_of(self.model, TTFSActivation):
            layer.set_relaxation(self.probability(epoch))


class FreezeTemporalKernels(keras.callbacks.Callback):
    """Freezes every temporal kernel, and leaves REG_TR and P_TB out of the loss, in the first epochs.

    Until then tau and t_d keep their values, while the other weights learn by the loss and by L2. It depends on the epoch
    alone, so a run resumed with `initial_epoch` goes on exactly. The step is traced anew where the kernels are released.
    To the optimizer their gradients are 0 before, so that Adam's steps after it are up to 6.6 times its rate (beta_1 = 0.9,
    beta_2 = 0.999, a gradient that stays as it is).

    Args:
        epochs: int >= 0: how many [epochs].

    Raises:
        ValueError: "Expected epochs to be an integer >= 0 ...", and in `fit` for a model that is no TTFSModel.

    Differs from the paper, which does not tell of it: its authors' code freezes while layers relax, for 50 of 2,000 epochs.
    """

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = checks.integer("epochs", epochs, least=0, unit="epochs")

    def on_train_begin(self, logs: Any = None) -> None:
        if not hasattr(self.model, "freeze_temporal_kernels"):
            raise ValueError(f"Expected a TTFSModel. Received: {type(self.model).__name__}")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.freeze_temporal_kernels(epoch < self.epochs)


class TemporalKernelHistory(keras.callbacks.Callback):
    """Records every temporal kernel at the end of every epoch: what Figs. 2, 5 and 11-15 plot.

    `rows` is a list of dicts, one per epoch and encoder. Each holds `epoch`, `layer`, `tau`, `t_d` [steps], `z_min`,
    `z_max` and `maximum_precision_error` [1]. In a TTFSModel, a row of an encoder behind a TKBatchNorm also holds mean,
    std, min and max of gamma and beta [1], named as `gamma_mean`. With `data`, every row holds the means over the data
    of `maximum_error`, `minimum_error` and `precision_error` [1].

    Args:
        data: array `(samples, ...)` on which the three errors are taken, or None.
        rows: rows of earlier epochs, of an interrupted run.

    Raises:
        ValueError: "Expected data to be ..." for data that are no finite numbers, or "Expected rows to be ...".

    Reference: Eqs. 10-13; Figs. 2, 5 and 11-15.
    """

    def __init__(self, data: Any = None, rows: Iterable[Mapping[str, Any]] = ()):
        super().__init__()
        self.data = None if data is None else checks.array("data", data)
        self.rows = list(rows) if isinstance(rows, Iterable) else [rows]
        if not all(isinstance(row, Mapping) and {"epoch", "layer"} <= row.keys() for row in self.rows):
            raise ValueError(f"Expected rows to be dicts with `epoch` and `layer`. Received: rows={rows!r}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        errors = self._errors() if self.data is not None else {}
        pairs = self.model.batch_norm_pairs() if hasattr(self.model, "batch_norm_pairs") else []
        norms = {encoder: norm for norm, encoder in pairs}
        for encoder, label in topology.labels(topology.layers_of(self.model, TTFSEncode)).items():
            # Not float(weight), which fails on the mirrored weights of a distribution strategy.
            tau, t_d = tf.convert_to_tensor(encoder.tau), tf.convert_to_tensor(encoder.t_d)
            row = {
                "epoch": epoch,
                "layer": label,
                "tau": float(tau),
                "t_d": float(t_d),
                "z_min": float(encoder.z_min),
                "z_max": float(encoder.z_max),
                "maximum_precision_error": float(temporal_kernel.maximum_precision_error(tau, t_d)),
                **errors.get(encoder, {}),
                **(_summary(norms[encoder]) if encoder in norms else {}),
            }
            self.rows.append(row)

    def _errors(self):
        errors = {}

        def observe(encoder, z):
            arguments = (z, encoder.tau, encoder.t_d, encoder.time_window)
            errors[encoder] = {
                "maximum_error": _mean(temporal_kernel.maximum_error(*arguments)),
                "minimum_error": _mean(temporal_kernel.minimum_error(*arguments)),
                "precision_error": _mean(temporal_kernel.precision_error(*arguments, rounding=encoder.rounding)),
            }

        with topology.observed(self.model, observe):
            # In a replica, because a layer counts its spikes in a variable of which each replica has its own.
            data = tf.convert_to_tensor(self.data)
            self.model.distribute_strategy.run(lambda: self.model(data, training=False))
        return errors

    def arrays(self) -> dict[str, np.ndarray]:
        """The history as `{column: array (epochs, encoders)}`, NaN where a row has no such column.

        `"epoch"` is `(epochs,)`, the numbers of the epochs; `"layer"` is `(encoders,)`, the names.
        """
        layers = list(dict.fromkeys(row["layer"] for row in self.rows))
        epochs = sorted({row["epoch"] for row in self.rows})
        columns = dict.fromkeys(name for row in self.rows for name in row if name not in ("epoch", "layer"))
        table = {name: np.full((len(epochs), len(layers)), np.nan) for name in columns}
        for row in self.rows:
            place = epochs.index(row["epoch"]), layers.index(row["layer"])
            for name in columns:
                table[name][place] = row.get(name, np.nan)
        return {"epoch": np.array(epochs), "layer": np.array(layers), **table}


def _mean(values):
    return float(tf.reduce_mean(values))


def _summary(norm):
    summary = {}
    for name in ("gamma", "beta"):
        weight = getattr(norm, name)
        if weight is not None:
            values = keras.ops.convert_to_numpy(weight)
            for statistic in ("mean", "std", "min", "max"):
                summary[f"{name}_{statistic}"] = float(getattr(values, statistic)())
    return summary
