"""QONNX, the ONNX of quantized networks that FPGA tools (FINN, hls4ml) read: activations as quantizers.

A temporal kernel of base 2 with one step an octave is a `FloatQuant` behind a Relu: powers of 2, rounded down. Any other
kernel is a `MultiThreshold`, which counts the thresholds that a potential reaches, and a `Gather` of the level.

The executor of the package qonnx takes a logarithm in float32: a potential within a few units in the last place below a power
of 2 becomes 0 in a FloatQuant there, in the place of half that power. Hardware that reads the exponent does not err so.
"""

import pathlib
import re
from typing import Any

import numpy as np
import tensorflow as tf

from keras_ttfs import keras_internals, runtimes

DOMAIN = "qonnx.custom_op.general"
# The operation of TensorFlow that stands for an activation on its way to ONNX, and the begin of its name.
MARK, MARKED = "Bucketize", "keras_ttfs_"
SPIKES = "spikes_of_"


def count_of_thresholds(z: tf.Tensor, thresholds: np.ndarray, number: int) -> tf.Tensor:
    """How many thresholds, the largest first, each potential reaches; an int32 tensor, marked as activation `number`."""
    return tf.raw_ops.Bucketize(input=z, boundaries=thresholds[::-1].tolist(), name=f"{MARKED}{number}")


class Qonnx(runtimes.Onnx):
    """QONNX, run by the executor of the package qonnx. A file takes one sample at a time."""

    packages: tuple[str, ...] = (*runtimes.Onnx.packages, "qonnx.core.onnx_exec")
    samples = 1

    def write(self, module: Any, path: pathlib.Path, quantize: str | None) -> None:
        onnx = runtimes.package("onnx", "QONNX")
        signature = [module.serve.input_signature[0]]
        file, _ = keras_internals.tf2onnx().convert.from_function(module.serve, signature, custom_ops={MARK: DOMAIN})
        graph = file.graph
        for node in [node for node in graph.node if node.op_type == MARK]:
            number = int(re.search(rf"{MARKED}(\d+)", node.name)[1])  # type: ignore[index]
            new, old = _activation(onnx, graph, node, *module.activations[number])
            place = list(graph.node).index(node)
            for added in reversed(new):
                graph.node.insert(place, added)
            for removed in old:
                graph.node.remove(removed)
        if DOMAIN not in {entry.domain for entry in file.opset_import}:
            file.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
        wrapper = _package("core.modelwrapper").ModelWrapper(file)
        wrapper.transform(_package("transformation.infer_shapes").InferShapes()).save(str(path))

    def load(self, path: pathlib.Path) -> runtimes.Run:
        model = _package("core.modelwrapper").ModelWrapper(str(path))
        execute = _package("core.onnx_exec").execute_onnx
        entry, output = model.graph.input[0].name, model.graph.output[0].name
        quantizers = [node for node in model.graph.node if node.name.startswith(SPIKES)]

        def run(x):
            rows = []
            for sample in x:
                context = execute(model, {entry: sample[None]}, return_full_exec_context=True)
                times = {
                    f"spike_time_{node.name.removeprefix(SPIKES)}": _spike_times(node, context) for node in quantizers
                }
                rows.append({"output": context[output], **times})
            return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

        return run


def _package(module: str) -> Any:
    return runtimes.package(f"qonnx.{module}", "QONNX")


def _activation(onnx, graph, node, layer, thresholds, levels):
    """`(nodes in the place of a marked node, nodes that go)`. `levels` are None where spike times are wanted."""
    potential, count = node.input[0], node.output[0]
    takers = [other for other in graph.node if count in other.input]
    if levels is not None and _is_float(thresholds, levels) and [taker.op_type for taker in takers] == ["Gather"]:
        return _float_quant(onnx, graph, layer, potential, takers[0].output[0], levels), [node, takers[0]]
    rising = onnx.numpy_helper.from_array(thresholds[None, ::-1].astype("float32"), f"{layer}_thresholds")
    graph.initializer.append(rising)
    kinds = next(f"UINT{bits}" for bits in (8, 16, 32) if len(thresholds) < 2**bits)
    counted = onnx.helper.make_node(
        "MultiThreshold",
        [potential, rising.name],
        [f"{layer}_count"],
        name=f"{SPIKES}{layer}",
        domain=DOMAIN,
        out_dtype=kinds,
    )
    cast = onnx.helper.make_node("Cast", [f"{layer}_count"], [count], name=f"{layer}_cast", to=onnx.TensorProto.INT32)
    return [counted, cast], [node]


def _is_float(thresholds, levels):
    """Whether levels are powers of 2, each half the one before, at their own thresholds."""
    powers = np.log2(levels.astype("float64"))
    return np.array_equal(thresholds, levels) and np.array_equal(powers, powers[0] - np.arange(len(levels)))


def _float_quant(onnx, graph, layer, potential, output, levels):
    """Relu and FloatQuant: floats without mantissa, from the largest level to the smallest; below that 0."""
    steps = len(levels)
    # One exponent is that of 0.
    exponent_bits = int(np.ceil(np.log2(steps + 1)))
    values = {
        "scale": levels[0],
        "exponent_bits": exponent_bits,
        "mantissa_bits": 0,
        # The smallest exponent is 1 - bias.
        "bias": steps,
        "largest": 1,
    }
    names = [f"{layer}_{name}" for name in values]
    for name, value in zip(names, values.values()):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, "float32"), name))
    relu = onnx.helper.make_node("Relu", [potential], [f"{layer}_positive"], name=f"{layer}_relu")
    quantizer = onnx.helper.make_node(
        "FloatQuant", [f"{layer}_positive", *names], [output], name=f"{SPIKES}{layer}", domain=DOMAIN,
        rounding_mode="FLOOR", has_inf=0, has_nan=0, has_subnormal=0, saturation=1,
    )  # fmt: skip
    return [relu, quantizer]


def _spike_times(node, context):
    """The spike times that a quantizer's output says."""
    found = context[node.output[0]]
    if node.op_type == "MultiThreshold":
        return (context[node.input[1]].shape[1] - found).astype("int32")
    steps, scale = int(context[node.input[4]]), context[node.input[1]]
    with np.errstate(divide="ignore"):
        return np.where(found > 0, np.rint(-np.log2(found / scale)), steps).astype("int32")
