"""Every private name of Keras that this library leans on, each behind a function or a class that says what it is for.

Keras may change a private name in any release. So setup.py puts a ceiling on Keras. `tests/test_keras_internals.py`
pins each name and says what breaks without it. Another test forbids private names everywhere else in the project.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Keras does not export the class that `keras.Model(inputs, outputs)` returns.
_probe = keras.Input((1,), name="keras_ttfs_probe")
Functional: type[keras.Model] = type(
    keras.Model(_probe, keras.layers.Identity(name="keras_ttfs_identity")(_probe), name="keras_ttfs_probe")
)
# The package in which Keras exports models.
_EXPORTERS = keras.export.ExportArchive.__module__.rpartition(".")[0]


def make_functional(subclass: type, base: type, replacement: type) -> None:
    """Puts `replacement` in the place of `base` among the bases of a subclass, and of the classes between the two.

    `keras.Model` does the same with Functional when a subclass passes inputs and outputs to its __init__. Applied to a
    subclass of TTFSModel it would rebase TTFSModel itself, and later subclasses of TTFSModel could not be built.
    """
    bases = []
    for parent in subclass.__bases__:
        if parent is not base and issubclass(parent, base):
            make_functional(parent, base, replacement)
        bases.append(replacement if parent is base else parent)
    subclass.__bases__ = tuple(bases)


def functional_of(layer: Any) -> Any:
    """The graph of a Functional or built Sequential model; None for anything else."""
    functional = getattr(layer, "_functional", None) or layer
    return functional if hasattr(functional, "_run_through_graph") else None


def run_through_graph(functional: Any, values: Any, operation_of: Callable) -> Any:
    """Calls `operation_of(layer)(*args, **kwargs)` for every call of a graph; returns what stands for the outputs.

    Args:
        functional: graph, as `functional_of` gives.
        values: what stands for the inputs, in the order of `functional.inputs` or in the structure of these inputs.
        operation_of: function of a layer that returns what is called in its place.
    """
    return functional._run_through_graph(values, operation_fn=operation_of)


def takes_named_inputs(functional: Any) -> bool:
    """Whether a graph was made with a dict of inputs."""
    return isinstance(functional._inputs_struct, dict)


def output_count(layer: Any) -> int:
    """How many tensors a layer returned at its first call on symbolic tensors; 1 before any such call."""
    return len(layer._inbound_nodes[0].output_tensors) if layer._inbound_nodes else 1


def layers_below(layer: Any, recursive: bool = True) -> list:
    """The layers of a layer or model, those of nested layers too if `recursive`; none for anything without layers."""
    flatten = getattr(layer, "_flatten_layers", None)
    return list(flatten(include_self=False, recursive=recursive)) if flatten else []


def track_loss(model: keras.Model, loss: Any, samples: Any) -> None:
    """Adds the loss of a batch of so many samples to the mean that Keras logs as `loss`."""
    model._loss_tracker.update_state(loss, sample_weight=samples)


def observe_losses(model: keras.Model, observe: Callable) -> None:
    """From now on, `observe(loss, values)` sees every loss of `compile`: first with None, then with what its `call` returns.

    The losses that were given to `compile` stay as they are. One with a `__call__` of its own is called without it.
    """
    compiled = model._compile_loss
    if compiled is None or hasattr(compiled, "keras_ttfs_observed"):
        return

    def replace_losses():
        observed = []
        for each in compiled._flat_losses:
            observe(each.loss, None)
            observed.append(type(each)(each.path, _ObservedLoss(each.loss, observe), each.loss_weights, each.name))
        compiled._flat_losses, compiled.keras_ttfs_observed = observed, True

    def build(*args):
        type(compiled).build(compiled, *args)
        replace_losses()

    if compiled.built:
        replace_losses()
    else:
        # A step that `fit` did not begin resolves the losses itself.
        compiled.build = build


class _ObservedLoss(keras.losses.Loss):
    """A loss whose `call` somebody sees. The `__call__` is that of Keras."""

    def __init__(self, loss, observe):
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self.loss, self.observe = loss, observe

    def call(self, y_true, y_pred):
        values = self.loss.call(y_true, y_pred)
        self.observe(self.loss, values)
        return values


def is_masked(tensor: Any) -> bool:
    """Whether Keras leaves entries of an output out of its loss."""
    return getattr(tensor, "_keras_mask", None) is not None


def layers_with_losses(model: keras.Model) -> list:
    """The layers, and the model, that hold losses of their last call: of activity regularisers and add_loss."""
    return [layer for layer in [model, *layers_below(model)] if layer._losses]


def exclude_from_weight_decay(optimizer: keras.optimizers.Optimizer, variables: list) -> None:
    """Keeps variables out of an optimizer's weight decay, also of one that is built (Keras' own method refuses those)."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    excluded = {optimizer._var_key(variable) for variable in variables}
    optimizer._exclude_from_weight_decay = getattr(optimizer, "_exclude_from_weight_decay", set()) | excluded
    optimizer._exclude_from_weight_decay_cache = {}


class CloneableFunctional(Functional):
    """A Functional model of which `keras.models.clone_model` keeps `clone_options`.

    Keras makes a clone by `model.__class__(inputs, outputs, name=...)` and so drops every other argument. Here the options
    travel on the clone's symbolic outputs, and `options_of_clone` reads them in its __init__.
    """

    def clone_options(self) -> dict[str, Any]:
        """Arguments of __init__ that a clone gets as well."""
        return {}

    def _run_through_graph(self, inputs, **kwargs):
        outputs = super()._run_through_graph(inputs, **kwargs)
        # Of all callers in Keras, clone_model alone passes both functions.
        if {"operation_fn", "call_fn"} <= kwargs.keys():
            for tensor in keras.tree.flatten(outputs):
                tensor._keras_ttfs_clone_options = self.clone_options()
        return outputs


def options_of_clone(arguments: Any) -> dict[str, Any]:
    """The `clone_options` of the model whose clone is being made with these arguments. Empty for any other."""
    marked = [value for value in keras.tree.flatten(arguments) if hasattr(value, "_keras_ttfs_clone_options")]
    options = [vars(value).pop("_keras_ttfs_clone_options") for value in marked]
    return options[0] if options else {}


class ObservedBatchNormalization(keras.layers.BatchNormalization):
    """A BatchNormalization that calls `self.moments_computed(inputs, mask, mean, variance)` in every training step."""

    def moments_computed(self, inputs: Any, mask: Any, mean: Any, variance: Any) -> None:
        """Receives the statistics of the batch that is being normalised. A subclass overrides it."""

    def _moments(self, inputs, mask):
        mean, variance = super()._moments(inputs, mask)
        self.moments_computed(inputs, mask, mean, variance)
        return mean, variance


class DistributedModel(keras.Model):
    """A model that also trains under MultiWorkerMirroredStrategy, where Keras' TensorFlow trainer fails twice.

    Keras builds a model from the mean of a batch over the replicas, and a tuple of their values has none: the specification
    of the data says all that it needs. And Keras means the logs of the replicas over axis 0, which scalars do not have: here
    each log is a vector of one number while it is reduced (keras#20585). The logs of an epoch are the metrics of all replicas
    together, not the mean of what each replica has seen.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        if iterator is not None:
            spec = iterator._distributed_dataset.element_spec
            data_batch, iterator = keras.tree.map_structure(_spec_of_one_replica, spec), None
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def _make_function(self, step_function):
        if not several_workers(self.distribute_strategy):
            return super()._make_function(step_function)
        return super()._make_function(lambda data: keras.tree.map_structure(_as_vector, step_function(data)))

    def _get_metrics_result_or_logs(self, logs):
        together = self.get_metrics_result() if self.distribute_strategy.num_replicas_in_sync > 1 else {}
        if isinstance(logs, dict) and logs.keys() & together.keys():
            return {name: together.get(name, value) for name, value in logs.items()}
        return super()._get_metrics_result_or_logs(logs)


def several_workers(strategy: tf.distribute.Strategy) -> bool:
    """Whether a strategy trains with several processes that reduce gradients among each other."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and strategy.extended._in_multi_worker_mode()


def _spec_of_one_replica(spec):
    """The shapes and types of what one replica gets, of the specification of a batch of all."""
    return getattr(spec, "_value_specs", (spec,))[0]


def _as_vector(value):
    return tf.reshape(value, (1,)) if len(value.shape) == 0 else value


def operation_type(function: Callable) -> type:
    """The class of the operation that a function of `keras.ops` or `keras.activations` adds to a graph."""
    return type(function(keras.Input((2,), name="keras_ttfs_probe"))._keras_history.operation)


def exporters() -> set[str]:
    """What traces a model for a file, if this call comes from there: the names of Keras' modules of exporting.

    Empty outside of `keras.Model.export` and `keras.export.ExportArchive`. A SavedModel is traced by modules whose names
    begin with "saved_model", and by no other.
    """
    frame: Any = sys._getframe()
    names = set()
    while frame is not None:
        folder, _, name = frame.f_globals.get("__name__", "").rpartition(".")
        if folder == _EXPORTERS:
            names.add(name)
        frame = frame.f_back
    return names


def is_inner_function(graph: Any) -> bool:
    """Whether a graph is that of a tf.function which another tf.function calls. Branches and loops are none."""
    outer = getattr(graph, "outer_graph", None)
    return type(graph).__name__ == type(outer).__name__ == "FuncGraph"


def tf2onnx() -> Any:
    """The package tf2onnx, made to work with NumPy 2 as Keras' own ONNX export makes it."""
    importlib.import_module(f"{_EXPORTERS}.tf2onnx_lib").patch_tf2onnx()
    return importlib.import_module("tf2onnx")


def litert_operations(interpreter: Any) -> list[str]:
    """The name of every operation in a file that a LiteRT interpreter has loaded."""
    return [details["op_name"] for details in interpreter._get_ops_details()]


def is_private_method(name: str) -> bool:
    """Whether a name is one that Keras keeps to itself."""
    return name.startswith("_") and not name.startswith("__")
