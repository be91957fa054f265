"""Models that version 0.7.0 saved predict what it predicted.

Weights, thresholds and levels of the first two are chosen so that every sum is exact in any order: any CPU gives the same
bits. The spike times of the third go through exp and log, whose last bit differs between math libraries: 1e-6 is ten such
bits.
"""

import pathlib

import keras
import numpy as np
import pytest

import keras_ttfs  # noqa: F401 registers the classes that the files name

DATA = pathlib.Path(__file__).parent / "data"
EXACT = {"ttfs": True, "converted": True, "spike_time": False}
# Nothing but the library, so that what a file needs must be registered by its import alone.
SCRIPT = """
import sys, numpy, keras_ttfs, keras
folder, target, *names = sys.argv[1:]
saved = numpy.load(f"{folder}/predictions_0.7.0.npz")
models = {name: keras.models.load_model(f"{folder}/{name}_0.7.0.keras") for name in names}
numpy.savez(target, **{name: model.predict(saved[f"{name}_x"], verbose=0) for name, model in models.items()})
"""


def check(name, found):
    expected = np.load(DATA / "predictions_0.7.0.npz")[f"{name}_y"]
    assert found.dtype == expected.dtype and expected.std() > 0
    if EXACT[name]:
        assert np.array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_predicts_what_it_predicted(name):
    model = keras.models.load_model(DATA / f"{name}_0.7.0.keras")
    check(name, model.predict(np.load(DATA / "predictions_0.7.0.npz")[f"{name}_x"], verbose=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_predicts_what_it_predicted_in_a_fresh_process(name, tmp_path, in_fresh_process):
    in_fresh_process(SCRIPT, DATA, tmp_path / "found.npz", name)
    check(name, np.load(tmp_path / "found.npz")[name])
