"""Table 2: every coding on one network, in one command that may be killed."""

import dataclasses
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from experiments import data, paper, table2, table2_models, table2_text
from experiments.config import Config
from experiments.files import read_json
from experiments.sums import Sums
from experiments.train import train
from tests.table_2 import CIFAR10, CIFAR100, half_unit

# They run the commands.
pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A ReLU twin, a TTFS model and a model of spike times, of digits."""
    folder = tmp_path_factory.mktemp("models")
    common = {"width": 0.25, "learning_rate": 4e-3, "gamma_0": 0.3, "bn_momentum": 0.9, "epochs": 6}
    paths = []
    for activation in ("relu", "ttfs"):
        workdir = str(folder / activation)
        train(Config(activation=activation, row=f"our {activation}", **common), workdir, verbose=0)
        paths.append(f"{workdir}/model.keras")
    workdir = str(folder / "spike_time")
    train(Config(model="spike_time_vgg6", row="our spike times", width=0.25), workdir, verbose=0)
    return [*paths, f"{workdir}/model.keras"]


def command(models, workdir, *more):
    paths = (f"--{flag}={path}" for flag, path in zip(("model", "ttfs", "spike_time"), models))
    program = [sys.executable, "-m", "experiments.table2", *paths, f"--workdir={workdir}"]
    return [
        *program,
        "--dataset=digits",
        "--test_images=60",
        "--slow_images=40",
        "--batch_size=20",
        "--calibration_images=100",
        *more,
    ]


def run(arguments):
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)


def test_killed_and_restarted_it_ends_with_every_row(models, tmp_path):
    workdir = tmp_path / "table2"
    process = subprocess.Popen(command(models, workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    # In the middle of a row that takes long; those that do not are finished by then.
    while not (workdir / "phase.sums").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = (workdir / "rate.json").stat().st_mtime_ns
    assert all((workdir / f"{row}.json").exists() for row in ("tsc", "t2fsnn", "ttfs_0", "spike_time"))
    half = read_json(workdir / "phase.sums")
    assert half["images"] == 20 and len(half["spikes"]) == len(half["correct"]) == 1500
    done = run(command(models, workdir))
    assert done.returncode == 0, done.stderr
    assert (workdir / "rate.json").stat().st_mtime_ns == before
    assert not list(workdir.glob("*.sums*")) and not (workdir / "rate.sums").exists()
    at_once = run(command(models[:1], tmp_path / "at_once", "--rows=phase"))
    assert at_once.returncode == 0, at_once.stderr
    once, twice = (read_json(place / "phase.json") for place in (tmp_path / "at_once", workdir))
    assert all(once[name] == twice[name] for name in ("accuracy", "spikes", "curve", "settings"))
    results = {row: read_json(workdir / f"{row}.json") for row in (*paper.TABLE2_ROWS, "ttfs_0")}
    for row, result in results.items():
        steps, accuracy, spikes = result["curve"][-1]
        assert accuracy == pytest.approx(result["accuracy"], abs=1e-4) and spikes == pytest.approx(
            result["spikes"], abs=0.1
        )
        assert abs(result["accuracy"] - result["model_accuracy"]) < (0.12 if row.startswith("t2fsnn") else 0.05)
        assert result["neurons"] == results["rate"]["neurons"] and result["settings"]["test_images"] == (
            40 if row in table2.SLOW_ROWS else 60
        )
    assert results["ttfs_0"]["accuracy"] == results["ttfs_0"]["model_accuracy"]
    steps = {row: result["time_steps"] for row, result in results.items()}
    # Five hidden layers.
    assert steps == {
        "rate": 512, "phase": 1500, "burst": 1125, "tsc": 192, "t2fsnn": 560, "t2fsnn_early": 320, "ttfs_0": 224,
    }  # fmt: skip
    answers = {row: result["decision_step"] for row, result in results.items()}
    assert answers == {**steps, "t2fsnn": 480, "t2fsnn_early": 280, "ttfs_0": 192}
    order = [results[row]["spikes"] for row in ("phase", "burst", "rate", "tsc", "t2fsnn")]
    assert order == sorted(order, reverse=True)
    text = (workdir / "table2.md").read_text()
    assert text.strip() in done.stdout and "| our ttfs | direct | TTFS |" in text
    spike_time = read_json(workdir / "spike_time.json")
    # 64 inputs, two convolutions of 8 and two of 16 channels, 32 and 10 neurons.
    assert spike_time["neurons"] == 64 + 2 * 8 * 64 + 2 * 16 * 16 + 32 + 10
    assert 0 < spike_time["spikes"] < spike_time["neurons"]
    test = data.load("digits").test()
    logits = keras.models.load_model(models[2])(data.scale(test.images[:60])).numpy()
    assert spike_time["accuracy"] == pytest.approx((logits.argmax(-1) == test.labels[:60]).mean())
    assert spike_time["training"]["epochs"] == 1
    ratio = 100 * spike_time["spikes"] / spike_time["neurons"]
    assert f"| - | - | {spike_time['spikes'] / 1e4:.2f} | - | {ratio:.2f} | - | - |" in text
    assert (workdir / "codings.png").exists()
    other = run(command(models, workdir, "--calibration_images=50"))
    assert other.returncode != 0 and "calibration_images: 100 there, 50 asked" in other.stderr
    # A call for one row leaves the others in the table.
    assert run(command(models[:1], workdir, "--rows=tsc")).returncode == 0
    assert (workdir / "table2.md").read_text() == text


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--rows=rate,colour", "Received: colour"),
        ("--model=none.keras", "Expected .keras files. Received: none.keras"),
        ("--spike_time={relu}", "Expected --spike_time to be a model with a SpikeTimeOutput. Received: "),
        ("--ttfs={relu}", "Expected --ttfs to be a TTFS model. Received: "),
        ("--model={ttfs}", "Expected --model to be a model without spikes. Received: "),
        ("--dataset=cifar10", "run python -c \"import tensorflow_datasets as t; t.builder('cifar10', data_dir='"),
    ],
)
def test_flag_errors(models, tmp_path, flag, message):
    """Before anything is simulated."""
    flag = flag.format(relu=models[0], ttfs=models[1])
    done = run(command(models, tmp_path / "table2", f"--data_dir={tmp_path}", flag))
    assert done.returncode != 0 and message in done.stderr
    assert not list(tmp_path.rglob("*.json"))


def test_no_row_is_no_table(models, tmp_path):
    done = run(command(models[:1], tmp_path, "--rows="))
    assert done.returncode != 0 and "Expected at least one row" in done.stderr


def test_a_row_tells_who_began_it_and_who_went_on(models, tmp_path):
    """A row of TTFS that other code began: its sums are gone on with, and say whose they are."""
    row = command(models[:2], tmp_path, "--rows=")
    at_once = command(models[:2], tmp_path / "at_once", "--rows=")
    assert run(at_once).returncode == 0
    whole = read_json(tmp_path / "at_once" / "ttfs_0.json")
    digits = data.load("digits").test()
    images, labels = data.scale(digits.images[:20]).numpy(), digits.labels[:20]
    first = Sums(str(tmp_path / "ttfs_0.sums"), whole["settings"], {"git_revision": "0123456789ab", "device": "other"})
    table2.simulate_ttfs(table2.float32(models[1]), images, labels, 20, sums=first)
    assert run(row).returncode == 0
    result = read_json(tmp_path / "ttfs_0.json")
    assert result["device"] == "other" and result["git_revision"] == f"0123456789ab then {whole['git_revision']}"
    assert all(result[name] == whole[name] for name in ("accuracy", "spikes", "curve", "settings"))
    # Damaged sums are found before anything is simulated.
    (tmp_path / "ttfs_0.json").unlink()
    (tmp_path / "ttfs_0.sums").write_text("{")
    refused = run(row)
    assert refused.returncode != 0 and "ttfs_0.sums to hold JSON" in refused.stderr


def test_time_steps_are_for_codings_without_windows(models):
    digits = data.load("digits").test()
    images, labels = data.scale(digits.images[:20]).numpy(), digits.labels[:20]
    for row, steps in (("rate", 16), ("tsc", 192)):
        whole = table2.Images(images, images, labels)
        outcome = table2.simulate_conversion(row, table2.float32(models[0]), whole, 20, time_steps=16)
        assert outcome[1:3] == (steps, steps) and len(outcome[3]) == len(outcome[4]) == steps


def test_a_ttfs_curve_is_read_after_the_spikes_of_each_step():
    """Accuracy and spikes at step s against sums over the spikes up to s, in NumPy."""
    import keras_ttfs

    window = 8
    inputs = keras.Input((6,))
    x = keras_ttfs.TTFSActivation(window, tau_0=3.0, name="input_activation")(inputs)
    x = keras.layers.Dense(12, kernel_initializer=keras.initializers.RandomNormal(0.1, 0.5, seed=1))(x)
    x = keras_ttfs.TTFSActivation(window, tau_0=4.0, t_d_0=1.0, name="hidden_activation")(x)
    outputs = keras.layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(0.0, 1.0, seed=2))(x)
    model = keras_ttfs.TTFSModel(inputs, outputs)
    first, second = (layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    first.bias.assign(np.linspace(-0.3, 0.3, 12))
    second.bias.assign([0.1, -0.1, 0.05])
    images = np.random.default_rng(0).uniform(size=(50, 6)).astype("float32")

    def fire(z, tau, t_d):
        """Spike times by definition: the first step whose threshold z reaches; the window's length if none."""
        thresholds = np.exp(-(np.arange(window) - t_d) / tau)
        reached = z[..., None] >= thresholds
        return np.where(reached.any(-1), reached.argmax(-1), window)

    def values(times, tau, t_d):
        return np.where(times < window, np.exp(-(times - t_d) / tau), 0.0)

    times = fire(images.astype("float64"), 3.0, 0.0)
    z = values(times, 3.0, 0.0) @ first.kernel.numpy().astype("float64") + first.bias.numpy()
    hidden = fire(z, 4.0, 1.0)
    levels = values(hidden, 4.0, 1.0)
    # The hidden layer fires when the whole window of the inputs is over.
    steps = 2 * window
    logits = np.stack(
        [
            np.where(window + hidden <= step, levels, 0.0) @ second.kernel.numpy().astype("float64")
            + second.bias.numpy()
            for step in range(steps)
        ]
    )
    np.testing.assert_allclose(logits[-1], model.predict(images, verbose=0), rtol=1e-4, atol=1e-5)
    labels = model.predict(images, verbose=0).argmax(-1)
    labels[::5] = (labels[::5] + 1) % 3
    curve = table2.simulate_ttfs(model, images, labels, batch_size=16)
    assert (curve.time_steps, curve.decision_step) == (3 * window, steps)
    expected = (logits.argmax(-1) == labels).mean(-1)
    np.testing.assert_allclose(curve.accuracy, expected, atol=1e-12)
    # The curve moves in every part of the hidden window, so that a shift by a step would be seen.
    assert len(np.unique(expected[window:])) > 4 and expected[-1] == pytest.approx(0.8)
    spikes = [(window + hidden == step).sum() / len(images) for step in range(steps)]
    np.testing.assert_allclose(curve.spikes, spikes, atol=1e-12)
    assert sum(spikes) > 3 and not any(spikes[:window])
    points = table2.thinned(curve.accuracy, curve.spikes.cumsum())
    assert points[window] == [window + 1, round(expected[window], 4), round(sum(spikes[: window + 1]), 1)]


def test_sums_go_on_where_they_were_and_are_refused_of_anything_else(tmp_path):
    file, asked = str(tmp_path / "new" / "rate.sums"), {"data": "digits", "test_images": 6}
    numbers = np.random.default_rng(0)
    answers, spikes = numbers.uniform(size=(6, 4)) < 0.5, numbers.uniform(size=(2, 4))
    first = Sums(file, asked)
    first.add(answers[:4], spikes[0])
    time.sleep(0.15)
    first.add(answers[4:5], spikes[1])
    second = Sums(file, asked)
    assert second.images == 5 and second.seconds >= 0.1
    second.add(answers[5:], spikes[1])
    np.testing.assert_array_equal(second.correct, answers.sum(0))
    np.testing.assert_allclose(second.spikes, 4 * spikes[0] + 2 * spikes[1], rtol=1e-15)
    with pytest.raises(FileExistsError, match="Received: test_images: 6 there, 7 asked. Remove the file"):
        Sums(file, {**asked, "test_images": 7})
    text = pathlib.Path(file).read_text()
    for damage in (text[:-9], text.replace('"images": 6', '"images": 5'), "{}"):
        pathlib.Path(file).write_text(damage)
        with pytest.raises(ValueError, match="Expected .*rate.sums to hold .* Remove the file"):
            Sums(file, asked)


def test_curves_are_thinned_and_keep_their_end():
    points = table2.thinned(np.linspace(0, 0.9, 1500), np.arange(1500.0))
    assert len(points) == 200 and points[0][0] == 1 and points[-1] == [1500, 0.9, 1499.0]


def test_papers_table_from_its_spikes_and_steps():
    lines = table2_text.paper_table2("cifar10").splitlines()
    assert lines[2] == (
        "| Han et al. 2020, RMP-SNN | conversion | rate | 93.39 | 512 | 261.20 | 1.82 | 930.91 | 6.01 | 9.02 |"
    )
    assert lines[5].endswith("| 512 | 19.30 | 0.13 | 68.78 | 1.00 | 1.00 |")
    assert lines[7] == "| Zhou et al. 2021 | direct | TTFS | 92.68 | - | - | - | 62.00 | - | - |"
    hundred = table2_text.paper_table2("cifar100").splitlines()
    assert hundred[7] == "| Park & Yoon | direct | TTFS | 65.98 | 544 | 7.80 | 0.05 | 27.79 | 0.82 | 0.68 |"
    assert hundred[5].endswith("| 70.87 | 512 | 17.00 | 0.12 | 60.57 | 1.00 | 1.00 |")
    assert table2_text.paper_table2("digits") == ""


@pytest.mark.parametrize("dataset, rows", [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_papers_numbers_are_those_that_it_prints(dataset, rows):
    """Its spikes are printed to a few digits, so that what follows from them is known to their share."""
    printed = [known for known in paper.TABLE2[dataset].values() if known[-1] is not None]
    for (*_, time_steps, spikes), (text, steps, *_, per_neuron) in zip(printed, rows, strict=True):
        assert (spikes, time_steps) == (float(text), steps)
        ours = 100 * 1e6 * spikes / paper.NEURONS[dataset]
        assert abs(ours / float(per_neuron) - 1) < half_unit(text) / float(text) + 1e-4


def made_up(row, accuracy, share, images=100):
    """A result of a network of 1,000 neurons."""
    made = {
        "row": row,
        "label": row,
        "accuracy": accuracy,
        "model_accuracy": 0.9,
        "spikes": 1000 * share,
        "neurons": 1000,
    }
    made |= {"time_steps": 512, "decision_step": 500, "curve": [], "training": None, "seconds": 36.0, "device": "CPU"}
    return made | {"settings": {"data": "d", "test_images": images, "calibration_images": 5, "time_window": 80}}


def test_rows_beside_the_papers_with_standard_errors():
    results = [made_up("tsc", 0.9357, 0.6878), made_up("rate", 0.9, 9.3091), made_up("t2fsnn", 0.5, 0.1)]
    lines = table2_text.table2(results, "cifar10").splitlines()
    assert "| 1,000 | 100 | 93.57 ± 2.45 | 90.00 | 1 | 500 | 512 |" in lines[2]
    # 688 spikes in 512 steps, beside the 193,000 of the paper's TSC row in as many.
    assert lines[2].endswith("| 0.60 | 0.36 | 93.57 | 512 | 68.78 |")
    assert lines[3].endswith("| 93.39 | 512 | 930.91 |") and lines[4].endswith("| - | - | - |")
    # Of T2FSNN the steps until its answer count.
    assert "| 500 | 500 |" in lines[4]
    own = {**made_up("t2fsnn_early", 0.5, 0.1), "settings": {**results[0]["settings"], "time_window": 40}}
    assert table2_text.table2([own], "cifar10").splitlines()[2].endswith("| - | - | - |")
    # The printed spikes are rounded: 0.193e6 of 280,586 neurons are 68.78 %.
    assert table2_text.differing(results, "cifar10") == ["rate"]
    for share, differs in (
        (0.6878 / 1.49, []),
        (0.6878 / 1.51, ["tsc"]),
        (0.6878 * 1.49, []),
        (0.6878 * 1.51, ["tsc"]),
    ):
        assert table2_text.differing([made_up("tsc", 0.93, share)], "cifar10") == differs
    assert table2_text.differing(results, "digits") == []
    text = table2_text.section(results, "cifar10", "models", "a.png", {"rate": "because."})
    assert text.endswith("- rate: because.") and text.index("| rate |") < text.index("| tsc |") < text.index(
        "| t2fsnn |"
    )


def saved(path, *layers, shape=(8, 8, 1)):
    keras.Sequential([keras.Input(shape), *layers]).save(path)
    return str(path)


def test_models_of_other_inputs_and_classes_are_refused(models, tmp_path):
    L, digits = keras.layers, data.load("digits")

    def ends():
        return [L.Flatten(), L.Dense(4, activation="relu"), L.Dense(10)]

    norm = L.Normalization(axis=None, mean=120.0, variance=4000.0)
    wrong = {
        "Expected a model of intensities in .0, 1.* for intensities up to 255": [L.Rescaling(1 / 255), *ends()],
        "for intensities up to 255,": [L.Rescaling(1 / 127.5, offset=-1.0), *ends()],
        "for intensities up to 120,": [norm, *ends()],
        r"inputs \(8, 8, 1\) and 10 classes, as digits has. Received: .*\(8, 8, 1\), \(100,\)": [
            L.Flatten(),
            L.Dense(100),
        ],
    }
    wrong["for intensities up to 255,+ "] = [L.Rescaling(-1 / 255, offset=1.0), *ends()]
    wrong["for intensities up to 255, "] = [L.Normalization(axis=None, mean=0.0, variance=65025.0), *ends()]
    inner = keras.Sequential([keras.Input((8, 8, 1)), L.Rescaling(1 / 255)])
    wrong["for intensities up to 255 *,"] = [inner, *ends()]
    wrong["for intensities up to 255 ?,"] = [L.Reshape((8, 8, 1)), L.Rescaling(1 / 255), *ends()]
    for number, (message, layers) in enumerate(wrong.items()):
        path = saved(tmp_path / f"{number}.keras", *layers)
        with pytest.raises(ValueError, match=message):
            table2_models.check_model(path, "model", "digits", digits)
    small = saved(tmp_path / "small.keras", *ends(), shape=(4, 4, 1))
    with pytest.raises(ValueError, match=r"Received: .*\(4, 4, 1\)"):
        table2_models.check_model(small, "model", "digits", digits)
    with pytest.raises(
        ValueError, match="Expected a model of --dataset=cifar10, scikit.* Received: .* of digits, scikit"
    ):
        table2_models.check_model(models[0], "model", "cifar10", digits)
    copy = dataclasses.replace(digits, description="digits (another copy)")
    with pytest.raises(ValueError, match=r"Expected a model of --dataset=digits, digits \(another copy\). Received: "):
        table2_models.check_model(models[0], "model", "digits", copy)
    # The nearest mean of a class, of images in bytes. No layer tells that it is of bytes.
    images = 255 * data.scale(digits.train.images).numpy().reshape(-1, 64)
    means = np.stack([images[digits.train.labels == label].mean(0) for label in range(10)])
    nearest = keras.Sequential([keras.Input((8, 8, 1)), L.Flatten(), L.Dense(10)])
    nearest.set_weights([means.T, -(means**2).sum(1) / 2])
    nearest.save(tmp_path / "bytes.keras")
    with pytest.raises(
        ValueError, match="right for .*% of the first training images, and for [89].% of them in 0 to 255"
    ):
        table2_models.check_model(str(tmp_path / "bytes.keras"), "model", "digits", digits)
    for layers in (
        [L.Rescaling(2.0, offset=-1.0), *ends()],
        [L.Normalization(axis=None, mean=0.5, variance=0.1), *ends()],
    ):
        table2_models.check_model(saved(tmp_path / "right.keras", *layers), "model", "digits", digits)
