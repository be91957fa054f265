"""The table of bad calls behind `test_bad_inputs`: `rows()` gives one expression for each, made from kinds of values.

A line of TABLE is a call with a gap, and `parameter: kind` for what goes into it; `: kind` fills the gap with the value
alone. Single calls stand in `data/bad_calls.txt`, one a line. `namespace()` holds the names that the calls use.
"""

import pathlib

import keras
import numpy as np
import tensorflow as tf

import keras_ttfs
from keras_ttfs import applications, energy, metrics, regularizers, spike_time_layers, temporal_kernel
from keras_ttfs.distillation import Teaching, distillation
from keras_ttfs.initializers import Dirac
from keras_ttfs.snn import CodedNetwork, SpikingNetwork, check_equivalence, codings, in_dtype, plots

KINDS = {
    "steps": ["0", "-1", "2.5", "nan", "inf", "'a'", "None", "True", "2**31", "[8]", "1j"],
    "steps or None": ["0", "-1", "2.5", "nan", "'a'", "True", "[8]"],
    "count": ["0", "-1", "2.5", "nan", "'a'", "None", "True", "[8]"],
    "positive": ["0.0", "-1.0", "nan", "inf", "'a'", "None", "True", "[1.0]", "1j", "10**400"],
    "positive or None": ["0.0", "-1.0", "nan", "inf", "'a'", "True", "[1.0]"],
    "finite": ["nan", "inf", "-inf", "'a'", "None", "True", "[1.0]", "1j"],
    "not negative": ["-1", "nan", "inf", "'a'", "None", "True", "[1.0]"],
    "dtype": ["'x'", "5", "'int32'", "['float32']"],
    "share": ["-0.1", "1.1", "nan", "'a'", "None", "True", "[0.5]"],
    "choice": ["'x'", "None", "1", "['ceil']", "np.array(['ceil', 'ceil'])"],
    "epoch": ["-1", "1.5", "nan", "inf", "'x'", "None", "True"],
    "axis": ["1.5", "nan", "'x'", "None", "True", "['ceil']"],
    "data": ["'a'", "{'a': z}", "[[1.0], [1.0, 2.0]]", "z.astype(complex)", "X[:0]", "X * nan", "5.0", "X[0]"],
    "seed": ["-1", "1.5", "nan", "'x'", "2**40", "True"],
    "scalar": ["np.array([1.0, 2.0])", "np.array('a')", "1j", "tf.constant([3.0])"],
    "tensor": ["None", "'a'", "{'a': z}", "[[1.0], [1.0, 2.0]]", "z.astype(complex)", "z.astype(object)", "RAGGED"],
    "shape": ["np.ones(6, 'float32')", "np.float32(1)", "1.0", "np.zeros((2, 0), 'float32')", "[z]"],
    "other rank": ["np.ones((2, 3, 4), 'float32')"],
    "any": ["1"],
    "not a model": ["5", "'model.keras'", "z", "keras.layers.Dense(3)"],
    "kernel": ["(3, 3)", "(2, 3, 4, 4)", "(3, 4, 4, 4)", "5", "None", "'a'"],
}
KERNEL = "time_window: steps, tau_0: positive, t_d_0: finite, z_max_0: positive or None, rounding: choice"
NETWORK = "classes: count, width: positive, seed: seed, name: any, seeed: any"
VGG = KERNEL + ", kernel_gradient: choice, input_coding: choice, activation: choice, dropout: share, l2: not negative,"
VGG += " pooling: choice, kernel_initializer: choice, "
VGG += "gamma_0: finite, bn_momentum: share, lambda_tr: not negative, lambda_tb: not negative, gama_0: any, " + NETWORK
INPUTS = ": tensor, : shape"
TABLE = [
    ("TTFSEncode({})", KERNEL + ", kernel_gradient: choice, tua_0: any, rounding_: any"),
    ("TTFSActivation({})", KERNEL + ", kernel_gradient: choice, relaxation: share, seed: seed, tua_0: any, sead: any"),
    ("TTFSEncode()({})", INPUTS),
    ("TTFSActivation()({})", INPUTS),
    ("TTFSActivation().set_relaxation({})", ": share"),
    ("act().set_relaxation({})", ": share"),
    ("TemporalKernelDecode({})", "time_window: steps, tme_window: any"),
    ("TemporalKernelDecode()({})", INPUTS),
    ("TemporalKernelDecode()(({}, np.float32(9), np.float32(0)))", INPUTS),
    ("TemporalKernelDecode()((z, {}, np.float32(0)))", ": tensor, : scalar"),
    ("TemporalKernelDecode()((z, np.float32(9), {}))", ": tensor, : scalar"),
    ("TKBatchNorm({})", "momentum: share, epsilon: not negative, axis: axis, momentun: any"),
    ("TKBatchNorm()({})", INPUTS),
    ("bn().pruning_probability({})", ": positive, : scalar"),
    ("st.SpikeTimeEncode({})", "scale: positive, first: choice, scael: any"),
    ("st.SpikeTimeEncode()({})", INPUTS),
    ("st.SpikeTimeDense({})", "units: count"),
    (
        "st.SpikeTimeDense(3, {})",
        "initial_sum: not negative, cost: not negative, seed: seed, inital_sum: any, unit: any",
    ),
    ("st.SpikeTimeDense(3)({})", INPUTS + ", : other rank"),
    ("st.SpikeTimeOutput(3, {})", "cost: not negative, seed: seed, csot: any"),
    ("st.SpikeTimeOutput(3)({})", INPUTS + ", : other rank"),
    ("st.SpikeTimeConv2D({})", "filters: count"),
    ("st.SpikeTimeConv2D(3, {})", "kernel_size: count, strides: count, cost: not negative, seed: seed, kernel: any"),
    ("st.SpikeTimeConv2D(3)({})", INPUTS + ", : other rank"),
    ("st.SpikeTimePooling2D({})", "pool_sise: any"),
    ("st.SpikeTimePooling2D(2)({})", INPUTS + ", : other rank"),
    ("st.first_crossing({}, [[1.0]])", ": tensor, : other rank"),
    ("st.first_crossing([[1.0]], {})", ": tensor, : other rank"),
    ("st.spike_logits({})", ": tensor"),
    ("st.weight_sum_cost({})", ": tensor, : shape"),
    *((f"tk.{name}({{}}, 0.0, 32)", ": positive, : scalar") for name in ("levels", "thresholds", "z_min")),
    *((f"tk.{name}(10.0, {{}}, 32)", ": finite, : scalar") for name in ("levels", "thresholds", "z_min")),
    *((f"tk.{name}(10.0, 0.0, {{}})", ": steps") for name in ("levels", "thresholds", "z_min")),
    ("tk.levels(10.0, 0.0, 32, {})", "shift: finite, dtype: choice, shft: any"),
    ("tk.thresholds(10.0, 0.0, 32, {})", "rounding: choice, dtype: choice"),
    *((f"tk.{name}({{}}, 0.0)", ": positive, : scalar") for name in ("z_max", "maximum_precision_error")),
    *((f"tk.{name}(10.0, {{}})", ": finite, : scalar") for name in ("z_max", "maximum_precision_error")),
    *(
        (f"tk.{name}({place})", kinds)
        for name in ("encode", "decode", "quantize", "fire", "maximum_error", "minimum_error", "precision_error")
        for place, kinds in (
            ("{}, 10.0, 0.0, 32", ": tensor"),
            ("z, {}, 0.0, 32", ": positive, : scalar"),
            ("z, 10.0, {}, 32", ": finite, : scalar"),
            ("z, 10.0, 0.0, {}", ": count"),
        )
    ),
    ("tk.encode(z, 10.0, 0.0, 32, {})", "rounding: choice, epsilon: not negative, epsilom: any"),
    ("tk.quantize(z, 10.0, 0.0, 32, {})", "rounding: choice, kernel_gradient: choice, relaxed: choice, epsilon: share"),
    ("tk.fire(z, 10.0, 0.0, 32, {})", "rounding: choice"),
    ("tk.precision_error(z, 10.0, 0.0, 32, {})", "rounding: choice"),
    ("MeanSpikes({})", "nmae: any"),
    ("MeanSpikes().update_state({})", ": tensor"),
    ("spikes_per_neuron({}, 5)", ": not negative"),
    ("spikes_per_neuron(1.0, {})", ": positive"),
    ("spike_rate({}, 5, 1)", ": not negative"),
    ("spike_rate(1.0, {}, 1)", ": positive"),
    ("spike_rate(1.0, 5, {})", ": positive"),
    ("RelaxationSchedule({})", "target_epoch: count, target_epochs: any"),
    ("RelaxationSchedule(3).probability({})", ": epoch"),
    ("FreezeTemporalKernels({})", ": epoch, epochs: epoch, epoch: any"),
    ("TTFS.freeze_temporal_kernels({})", ": choice"),
    ("TemporalKernelHistory({})", "dta: any"),
    ("TemporalKernelHistory(data={})", ": data"),
    ("codings.BurstCoding({})", "threshold: positive, factor: finite, facter: any"),
    ("codings.PhaseCoding({})", "period: steps, perriod: any"),
    ("codings.TemporalSwitchCoding({})", "time_window: steps, window: any"),
    ("codings.RateCoding({})", "period: any"),
    ("codings.Coding({})", "period: any"),
    ("ap.vgg6({})", VGG),
    ("ap.vgg16({})", "time_window: steps, tau_0: positive, l2: not negative, tua_0: any, " + NETWORK),
    (
        "ap.fast_vgg({})",
        "time_window: steps, pooling: choice, kernel_initializer: choice, weights: any, tua_0: any, " + NETWORK,
    ),
    ("ap.spike_time_vgg6({})", NETWORK + ", tau_0: any"),
    ("ap.vgg6({})", ": tensor"),
    ("ap.spike_time_vgg6({})", ": tensor"),
    ("TTFSModel(IN, OUT, {})", "lambda_tr: not negative, lambda_tb: not negative, lamda_tb: any, nmae: any"),
    ("TTFSModel(IN, OUT, {})", "lambda_kd: not negative, temperature: positive, teacher: not a model, techer: any"),
    ("TTFS.learn_from(RELU, {})", "lambda_kd: not negative, temperature: positive, lamda_kd: any"),
    ("TTFS.learn_from({})", ": not a model"),
    ("Teaching({}, 1.0, 1.0)", ": not a model"),
    ("Teaching(RELU, {}, 1.0)", ": not negative"),
    ("Teaching(RELU, 1.0, {})", ": positive"),
    ("distillation({}, z)", ": tensor, : other rank"),
    ("distillation(z, {})", ": tensor, : other rank"),
    ("distillation(z, z, {})", ": positive"),
    ("TTFSModel({})", "lamda_tb: any"),
    ("convert(RELU, {})", "time_window: steps, tau_0: positive or None, time_windows: any, polling: any"),
    ("NET.membranes_of({}, 0)", ": any, : tensor"),
    ("NET.membranes_of('hid', {})", ": count"),
    ("SpikeBudget(1, X, {})", "every: count, ramp: share, evry: any"),
    ("SpikeBudget({}, X)", ": positive"),
    ("SpikeBudget(1, {})", ": data"),
    ("convert_t2fsnn(RELU, X, {})", "time_window: count, batch_size: count, batchsize: any"),
    ("quantization_report(TTFS, X, {})", "batch_size: count, batchsize: any"),
    ("SpikingNetwork.from_model(TTFS, {})", "early_firing: not negative, early: any"),
    ("NET.run(X, {})", "mode: choice, batch_size: count, dtype: choice, modes: any"),
    ("check_equivalence(TTFS, X, {})", "batch_size: count, dtype: choice, mode: any"),
    ("export(TTFS, '/nowhere/m.onnx', {})", "format: choice, tolerance: share, overwrite: choice, format_: any"),
    ("export(TTFS, '/nowhere/m.tflite', 'litert', {})", "quantize: choice, quantise: any"),
    ("export({}, '/nowhere/m.onnx')", ": not a model"),
    ("export(TTFS, {})", ": choice"),
    ("check_export(TTFS, '.', {})", "format: choice, tolerance: share, formt: any, quantize: any"),
    ("check_export({}, '.')", ": not a model"),
    ("check_export(TTFS, {})", ": choice"),
    *(
        (f"noise.{name}({{}})", kind)
        for name, kind in (
            ("Jitter", ": not negative, sdt: any"),
            ("DroppedSpikes", ": share, sahre: any"),
            ("SpuriousSpikes", ": share"),
            ("DeadNeurons", ": share"),
            ("ThresholdMismatch", ": not negative"),
            ("WeightMismatch", ": not negative"),
            ("WeightBits", ": count, bit: any"),
        )
    ),
    ("TTFSModel(IN, OUT, noise={})", ": choice"),
    ("TTFS.harden({})", ": choice"),
    ("NET.run(X, noise={})", ": choice"),
    ("NET.run(X, seed={})", ": epoch"),
    ("CODED.run(X, {})", "time_steps: steps or None, batch_size: count, steps: any"),
    ("CodedNetwork.from_model(RELU, codings.RateCoding(), X, {})", "batch_size: count, scale: any"),
    ("energy.normalized_energy(1.0, 1, {})", "platform: choice, plattform: any"),
    ("energy.latency_share({}, 1)", ": not negative"),
    ("energy.report(NET, RES, {})", "referense: any"),
    ("rg.pruning_probability({}, [0.0], 0.1)", ": tensor"),
    ("rg.firing_probability({}, [0.0], 0.1)", ": tensor"),
    ("initializers.whitening_filters({}, (3, 3, 1, 4))", ": data"),
    ("initializers.whitening_filters(np.ones((2, 4, 4, 1)), {})", ": tensor"),
    ("initializers.whitening_filters(np.ones((2, 4, 4, 1)), (3, 3, 1, 4), {})", ": not negative"),
    ("rg.temporal_kernel_penalty({}, 0.0, 1.0, 0.0)", ": tensor"),
    ("plots.membrane_potentials(RES, {})", ": count"),
    ("plots.spikes_per_neuron({})", ": count"),
    ("in_dtype(TTFS, {})", ": dtype"),
    ("Dirac({})", "seeed: any"),
    ("Dirac()({})", ": kernel"),
]


def rows():
    """Every bad call of the table once, as an expression."""
    calls = []
    for call, gaps in TABLE:
        for gap in gaps.replace(",", ", ").split(", "):
            name, kind = gap.strip().split(": ") if not gap.strip().startswith(":") else ("", gap.strip()[2:])
            calls += [call.format(f"{name}={value}" if name else value) for value in KINDS[kind]]
    calls += (pathlib.Path(__file__).parent / "data" / "bad_calls.txt").read_text().splitlines()
    return list(dict.fromkeys(calls))


def namespace():
    """What the calls use: networks, data and the library's names."""
    z = np.array([[1, 0.5, 0.2, 0.01, 0, -1]], "float32")
    x = np.random.default_rng(0).uniform(size=(4, 6)).astype("float32")
    labels = np.array([0, 1, 2, 0])

    def ttfs(units=5):
        inputs = keras.Input((6,))
        hidden = keras_ttfs.TKBatchNorm()(keras.layers.Dense(units, name="hid")(keras_ttfs.TTFSActivation()(inputs)))
        model = keras_ttfs.TTFSModel(inputs, keras.layers.Dense(3)(keras_ttfs.TTFSActivation(name="act")(hidden)))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    def fit(model, x=x, **options):
        return list(model.fit(x, labels, verbose=0, **options).history.values())

    def drive(layer, tau):
        layer(z)
        layer.tau.assign(tau)
        return layer(z)

    def called(layer):
        layer(z)
        return layer

    relu = keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, "relu"), keras.layers.Dense(3)])
    model, layer = ttfs(), keras.Input((6,))
    network = SpikingNetwork.from_model(model)
    own = {name: getattr(keras_ttfs, name) for name in keras_ttfs.__all__}
    modules = {"tk": temporal_kernel, "st": spike_time_layers, "rg": regularizers, "mt": metrics, "ap": applications}
    others = {"energy": energy, "codings": codings, "plots": plots, "CodedNetwork": CodedNetwork, "in_dtype": in_dtype}
    others |= {"Dirac": Dirac, "distillation": distillation, "Teaching": Teaching}
    simulators = {"SpikingNetwork": SpikingNetwork, "check_equivalence": check_equivalence}
    return {
        **(own | modules | others | simulators),
        **{"np": np, "tf": tf, "keras": keras, "nan": np.nan, "inf": np.inf, "z": z, "X": x, "Y": labels},
        **{"RELU": relu, "TTFS": model, "NET": network, "RES": network.run(x, verbose=0), "ttfs": ttfs},
        "OTHER": SpikingNetwork.from_model(ttfs(4)),
        "CODED": CodedNetwork.from_model(relu, codings.RateCoding(), x),
        "RAGGED": tf.ragged.constant([[1.0], [1.0, 2.0]]),
        "act": lambda: called(keras_ttfs.TTFSActivation()),
        "bn": lambda channels=6: called(keras_ttfs.TKBatchNorm()),
        **{"fit": fit, "drive": drive, "IN": layer, "OUT": keras.layers.Dense(2)(layer)},
    }
