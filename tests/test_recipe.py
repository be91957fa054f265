"""Parts of a recipe in a whole run: flips and squares resume exactly; the dtype policy suits the processor."""

import pathlib

import keras
import numpy as np
import pytest
from absl import flags

import keras_ttfs  # noqa: F401  Registers its layers.
from experiments import command, table1
from experiments.config import Config, differences
from experiments.files import read_json
from experiments.stored import read_kernels

RECIPE = {
    "model": "fast_vgg",
    "width": 0.2,
    "train_images": 256,
    "epochs": 3,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "schedule": "triangular",
    "bn_momentum": 0.8,
    "gamma_0": 0.4,
    "kernel_initializer": "dirac",
    "time_window": 16,
    "tau_0": 5.0,
    "rounding": "nearest",
    "dropout": 0.2,
    "bias_rate": 4.0,
    "flip": "alternating",
    "translation": 2,
    "border": "reflect",
    "cutout": 2,
}
# Trains without a break, and with one after each epoch.
RESUMING = """
import sys, dataclasses
from experiments import data, train
from experiments.config import Config
from experiments.train import StopOnNonFinite, make_deterministic

class Break(Exception):
    pass

class Breaking(StopOnNonFinite):
    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        if epoch == self.last:
            raise Break

load = data.load
# Digits that may be flipped.
data.load = lambda *arguments: dataclasses.replace(load(*arguments), flip=True)
make_deterministic()
config, folder = Config(**eval(sys.argv[1])), sys.argv[2]
train.train(config, folder + "/whole", verbose=0)
train.StopOnNonFinite = Breaking
for epoch in range(1, config.epochs):
    Breaking.last = epoch
    try:
        train.train(config, folder + "/broken", verbose=0)
        raise AssertionError
    except Break:
        pass
Breaking.last = None
train.train(config, folder + "/broken", verbose=0)
"""


def saved(path):
    model = keras.models.load_model(path / "model.keras")
    assert model.optimizer.iterations > 0
    return [np.array(variable) for variable in (*model.variables, *model.optimizer.variables)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"noise": "jitter=0.5,weight=0.1"},
        {"optimizer": "adam", "keep": "last", "learning_rate": 0.003},
        {"frozen_epochs": 2, "lambda_tr": 1e-3, "lambda_tb": 1e-3},
    ],
)
def test_a_recipe_resumes_exactly(changes, tmp_path, in_fresh_process):
    in_fresh_process(RESUMING, {**RECIPE, **changes}, tmp_path)
    whole, broken = (read_json(tmp_path / name / "result.json") for name in ("whole", "broken"))
    for name in ("accuracy", "loss", "val_accuracy", "spikes", "layers"):
        assert whole[name] == broken[name]
    for ours, theirs in zip(saved(tmp_path / "whole"), saved(tmp_path / "broken"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (
        whole["epochs"] == 3
        and (tmp_path / "whole" / "kernels.csv").read_text() == (tmp_path / "broken" / "kernels.csv").read_text()
    )
    lines = read_kernels(tmp_path / "whole" / "kernels.csv", "")
    moved = {line["epoch"] for line in lines if line["tau"] != lines[0]["tau"]}
    assert moved == {epoch for epoch in range(3) if epoch >= changes.get("frozen_epochs", 0)}


def parsed(*arguments):
    values = flags.FlagValues()
    command.define_config_flags(values)
    values(["test", *arguments])
    return values


def test_bfloat16_units_are_read_from_the_description_of_the_processor(tmp_path):
    described = {
        "new": ("processor\t: 0\nflags\t\t: fpu avx2 avx512_bf16 amx_bf16\n", ["avx512_bf16", "amx_bf16"]),
        "avx2": ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: avx512_bf16\n", []),
    }
    for name, (text, units) in described.items():
        (tmp_path / name).write_text(text)
        assert command.bfloat16_units(str(tmp_path / name)) == units
    assert command.bfloat16_units(str(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("units", "policy", "reason"),
    [
        (["amx_bf16"], "mixed_bfloat16", "dtype_policy: mixed_bfloat16, because the processor has amx_bf16\n"),
        ([], "float32", "dtype_policy: float32, because the processor has none of avx512_bf16, amx_bf16\n"),
    ],
)
def test_auto_becomes_the_policy_that_suits_the_processor(units, policy, reason, monkeypatch, capsys):
    monkeypatch.setattr(command, "bfloat16_units", lambda: units)
    command.automatic_dtype_policy.cache_clear()
    values = parsed("--dtype_policy=auto")
    assert command.config_from_flags(values).dtype_policy == policy
    assert command.changed_fields(values) == {"dtype_policy": policy}
    assert capsys.readouterr().out == reason
    small = pathlib.Path(table1.FLAGFILES / "small.flags")
    assert command.changed_fields(parsed(f"--flagfile={small}"))["dtype_policy"] == policy
    command.automatic_dtype_policy.cache_clear()
    with pytest.raises(ValueError, match="Expected dtype_policy to be one of .* Received: dtype_policy='auto'"):
        Config(dtype_policy="auto")
    assert command.config_from_flags(parsed("--dtype_policy=float64")).dtype_policy == "float64"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bias_rate": 0.0}, "Expected bias_rate > 0. Received: bias_rate=0.0"),
        ({"translation": -2}, "Expected translation >= -1. Received: translation=-2"),
        ({"border": "wrap"}, r"Expected border to be one of \('zeros', 'reflect'\). Received: border='wrap'"),
        ({"augment": False, "cutout": 3}, "Expected augment=True where cutout is given. Received: cutout=3"),
        ({"augment": False, "flip": "alternating"}, "Expected augment=True where flip is given"),
        ({"noise": "hum=1"}, "Expected noise like jitter=1,dropped=0.05, of jitter, .* each once. Received: 'hum=1'"),
        ({"noise": "jitter"}, "Expected noise like .* Received: 'jitter'"),
        ({"noise": "jitter=1,jitter=2"}, "Expected noise like .* Received: 'jitter=1,jitter=2'"),
        (
            {"noise": "jitter=1", "activation": "relu"},
            "Expected activation='ttfs' with noise. Received: activation='relu'",
        ),
    ],
)
def test_errors_of_a_recipe(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_configs_of_earlier_versions_differ_where_their_runs_did():
    old = {
        name: value for name, value in Config().as_dict().items() if name not in RECIPE or name in ("model", "width")
    }
    old |= {name: Config().as_dict()[name] for name in RECIPE if name not in ("flip", "border", "cutout")}
    assert len(old) == len(Config().as_dict()) - 3
    assert differences(old, Config().as_dict()) == ""
    assert differences(old, Config(cutout=5).as_dict()) == "cutout: 0 there, 5 asked"
