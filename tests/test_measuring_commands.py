"""The commands that measure a trained network: its files for other runtimes, its noise, its answers before the end."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from experiments import scaling, scaling_text
from experiments.files import read_json, write_json
from experiments.tables import EXPORTS, anytime_table, export_table, robustness_table
from keras_ttfs import TKBatchNorm, applications
from keras_ttfs.topology import layers_of

pytestmark = pytest.mark.slow
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_module(name, *arguments, expect=0):
    done = subprocess.run([sys.executable, "-m", name, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network trained on digits for an epoch."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    small = ["--train_images=256", "--width=0.25", "--epochs=1", f"--workdir={run}"]
    run_module("experiments.cifar", "--flagfile=experiments/flagfiles/digits.flags", *small)
    return f"{run}/model.keras"


def test_every_file_is_written_measured_and_told(model, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    files = tmp_path / "files"
    command = ["experiments.export", f"--model={model}", "--dataset=digits", "--images=30", f"--files={files}"]
    done = run_module(*command, "--tolerance=0.01")
    result = read_json(files / "export.json")
    assert list(result["rows"]) == list(EXPORTS) and export_table(result) in done.stdout
    assert {path.name for path in files.iterdir()} == {
        "onnx.onnx", "litert.tflite", "litert_int8.tflite", "tf_saved_model", "qonnx.onnx", "export.json"
    }  # fmt: skip
    for row, values in result["rows"].items():
        assert values["images"] == (20 if row == "qonnx" else 30) and values["size"] > 1000
        assert row == "litert_int8" or values["mismatches"] <= 0.01 * values["all_spikes"]
        assert min(values["seconds_per_image"].values()) > 0
    again = run_module(*command, expect=1)
    assert "Expected files that are not there yet. Received: export.json, onnx.onnx, " in again.stderr


def test_noise_is_measured_point_by_point_and_goes_on(model, tmp_path):
    command = ["experiments.robustness", f"--network=small={model}", "--dataset=digits", "--images=40", "--seeds=0,3"]
    command += ["--kinds=bits,jitter", f"--workdir={tmp_path}"]
    done = run_module(*command)
    results = [read_json(path) for path in sorted(tmp_path.glob("*.json"))]
    assert len(results) == 1 + 6 + 2 * 5 and robustness_table({"small": results}) in done.stdout
    assert (tmp_path / "robustness.png").stat().st_size > 10_000 and (tmp_path / "robustness.md").exists()
    exact = next(result for result in results if result["kind"] == "none")
    weak = next(result for result in results if (result["kind"], result["strength"]) == ("bits", 8))
    assert abs(exact["spikes"] / weak["spikes"] - 1) < 0.05
    # What is there is not simulated again; what is of another network is refused.
    path = tmp_path / "small.none=0.seed0.json"
    write_json(path, {**exact, "accuracy": 0.123})
    (tmp_path / "small.jitter=2.seed3.json").unlink()
    assert "| none | - | 12.30 |" in run_module(*command).stdout
    assert (tmp_path / "small.jitter=2.seed3.json").exists()
    refused = run_module(*command, "--images=39", expect=1)
    assert "images: 40 there, 39 asked" in refused.stderr
    refused = run_module(*command, "--network=no-label", expect=1)
    assert "Expected --network=LABEL=MODEL" in refused.stderr + refused.stdout


def test_answers_before_the_end(model, tmp_path):
    command = ["experiments.anytime", f"--model={model}", "--dataset=digits", "--images=40", f"--workdir={tmp_path}"]
    done = run_module(*command)
    results = [read_json(tmp_path / f"early_{early}.json") for early in (0, 8, 16, 24)]
    # vgg6 with T = 32: six populations, and each but the first begins earlier.
    assert [len(result["accuracy"]) for result in results] == [192 - 5 * early for early in (0, 8, 16, 24)]
    assert anytime_table(results) in done.stdout and "| 24 | 72 |" in done.stdout
    # Stopped 1, 2, 4, ... steps into the last window, and at its end: the spikes so far.
    last = results[3]
    first = next(step for step, share in enumerate(last["accuracy"], 1) if share != last["accuracy"][0])
    for step in (first, first + 1, first + 3, 72):
        share, spikes = last["accuracy"][step - 1], sum(last["spikes"][:step])
        assert (
            f"| 24 | {step} | {100 * share:.2f} | {100 * (share * (1 - share) / 40) ** 0.5:.2f} | {spikes:,.0f} |"
            in done.stdout
        )
    assert (tmp_path / "anytime.png").stat().st_size > 10_000
    spikes = [sum(result["spikes"]) for result in results]
    assert np.all(np.abs(np.array(spikes) / spikes[0] - 1) < 0.3)
    # What is there is not simulated again; what is of other images is refused.
    (tmp_path / "early_16.json").unlink()
    assert "3 of 4 runs are finished" in run_module(*command).stdout and (tmp_path / "early_16.json").exists()
    assert "images: 40 there, 39 asked" in run_module(*command, "--images=39", expect=1).stderr


def test_workers_and_norms_are_timed_and_networks_cost_what_their_formulas_say(tmp_path):
    small = ["--width=0.05", "--rounds=1", "--batch_size=4", f"--output={tmp_path}"]
    run_module("experiments.scaling", "--parts=workers,norms", *small)
    workers, norms = (read_json(tmp_path / f"{name}.json") for name in ("workers", "norms"))
    one, two = (values[0] for values in workers["images_per_second"].values())
    assert workers["efficiency"] == pytest.approx(two / (2 * one))
    model = applications.fast_vgg(width=0.05)
    channels = sum(norm.moving_mean.shape[0] for norm in layers_of(model, TKBatchNorm))
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert (workers["parameters"], workers["gradient_bytes"]) == (model.count_params(), 4 * trained)
    assert (workers["synchronised_norm_bytes"], workers["moving_statistics_bytes"]) == (24 * channels, 16 * channels)
    assert norms["synchronised_to_own"] > 0 and len(norms["seconds_per_step"]["own"]) == 10
    # ResNet-50 as the literature has it: 3.9e9 multiply-adds, 25.6e6 parameters.
    row = {"multiply_adds": 3_900_000_000, "parameters": 25_600_000, "neurons": 11_000_000}
    row |= {"mebibytes_per_image": 100.0, "other_mebibytes": 500.0}
    assert scaling_text.pflop(row) == pytest.approx(6 * 3.9e9 * 1_281_167 * 90 / 1e15)
    assert scaling_text.hours(row, 8) == pytest.approx(8 * scaling_text.hours(row, 64))
    assert scaling_text.sent(row, 64) == pytest.approx(2 * 63 / 64 * 25.6e6 * 4)
    networks = {"side": 224, "dtype_policy": "float32", "rows": {"ResNet50": row}}
    for name, expected in (("VGG16", 15_470_264_320), ("ResNet50", 3_857_973_248)):
        network = getattr(keras.applications, name)(weights=None)
        assert scaling.multiply_adds(network) == expected
    text = scaling_text.section({"workers": workers, "norms": norms, "networks": networks})
    assert "| ResNet50 | 25.6 | 3.9 | 11.0 | 100 | 500 | 2,698 | 0.9 | 0.1 | 202 | 5.7 |" in text
