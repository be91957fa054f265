"""Zhou et al.'s published network: which weights go where, and what is refused. Their weights are not here."""

import keras
import numpy as np
import pytest

from experiments import zhou

SHAPES = ((76, 64), (1601, 32), (801, 16), (257, 64), (65, 10))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, shape in zip(zhou.FILES, SHAPES, strict=True):
        np.save(tmp_path / name, rng.uniform(0, 8 / shape[0], shape).astype("float32"))
    return tmp_path


def test_each_layer_gets_its_weights(folder):
    model = zhou.with_weights(str(folder))
    for layer, name in zip(("conv1", "conv2", "conv3", "dense", "logits"), zhou.FILES, strict=True):
        np.testing.assert_array_equal(model.get_layer(layer).kernel.numpy(), np.load(folder / name))
    assert model.neurons == 32 * 32 * 3 + 16 * 16 * 64 + 8 * 8 * 32 + 4 * 4 * 16 + 64 + 10
    # The darkest pixel fires first, at time 0.
    encoded = model.get_layer("encode")(np.array([[0.0, 1.0]], "float32")).numpy()
    np.testing.assert_allclose(encoded, [[1.0, np.exp(3.0)]], rtol=1e-6)


def test_refuses_other_files(folder):
    names = list(zhou.FILES)
    with pytest.raises(ValueError, match="Expected weight_CFAR1.npy as it is published, SHA-256 d58b98aa"):
        zhou.check_published(str(folder))
    np.savez(folder / "archive.npz", weights=np.zeros(3))
    (folder / "archive.npz").rename(folder / names[4])
    with pytest.raises(ValueError, match="Expected .*weight_CFAR5.npy to hold an array of weights. Received: NpzFile"):
        zhou.with_weights(str(folder))
    (folder / names[4]).write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="Expected .*weight_CFAR5.npy to hold an array of weights"):
        zhou.with_weights(str(folder))
    np.save(folder / names[3], np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"Expected weight_CFAR4.npy of shape \(257, 64\). Received: shape \(2, 2\)"):
        zhou.with_weights(str(folder))
    (folder / names[0]).unlink()
    with pytest.raises(FileNotFoundError, match="Expected weight_CFAR1.npy of their repository"):
        zhou.with_weights(str(folder))


def test_replaces_nothing_but_its_own_model(folder, tmp_path):
    path = str(tmp_path / "model.keras")
    zhou.check_place(path, overwrite=False)
    zhou.with_weights(str(folder)).save(path)
    with pytest.raises(FileExistsError, match="Expected a file that is not there yet. Received: .* Pass --overwrite"):
        zhou.check_place(path, overwrite=False)
    zhou.check_place(path, overwrite=True)
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    with pytest.raises(FileExistsError, match="Expected a model that this command has made"):
        zhou.check_place(path, overwrite=True)


def test_their_program_sees_the_same_classes(folder):
    """Spike by spike, as their program computes it for a patch: all sums in the order of spikes, the first that is valid."""

    def layer(times, weights):
        """`times` (..., inputs); theirs end with the bias, a spike at time 1."""
        times = np.concatenate([times, np.ones_like(times[..., :1])], -1)
        order = np.argsort(times, -1, kind="stable")
        times, weights = np.take_along_axis(times, order, -1)[..., None], weights[order]
        total, moment = weights.cumsum(-2), (weights * times).cumsum(-2)
        fires = moment / np.clip(total - 1, 1e-10, 1e10)
        later = np.concatenate([times[..., 1:, :], np.full_like(times[..., :1, :], 1e5)], -2)
        return np.where((total < 1) | (fires < times) | (fires > later), 1e5, fires).min(-2)

    def convolution(times, weights):
        """5x5 with strides of 2. What stands beyond the border never fires."""
        padded = np.pad(times, ((0, 0), (1, 2), (1, 2), (0, 0)), constant_values=1e5)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))[:, ::2, ::2]
        return layer(np.moveaxis(windows, 3, -1).reshape(*windows.shape[:3], -1), weights)

    images = np.random.default_rng(1).uniform(size=(3, 32, 32, 3)).astype("float32")
    weights = [np.load(folder / name).astype("float64") for name in zhou.FILES]
    times = np.exp(3.0 * images.astype("float64"))
    for each in weights[:3]:
        times = convolution(times, each)
    times = layer(layer(times.reshape(3, -1), weights[3]), weights[4])
    model = zhou.with_weights(str(folder))
    np.testing.assert_allclose(-model.predict(images, verbose=0), times, rtol=1e-4)
    assert len(np.unique(times.round(3))) > 10
