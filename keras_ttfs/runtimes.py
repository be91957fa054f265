"""The runtimes for which `keras_ttfs.export` writes files: how each file is written, loaded and read.

Every package of a runtime is an extra, `pip install 'keras-ttfs[export]'`, and is imported when it is needed.
"""

import collections
import contextlib
import importlib
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ttfs import keras_internals

# What runs a loaded file: from inputs to `{name of an output: array}`.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def package(name: str, use: str) -> Any:
    """An optional package.

    Raises:
        ImportError: "Expected the package ... Received: none. pip install ...".
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"Expected the package {name.partition('.')[0]} for {use}. Received: none ({error}). "
            "pip install 'keras-ttfs[export]' brings it."
        ) from error


class SavedModel:
    """TensorFlow's SavedModel, a folder: TensorFlow Serving, TensorFlow itself."""

    suffix = ""
    packages: tuple[str, ...] = ()
    # Of a call; None: any number.
    samples: int | None = None

    def write(self, module: tf.Module, path: pathlib.Path, quantize: str | None) -> None:
        tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})

    def load(self, path: pathlib.Path) -> Run:
        loaded = tf.saved_model.load(str(path))
        serve = loaded.signatures["serving_default"]

        def run(x, keep=loaded):  # The signature alone does not keep its variables.
            return {name: value.numpy() for name, value in serve(inputs=tf.constant(x)).items()}

        return run

    def operations(self, path: pathlib.Path) -> collections.Counter:
        graph = tf.saved_model.load(str(path)).signatures["serving_default"].graph.as_graph_def()
        nodes = [node for function in graph.library.function for node in function.node_def]
        return collections.Counter(node.op for node in nodes if node.op not in ("NoOp", "StatefulPartitionedCall"))


class Onnx:
    """ONNX, run by onnxruntime. Written by tf2onnx, as Keras does."""

    suffix = ".onnx"
    samples: int | None = None
    packages: tuple[str, ...] = ("tf2onnx", "onnx", "onnxruntime")

    def write(self, module: tf.Module, path: pathlib.Path, quantize: str | None) -> None:
        tf2onnx = keras_internals.tf2onnx()
        signature = [module.serve.input_signature[0]]
        tf2onnx.convert.from_function(module.serve, signature, output_path=str(path))

    def load(self, path: pathlib.Path) -> Run:
        session = package("onnxruntime", "ONNX").InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        names = [output.name for output in session.get_outputs()]
        return lambda x: dict(zip(names, session.run(names, {entry.name: x})))

    def operations(self, path: pathlib.Path) -> collections.Counter:
        return collections.Counter(node.op_type for node in package("onnx", "ONNX").load(str(path)).graph.node)


class LiteRT:
    """LiteRT (TensorFlow Lite): phones and microcontrollers. Operations of its own alone, none of TensorFlow's."""

    suffix = ".tflite"
    samples: int | None = None
    packages = ("ai_edge_litert.interpreter",)

    def write(self, module: tf.Module, path: pathlib.Path, quantize: str | None) -> None:
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path.write_bytes(converter.convert())

    def load(self, path: pathlib.Path) -> Run:
        runner = self._interpreter(path).get_signature_runner("serving_default")
        return lambda x: runner(inputs=x)

    def operations(self, path: pathlib.Path) -> collections.Counter:
        details = keras_internals.litert_operations(self._interpreter(path))
        return collections.Counter(name for name in details if name != "DELEGATE")

    def _interpreter(self, path):
        return package(self.packages[0], "LiteRT").Interpreter(model_path=str(path))


def check_packages(name: str, packages: tuple[str, ...]) -> None:
    """Raises ImportError where a package of a format is missing."""
    for needed in packages:
        package(needed, f"format={name!r}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context without warnings of the converters' packages about one another, and without notes of where they write."""
    logger = tf.get_logger()
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        logger.setLevel("WARNING")
        try:
            yield
        finally:
            logger.setLevel(before)
