"""Zhou et al.'s published network: which weights go where, and what is refused. Their weights are not here."""

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
    (folder / zhou.FILES[4]).write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="Expected .*weight_CFAR5.npy to hold an array of weights"):
        zhou.with_weights(str(folder))
    np.save(folder / zhou.FILES[3], np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"Expected weight_CFAR4.npy of shape \(257, 64\). Received: shape \(2, 2\)"):
        zhou.with_weights(str(folder))
    (folder / zhou.FILES[0]).unlink()
    with pytest.raises(FileNotFoundError, match="Expected weight_CFAR1.npy of their repository"):
        zhou.with_weights(str(folder))
