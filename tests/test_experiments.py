"""The main program: a whole run, resuming after a kill, refusing, flag errors, data."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from experiments import benchmark_networks, cifar, provenance, report, runs, stored, tables, train
from experiments import config as config_module
from experiments import data as data_module
from experiments.checkpoint import Checkpoint
from experiments.config import Config
from experiments.files import read_csv, read_json, write_json
from experiments.train import LearningRate, StopOnNonFinite
from experiments.workdir import check_workdir, claim_workdir
from keras_ttfs import applications, energy

# They run the commands.
pytestmark = pytest.mark.slow

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FAST = ("--train_images=256", "--width=0.25", "--epochs=4", "--target_epoch=3", "--dropout=0.5", "--bn_momentum=0.8")


def command(workdir, *flags):
    return [sys.executable, "-m", "experiments.cifar", f"--workdir={workdir}", *FAST, *flags]


def run(workdir, *flags):
    return subprocess.run(command(workdir, *flags), cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    done = run(workdir)
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_run_leaves_every_file_and_prints_a_row(finished):
    workdir, output = finished
    assert sorted(os.listdir(workdir)) == [
        "config.json",
        "distributions.json",
        "history.csv",
        "kernels.csv",
        "kernels.png",
        "learning_curves.png",
        "model.keras",
        "result.json",
        "spikes_by_layer.png",
    ]
    result = read_json(workdir / "result.json")
    assert result["epochs"] == 4
    assert result["test_images"] == 360
    assert result["time_steps"] == 7 * 32
    assert result["decision_step"] == 6 * 32
    assert result["spikes_per_neuron"] == pytest.approx(result["spikes"] / result["neurons"])
    hidden = [layer["spikes"] for layer in result["layers"][1:]]
    assert result["spikes"] == pytest.approx(sum(hidden))
    assert tables.results_table([result]) in output
    distributions = read_json(workdir / "distributions.json")
    for ours, layer in zip(distributions["layers"], result["layers"], strict=True):
        assert ours["layer"] == layer["layer"]
        assert sum(ours["counts"]) == distributions["samples"] * layer["neurons"]


def test_saved_model_scores_as_the_result_says(finished):
    workdir, _ = finished
    script = (
        "import sys, keras, numpy as np, keras_ttfs\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "data = np.load(sys.argv[2])\n"
        "print(model.evaluate(data['x'], data['y'], verbose=0, return_dict=True)['accuracy'])\n"
    )
    test = data_module.load("digits").test()
    path = workdir.parent / "test.npz"
    np.savez(path, x=data_module.scale(test.images).numpy(), y=test.labels)
    arguments = [sys.executable, "-c", script, str(workdir / "model.keras"), str(path)]
    printed = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert float(printed.split()[-1]) == pytest.approx(read_json(workdir / "result.json")["accuracy"], abs=1e-6)


def weights(workdir):
    return [np.array(weight) for weight in keras.models.load_model(workdir / "model.keras").variables]


def test_simulation_of_the_finished_run(finished):
    workdir, output = finished
    assert f"python -m experiments.simulate --model={workdir / 'model.keras'}" in output
    arguments = [
        sys.executable,
        "-m",
        "experiments.simulate",
        f"--model={workdir / 'model.keras'}",
        "--check_images=50",
    ]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = workdir / "simulation_event"
    assert sorted(os.listdir(folder)) == [
        "membrane_potentials.png",
        "simulation.json",
        "spike_raster.png",
        "spike_times.png",
        "spikes_per_neuron.png",
    ]
    simulated, trained = read_json(folder / "simulation.json"), read_json(workdir / "result.json")
    assert simulated["equivalence"]["mismatches"] == 0
    assert simulated["accuracy"] == pytest.approx(trained["accuracy"], abs=1e-6)
    for name in ("spikes", "input_spikes", "spikes_per_neuron", "time_steps", "decision_step", "neurons", "membranes"):
        assert simulated[name] == pytest.approx(trained[name], rel=1e-12)
    assert simulated["energy"]["normalized"]["truenorth"][0] == pytest.approx(trained["truenorth_energy"])
    before = (folder / "simulation.json").read_bytes()
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1
    assert "FileExistsError: Expected an output_dir without a simulation" in again.stderr
    assert (folder / "simulation.json").read_bytes() == before


def test_a_run_that_pools_potentials(tmp_path):
    config = Config(width=0.125, epochs=1, train_images=256, pooling="potential", gamma_0=0.5, bn_momentum=0.8)
    result = train.train(config, str(tmp_path), verbose=0)
    assert result["membranes"] - result["neurons"] == 3 / 4 * (4 * 8 * 8 + 8 * 4 * 4)
    assert stored.read_result(tmp_path / "result.json")["config"]["pooling"] == "potential"
    arguments = [f"--model={tmp_path / 'model.keras'}", "--images=20", "--check_images=20"]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.simulate", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    simulation = read_json(tmp_path / "simulation_event" / "simulation.json")
    assert [simulation[name] for name in ("neurons", "membranes")] == [result["neurons"], result["membranes"]]
    # Results of earlier versions do not tell the membranes.
    earlier = {name: value for name, value in result.items() if name != "membranes"}
    for name, values in (("earlier", earlier), ("damaged", {**result, "membranes": "many"})):
        write_json(tmp_path / f"{name}.json", values, sealed=True)
    assert stored.read_result(tmp_path / "earlier.json")["neurons"] == result["neurons"]
    with pytest.raises(ValueError, match="membranes"):
        stored.read_result(tmp_path / "damaged.json")


def test_benchmark_of_training_steps(tmp_path):
    flags = ["--runs=1", "--rounds=2", "--width=0.05", "--batch_size=8", f"--output={tmp_path}"]
    arguments = [sys.executable, "-m", "experiments.benchmark", *flags]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "training_float32_0.05.json"
    result = read_json(path)
    seconds = result["seconds_per_step"][0]
    assert [len(seconds[name]) for name in ("Keras ReLU", "TTFS")] == [2, 2]
    ratio = np.median(seconds["Keras ReLU"]) / np.median(seconds["TTFS"])
    assert result["throughput_to_relu"] == [pytest.approx(ratio, rel=1e-12)]
    assert (tmp_path / "training.png").exists()
    before = path.read_bytes()
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1
    assert "FileExistsError: Expected new result files" in again.stderr
    assert path.read_bytes() == before


def test_the_twin_of_the_benchmark_is_plain_keras():
    from keras_ttfs.topology import layers_of

    model = applications.vgg6(activation="relu")
    twin = benchmark_networks.plain_keras(model)
    assert not any(type(layer).__module__.startswith("keras_ttfs") for layer in layers_of(twin, keras.layers.Layer))
    assert [weight.shape for weight in twin.weights] == [weight.shape for weight in model.weights]


def test_conversion_of_a_relu_run(tmp_path):
    assert run(tmp_path / "relu", "--activation=relu", "--epochs=1").returncode == 0
    arguments = [sys.executable, "-m", "experiments.convert", f"--model={tmp_path / 'relu' / 'model.keras'}"]
    options = ["--time_windows=8", "--images=60", "--calibration_images=50", "--report"]
    done = subprocess.run([*arguments, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = read_json(tmp_path / "relu" / "conversion.json")
    assert [row["calibrated"] for row in result["rows"]] == [False, True]
    assert 0 <= result["rows"][1]["accuracy"] <= 1
    assert result["test_images"] == 60
    assert "pruned" in done.stdout


def test_killed_run_resumes_to_the_same_weights(finished, tmp_path):
    workdir = tmp_path / "killed"
    for epochs in (1, 2):
        process = subprocess.Popen(command(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = workdir / "checkpoint" / "state.json"
        while not (state.exists() and read_json(state)["epochs"] >= epochs) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (workdir / "result.json").exists()
    done = run(workdir)
    assert done.returncode == 0, done.stderr
    assert "Epoch 1/4" not in done.stdout
    for ours, theirs in zip(weights(workdir), weights(finished[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read_json(workdir / "result.json")["accuracy"] == read_json(finished[0] / "result.json")["accuracy"]


def test_keep_best_saves_the_best_epoch_and_not_the_last(tmp_path, monkeypatch):
    # Validation accuracy as it might be: which epoch of a real run is the best depends on the order of summation.
    accuracies = [0.2, 0.5, 0.4, 0.5, 0.3]
    after_epoch = []

    class Recording(Checkpoint):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, {**logs, "val_accuracy": accuracies[epoch]})
            after_epoch.append((self.model.get_weights(), logs["val_accuracy"]))

    monkeypatch.setattr(train, "Checkpoint", Recording)
    saved = {}
    for keep in ("best", "last"):
        after_epoch.clear()
        config = Config(width=0.25, epochs=5, train_images=512, keep=keep, gamma_0=0.3, bn_momentum=0.8)
        result = train.train(config, str(tmp_path / keep), verbose=0)
        assert [row["val_accuracy"] for row in read_csv(tmp_path / keep / "history.csv")] == accuracies
        # The first of two that are alike.
        kept = 1 if keep == "best" else 4
        assert result["kept_epoch"] == kept + 1 and result["val_accuracy"] == accuracies[kept]
        saved[keep] = keras.models.load_model(tmp_path / keep / "model.keras")
        weights_then, accuracy_then = after_epoch[kept]
        for ours, theirs in zip(saved[keep].get_weights(), weights_then, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        validation = data_module.evaluation_batches(data_module.load("digits").validation, 500)
        logs = saved[keep].evaluate(validation, return_dict=True, verbose=0)
        assert logs["accuracy"] == pytest.approx(accuracy_then, abs=1e-6)


def test_train_leaves_the_process_as_it_was(tmp_path):
    script = (
        "import sys, keras, tensorflow as tf\n"
        "from experiments.config import Config\n"
        "from experiments.train import make_deterministic, train\n"
        "keras.config.set_dtype_policy('float64')\n"
        "small = {'width': 0.1, 'train_images': 64, 'dtype_policy': 'mixed_bfloat16'}\n"
        "train(Config(**small), sys.argv[1] + '/finished', verbose=0)\n"
        "assert keras.config.dtype_policy().name == 'float64'\n"
        "for wrong, arguments in (({}, {'expected_data': 'other'}), ({'learning_rate': 1e30}, {})):\n"
        "    try:\n"
        "        train(Config(**small, **wrong), sys.argv[1] + '/failed', verbose=0, **arguments)\n"
        "        raise AssertionError\n"
        "    except (ValueError, FloatingPointError):\n"
        "        assert keras.config.dtype_policy().name == 'float64'\n"
        "tf.random.Generator.from_non_deterministic_state()\n"
        "make_deterministic()\n"
        "try:\n"
        "    tf.random.Generator.from_non_deterministic_state()\n"
        "except RuntimeError as error:\n"
        "    print(error)\n"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be called when determinism is enabled" in done.stdout


def test_a_command_makes_its_process_deterministic(tmp_path, monkeypatch):
    from experiments import command as commands

    made = []
    monkeypatch.setattr(train, "make_deterministic", lambda: made.append("deterministic"))
    monkeypatch.setattr(train, "train", lambda config, workdir, **options: made.append(config) or result)
    monkeypatch.setattr(commands, "config_from_flags", Config)
    result = read_json(os.path.join(ROOT, "experiments", "results", "digits", "digits.json"))
    options = {"workdir": str(tmp_path), "data_dir": None, "download": False, "overwrite": False, "tensorboard": False}
    cifar.main(types.SimpleNamespace(**options))
    runs._train(Config(seed=1), str(tmp_path), None, False, None, {})
    assert made == ["deterministic", Config(), "deterministic", Config(seed=1)]


def test_a_network_receives_the_fields_that_it_takes():
    def network(input_shape, classes, *, width, seed=None):
        pass

    config = Config(model="spike_time_vgg6", width=0.5, seed=3)
    assert train.network_arguments(config, network) == {"width": 0.5, "seed": 3}
    wrong = dataclasses.replace(config, dropout=0.5)
    message = r"Expected dropout=0.0 \(its default\): spike_time_vgg6 has no dropout. Received: dropout=0.5"
    with pytest.raises(ValueError, match=message):
        train.network_arguments(wrong, network)
    data = data_module.load("digits")
    with pytest.raises(ValueError, match=message):
        train.build(wrong, data)
    # What is no argument of a network is anyone's.
    train.network_arguments(dataclasses.replace(config, epochs=7, label_smoothing=0.1, target_epoch=3), network)


@pytest.mark.parametrize("model", config_module.choices("model"))
def test_every_network_is_built_with_its_fields(model):
    """A field with `network=True` is an argument of a network, and its value arrives there."""
    shape = (32, 32, 3) if model == "vgg16" else (8, 8, 1)
    split = data_module.Split(np.zeros((1, *shape), "uint8"), np.zeros(1, "int32"))
    data = data_module.Data(split, split, lambda: split, classes=10, description="", flip=False, padding=0)
    kernels = {"time_window": 16, "tau_0": 4.0, "z_max_0": 2.0, "gamma_0": 0.5, "bn_momentum": 0.8, "l2": 1e-3}
    kernels |= {"lambda_tr": 0.25, "lambda_tb": 0.5, "rounding": "nearest", "kernel_gradient": "full", "dropout": 0.5}
    special = {} if model == "spike_time_vgg6" else kernels
    if special:
        special |= {"pooling": "potential", "kernel_initializer": "he"}
    built = train.build(Config(model=model, width=0.1, seed=2, **special), data)
    first = built.get_layer("conv0" if model == "fast_vgg" else "conv1_1")
    channels = {"vgg16": 64, "fast_vgg": applications.FAST_VGG_FIRST}.get(model, 32)
    assert built.name == model and first.weights[0].shape[-1] == round(0.1 * channels)
    if special:
        encoder, norm = built.encoders[-1], built.batch_norm_pairs()[-1][0]
        assert (encoder.time_window, encoder.rounding, encoder.kernel_gradient) == (16, "nearest", "full")
        assert float(encoder.tau) == 4.0 and float(encoder.z_max) == pytest.approx(2.0)
        assert norm.momentum == 0.8 and np.all(np.array(norm.gamma) == 0.5)
        assert (built.lambda_tr, built.lambda_tb) == (0.25, 0.5)
        assert float(first.kernel_regularizer.l2) == pytest.approx(1e-3)
        assert isinstance(first.kernel_initializer, keras.initializers.HeNormal)
        assert any("dropout" in layer.name for layer in built.layers)
        names = [type(layer).__name__ for layer in built.layers]
        assert names[names.index("MaxPooling2D") - 1] == "TKBatchNorm"


def test_every_field_of_config_has_its_flag_and_help():
    from absl import flags

    from experiments import command as commands

    values = flags.FlagValues()
    commands.define_config_flags(values)
    values(["test"])
    assert commands.config_from_flags(values) == Config()
    for name, field in config_module.FIELDS.items():
        assert values[name].help.endswith(field.metadata["help"]) and len(field.metadata["help"]) > 10, name
        if field.metadata["choices"]:
            wanted = [*field.metadata["choices"], *field.metadata["flag_choices"]]
            assert wanted == values[name].parser.enum_values


def test_finished_and_different_runs_are_refused(finished):
    workdir, _ = finished
    config = Config(**read_json(workdir / "config.json"))
    before = (workdir / "result.json").read_bytes()
    with pytest.raises(FileExistsError, match="Expected a workdir without a finished run. Received: "):
        check_workdir(config, str(workdir))
    different = Config(**{**config.as_dict(), "tau_0": 5.0})
    with pytest.raises(FileExistsError, match="tau_0: 10.0 there, 5.0 asked"):
        check_workdir(different, str(workdir))
    assert (workdir / "result.json").read_bytes() == before


def test_foreign_directory_is_refused_even_with_overwrite(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="which holds other files"):
        check_workdir(Config(), str(tmp_path), overwrite=True)


def test_overwrite_replaces_other_and_finished_runs_only(tmp_path):
    workdir = tmp_path / "run"
    claim_workdir(Config(seed=1), str(workdir))
    (workdir / "checkpoint").mkdir()
    # The command that was killed, once more.
    claim_workdir(Config(seed=1), str(workdir), overwrite=True)
    assert (workdir / "checkpoint").exists()
    claim_workdir(Config(seed=2), str(workdir), overwrite=True)
    assert read_json(workdir / "config.json")["seed"] == 2 and not (workdir / "checkpoint").exists()
    (workdir / "result.json").write_text("{}")
    claim_workdir(Config(seed=2), str(workdir), overwrite=True)
    assert not (workdir / "result.json").exists()


def test_nothing_is_deleted_before_the_new_run_can_begin(tmp_path):
    workdir = tmp_path / "run"
    claim_workdir(Config(seed=1), str(workdir))
    (workdir / "result.json").write_text("{}")
    done = run(workdir, "--overwrite", "--batch_size=2000")
    assert done.returncode != 0 and "Expected batch_size <= 256 training images" in done.stderr, done.stderr
    assert (workdir / "result.json").exists()


def test_a_run_goes_on_with_its_own_data_only(tmp_path):
    data = dataclasses.replace(data_module.load("digits"), description="digits, rescanned")
    with pytest.raises(ValueError, match="Expected the data of the runs beside this one: cifar10/3.0.2. Received: "):
        train.train(Config(), str(tmp_path / "new"), expected_data="cifar10/3.0.2")
    assert not (tmp_path / "new").exists()
    claim_workdir(Config(), str(tmp_path / "run"))
    begun = Checkpoint(str(tmp_path / "run"), Config(), data)
    write_json(begun.path, begun.state)
    resumed = Checkpoint(str(tmp_path / "run"), Config(), data_module.load("digits"))
    with pytest.raises(ValueError, match="Expected the data of the interrupted run: digits, rescanned. Received: "):
        resumed.restore(None)
    # Norms and random numbers are those of a replica, so another number of workers would go on to another result.
    for before, now in ((1, 2), (2, 1)):
        write_json(begun.path, {**begun.state, "replicas": before})
        with pytest.raises(
            ValueError, match=f"as many replicas as the interrupted run has: {before}. Received: {now}. "
        ):
            Checkpoint(str(tmp_path / "run"), Config(), data, now).restore(None)
    claim_workdir(Config(), str(tmp_path / "run"), True, "digits, rescanned")
    assert os.path.exists(begun.path)
    claim_workdir(Config(), str(tmp_path / "run"), True, resumed.data.description)
    assert not os.path.exists(begun.path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("time_window", 0, "Expected time_window > 0. Received: time_window=0"),
        ("l2", -1.0, "Expected l2 >= 0. Received: l2=-1.0"),
        ("dropout", 1.5, r"Expected dropout in \[0, 1\]. Received: dropout=1.5"),
        ("bn_momentum", 1.0, "Expected bn_momentum < 1. Received: bn_momentum=1"),
        ("model", "resnet", "Expected model to be one of .* Received: model='resnet'"),
    ],
)
def test_config_errors(name, value, message):
    with pytest.raises(ValueError, match=message):
        Config(**{name: value})


def test_flag_errors(tmp_path):
    for flag, message in (
        ("--time_window=0", "Expected time_window > 0. Received: time_window=0"),
        ("--model=resnet", "value should be one of <vgg16|vgg6|fast_vgg|spike_time_vgg6>"),
        ("--unknown=1", "unknown"),
    ):
        done = run(tmp_path / "run", flag)
        assert done.returncode != 0
        assert message in done.stderr + done.stdout
    assert not (tmp_path / "run").exists()


def test_missing_cifar_is_explained(tmp_path):
    done = run(tmp_path / "run", "--dataset=cifar10", "--model=vgg16", f"--data_dir={tmp_path}/none")
    assert done.returncode != 0
    assert "or pass --download to a command that trains" in done.stderr
    assert f"t.builder('cifar10', data_dir='{tmp_path}/none').download_and_prepare()" in done.stderr
    assert "--flagfile=experiments/flagfiles/digits.flags" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_download_without_network_ends_at_once(tmp_path, monkeypatch):
    asked = []

    def head(address, timeout):
        asked.append((address, timeout))
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", head)
    with pytest.raises(
        ConnectionError, match="Expected to download cifar10 to .* Received: ConnectionError: no network"
    ):
        data_module.load("cifar10", str(tmp_path), download=True)
    (address, timeout), *more = asked
    assert address.startswith("https://") and 0 < timeout <= 10 and not more


@pytest.mark.slow
def test_cifar100_trains_on_mock_data(tmp_path):
    """Two epochs; its energies are relative to the paper's TSC row of CIFAR-100."""
    network = {"model": "fast_vgg", "width": 0.1, "pooling": "potential", "input_coding": "analog", "gamma_0": 0.3}
    config = Config(dataset="cifar100", epochs=2, batch_size=50, **network)
    with tfds.testing.mock_data(num_examples=5100):
        result = train.train(config, str(tmp_path / "run"), data_dir=str(tmp_path), verbose=0)
    assert result["epochs"] == 2 and result["training_images"] == 100 and result["test_images"] == 5100
    assert result["data"].startswith("cifar100/")
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert model.output_shape == (None, 100)
    for platform in energy.COEFFICIENTS:
        wanted = energy.normalized_energy(result["spikes"], result["time_steps"], platform, (0.170e6, 512))
        assert result[f"{platform}_energy"] == pytest.approx(wanted, rel=1e-12)


def test_non_finite_loss_stops():
    stop = StopOnNonFinite()
    stop.on_epoch_begin(2)
    stop.on_train_batch_end(0, {"loss": 1.0})
    with pytest.raises(FloatingPointError, match="Expected a finite loss. Received: loss=nan in epoch 3, step 20"):
        stop.on_train_batch_end(20, {"loss": float("nan")})


def test_learning_rate_schedules():
    constant, triangular, cosine = (
        LearningRate(Config(schedule=schedule, epochs=10, learning_rate=0.5, warmup=0.2), batches=10)
        for schedule in ("constant", "triangular", "cosine")
    )
    assert constant.rate(0) == constant.rate(99) == 0.5
    for schedule in (triangular, cosine):
        rates = [schedule.rate(step) for step in range(100)]
        assert max(rates) == rates[20] == 0.5
        assert np.all(np.diff(rates[:21]) > 0)
        assert np.all(np.diff(rates[20:]) < 0)
        assert 0 < rates[-1] < 0.01
    assert triangular.rate(60) == pytest.approx(0.25)
    assert cosine.rate(60) == pytest.approx(0.25)


@pytest.mark.parametrize("name", report.DOCUMENTS)
def test_results_in_documents_match_the_committed_files(name):
    text = (report.ROOT / name).read_text()
    assert report.updated(text, report.DOCUMENTS[name]()) == text


def test_work_that_goes_on_tells_both_revisions():
    def of(revision):
        return {"git_revision": revision, "device": "one"}

    assert provenance.continued(of("a"), of("a")) == of("a")
    assert provenance.continued(of("a"), of("b-dirty")) == of("a then b-dirty")
    assert provenance.continued(of("a then b"), of("b")) == of("a then b")
    # Which the report refuses.
    assert provenance.continued(of(None), of("a")) == provenance.continued(of("a"), of(None)) == of(None)
