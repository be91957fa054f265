"""The command that exports a trained network, and its table."""

import os
import subprocess
import sys

import pytest

from experiments.files import read_json
from experiments.tables import EXPORTS, export_table

pytest.importorskip("onnxruntime", reason="the extra export is not installed")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run_module(name, *arguments, expect=0):
    done = subprocess.run([sys.executable, "-m", name, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done


@pytest.mark.slow
def test_every_file_is_written_measured_and_told(tmp_path):
    run, files = tmp_path / "run", tmp_path / "files"
    small = ["--train_images=256", "--width=0.25", "--epochs=1", f"--workdir={run}"]
    run_module("experiments.cifar", "--flagfile=experiments/flagfiles/digits.flags", *small)
    command = [
        "experiments.export",
        f"--model={run}/model.keras",
        "--dataset=digits",
        "--images=30",
        f"--files={files}",
    ]
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
    assert "Expected a file that is not there yet" in again.stderr
    for both in ([], ["--weights=cifar10", f"--model={run}/model.keras"]):
        refused = run_module("experiments.export", f"--files={files}", *both, expect=1)
        assert "Expected one of --model and --weights" in refused.stderr + refused.stdout
