"""The networks that the benchmark times, the names of its files and their readers. No measurement but of tiny networks."""

import types

import keras
import pytest
from absl import app

from experiments import benchmark, benchmark_networks, results, stored
from experiments.files import write_json
from keras_ttfs import TTFSActivation

NETWORKS = [(network, pooling) for network in benchmark_networks.NETWORKS for pooling in benchmark_networks.POOLINGS]


def options(**changes):
    given = {"network": "vgg16", "pooling": None, "dtype_policy": "float32", "width": 0.25, "parts": ["training"]}
    return types.SimpleNamespace(**{**given, **changes})


def test_names_of_result_files():
    name = benchmark.result_name
    assert name("training", options()) == "training_float32_0.25"
    assert name("simulation", options(pooling="spikes")) == "simulation"
    assert name("training", options(pooling="potential")) == "training_vgg16_potential_float32_0.25"
    assert name("training", options(network="fast_vgg")) == "training_fast_vgg_potential_float32_0.25"
    assert name("simulation", options(network="fast_vgg", pooling="spikes")) == "simulation_fast_vgg_spikes"


def test_parts_of_one_network_are_refused_with_another():
    benchmark.check_parts(options(parts=list(benchmark.PARTS)))
    benchmark.check_parts(options(network="fast_vgg", parts=["training", "simulation"]))
    with pytest.raises(app.UsageError, match="Expected parts of training, simulation .* Received: sweep"):
        benchmark.check_parts(options(network="fast_vgg", parts=["training", "sweep"]))


def test_old_files_are_those_of_vgg16(tmp_path):
    found = results.read_benchmarks("training_*")
    assert found and all(result["network"] in benchmark_networks.NETWORKS for result in found)
    old = {"versions": {}, "batch_size": 8, "width": 1.0}
    write_json(tmp_path / "simulation.json", old)
    assert stored.read_benchmark(tmp_path / "simulation.json") == {**old, "network": "vgg16", "pooling": "spikes"}
    write_json(tmp_path / "simulation_new.json", {**old, "network": "fast_vgg", "pooling": "potential"})
    assert stored.read_benchmark(tmp_path / "simulation_new.json")["network"] == "fast_vgg"
    write_json(tmp_path / "simulation_new.json", {**old, "network": 5})
    with pytest.raises(ValueError, match="Expected .*simulation_new.json to hold a text as network"):
        stored.read_benchmark(tmp_path / "simulation_new.json")


@pytest.mark.parametrize(("network", "pooling"), NETWORKS)
def test_both_orders_of_pooling_are_simulated(network, pooling):
    relu, ttfs, spiking = benchmark_networks.simulated(network, pooling, 0.02, 16, images=4)
    names = [layer.name for layer in ttfs.layers]
    first = "pool1"
    block = "conv1_2" if network == "vgg16" else "conv1_1"
    assert (names.index(first) < names.index(f"{block}_activation")) == (pooling == "potential")
    assert (spiking.membranes > spiking.neurons) == (pooling == "potential")
    assert not any(isinstance(layer, TTFSActivation) for layer in relu.layers)


@pytest.mark.slow
@pytest.mark.parametrize("name", [benchmark_networks.RELU, benchmark_networks.TTFS])
def test_a_training_step_of_fast_vgg(name, monkeypatch):
    made = []
    monkeypatch.setattr(keras.Model, "make_train_function", lambda model: made.append(model))
    benchmark_networks.training_step(name, width=0.02, batch_size=4, network="fast_vgg", pooling="spikes")
    (model,) = made
    names = [layer.name for layer in model.layers]
    assert names.index("pool1") > names.index("conv1_1_activation") and "conv0" in names
    windows = {layer.time_window for layer in model.layers if isinstance(layer, TTFSActivation)}
    assert windows == (set() if name == benchmark_networks.RELU else {16})
