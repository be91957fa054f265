"""Beginning with a trained model, and learning from one: the ReLU twin, another time window, what is refused."""

import dataclasses

import keras
import numpy as np
import pytest

from experiments import data as data_module
from experiments import start, train
from experiments.config import Config
from experiments.files import read_json, sha256
from experiments.stored import with_digests
from keras_ttfs import applications, temporal_kernel

# They train.
pytestmark = pytest.mark.slow

NETWORK = {"model": "fast_vgg", "width": 0.25, "kernel_initializer": "dirac", "bn_momentum": 0.8, "rounding": "nearest"}
TRAINING = {"train_images": 512, "batch_size": 32, "learning_rate": 0.003}
TTFS = {**NETWORK, **TRAINING, "time_window": 16, "tau_0": 5.0, "gamma_0": 0.4}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`{activation: path of a model that is trained on digits}`."""
    folder, paths = tmp_path_factory.mktemp("trained"), {}
    for activation in ("relu", "ttfs"):
        config = Config(**TTFS, activation=activation, epochs=6)
        result = train.train(config, str(folder / activation), verbose=0)
        assert result["accuracy"] > 0.8
        paths[activation] = str(folder / activation / "model.keras")
    return paths


@pytest.fixture(scope="module")
def data():
    return data_module.load("digits", train_images=512)


def logits(model, data):
    return np.float64(model(data_module.scale(data.validation.images), training=False))


def test_weights_of_the_twin_give_its_logits_where_the_window_is_long(trained, data):
    twin = logits(keras.models.load_model(trained["relu"]), data)
    errors = []
    for time_window in (16, 512):
        config = Config(**{**TTFS, "time_window": time_window, "tau_0": time_window / 6}, start_from=trained["relu"])
        model = train.build(config, data)
        assert [float(encoder.tau) for encoder in model.encoders] == pytest.approx([time_window / 6] * 8)
        assert all(norm.trainable for norm, _ in model.batch_norm_pairs())
        errors.append(np.abs(logits(model, data) - twin).mean() / np.abs(twin).mean())
        agree = np.mean(logits(model, data).argmax(1) == twin.argmax(1))
        assert agree > (0.85 if time_window == 16 else 0.98)
    assert errors[1] < 0.03 and errors[1] < errors[0] / 3
    untrained = train.build(Config(**TTFS), data)
    assert np.mean(logits(untrained, data).argmax(1) == twin.argmax(1)) < 0.5


def test_half_the_window_has_every_second_level(trained, data):
    source = keras.models.load_model(trained["ttfs"])
    config = Config(**{**TTFS, "time_window": 8, "tau_0": 2.5}, start_from=trained["ttfs"])
    model = train.build(config, data)
    for ours, theirs in zip(model.encoders, source.encoders, strict=True):
        assert float(theirs.tau) != 5.0 and float(ours.z_max) == pytest.approx(float(theirs.z_max), rel=1e-6)
        half, whole = (
            np.array(temporal_kernel.levels(encoder.tau, encoder.t_d, encoder.time_window))
            for encoder in (ours, theirs)
        )
        np.testing.assert_allclose(half[:8], whole[:16:2], rtol=1e-5)
        assert (ours.tau_0, ours.t_d_0, ours.time_window) == (2.5, 0.0, 8)
    for name in ("conv0", "conv3_2_norm", "logits"):
        for ours, theirs in zip(model.get_layer(name).weights, source.get_layer(name).weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    agree = np.mean(logits(model, data).argmax(1) == logits(source, data).argmax(1))
    assert agree > 0.5
    same = train.build(Config(**TTFS, start_from=trained["ttfs"]), data)
    np.testing.assert_array_equal(logits(same, data), logits(source, data))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            lambda: applications.fast_vgg((8, 8, 1), width=0.2),
            r"layer 'conv0' of shapes \[\(2, 2, 1, 4\)\], here of shapes",
        ),
        (lambda: applications.vgg6((8, 8, 1)), "layer 'conv0' missing, here of shapes"),
        (
            lambda: applications.fast_vgg((8, 8, 1), width=0.25, input_coding="analog"),
            "a ReLU twin or a network with the encoders .* Received",
        ),
    ],
)
def test_another_network_is_refused(source, message, data, tmp_path):
    path = str(tmp_path / "other.keras")
    source().save(path)
    model = train.build(Config(**TTFS), data)
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"Expected start_from to hold .*{message}"):
        start.begin_with(path, model, Config(**TTFS), data_module.scale(data.train.images[:50]).numpy())
    for ours, theirs in zip(model.get_weights(), before):
        np.testing.assert_array_equal(ours, theirs)


def test_a_run_from_the_twin_with_its_teaching(trained, tmp_path):
    config = Config(
        **TTFS,
        epochs=2,
        start_from=trained["relu"],
        teacher=trained["relu"],
        lambda_kd=0.5,
        temperature=3.0,
        keep="last",
    )
    result = train.train(config, str(tmp_path / "run"), verbose=0)
    digest = sha256(trained["relu"])
    assert result["config"]["start_from_sha256"] == result["config"]["teacher_sha256"] == digest
    assert read_json(tmp_path / "run" / "config.json") == result["config"]
    assert result["accuracy"] > 0.8
    header = (tmp_path / "run" / "history.csv").read_text().splitlines()[0].split(",")
    assert "kd" in header and "val_kd" not in header
    assert keras.models.load_model(tmp_path / "run" / "model.keras").teaching is None


def test_a_run_goes_on_with_its_own_file_only(trained, tmp_path):
    path = str(tmp_path / "twin.keras")
    keras.models.load_model(trained["relu"]).save(path)
    config = Config(**with_digests(Config(**TTFS, start_from=path).as_dict()))
    train.claim_workdir(config, str(tmp_path / "run"))
    other = keras.models.load_model(path)
    other.get_layer("logits").bias.assign_add(np.ones(10))
    other.save(path)
    with pytest.raises(FileExistsError, match="start_from_sha256: .* there, .* asked"):
        train.train(Config(**TTFS, start_from=path), str(tmp_path / "run"), verbose=0)
    with pytest.raises(ValueError, match="Expected start_from of SHA-256 .* Received: .*twin.keras of SHA-256"):
        train.train(config, str(tmp_path / "run"), verbose=0)
    with pytest.raises(FileNotFoundError, match="Expected teacher to be a .keras file. Received: none.keras"):
        with_digests({"teacher": "none.keras"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lambda_kd": 1.0}, "Expected teacher where lambda_kd is given. Received: lambda_kd=1.0"),
        ({"teacher": "a.keras"}, "Expected lambda_kd where teacher is given. Received: teacher='a.keras'"),
        ({"temperature": 2.0}, "Expected teacher where temperature is given"),
        ({"start_from_sha256": "ab"}, "Expected start_from where start_from_sha256 is given"),
        ({"start_from": "a.keras", "activation": "relu"}, "Expected activation='ttfs' with start_from"),
    ],
)
def test_fields_that_belong_together(values, message):
    with pytest.raises(ValueError, match=message):
        Config(**values)
    assert dataclasses.replace(Config(), teacher="a.keras", lambda_kd=1.0, temperature=2.0).teacher == "a.keras"
