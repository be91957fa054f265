"""Every check of an argument: what passes, as what, and the whole message of the error."""

import numpy as np
import pytest

from keras_ttfs import checks


def message(call):
    """Of the ValueError that a call raises."""
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


def test_integer():
    for value in (1, np.int64(1)):
        found = checks.integer("units", value)
        assert found == 1 and type(found) is int
    assert checks.integer("early_firing", 0, least=0, unit="steps") == 0
    for value in (0, -3, 1.0, True, "1", None, np.float32(2)):
        found = message(lambda value=value: checks.integer("units", value))
        assert found == f"Expected units to be an integer >= 1. Received: units={value!r}"
    found = message(lambda: checks.integer("classes", 1, least=2, unit="classes"))
    assert found == "Expected classes to be an integer >= 2 [classes]. Received: classes=1"


def test_number():
    for value in (2, 2.0, np.float32(2), np.int64(2)):
        found = checks.number("tau_0", value)
        assert found == 2.0 and type(found) is float
    assert checks.number("t_d_0", -1.5) == -1.5
    assert checks.number("lambda_tr", 0, least=0) == 0.0
    for value in (float("nan"), float("inf"), True, np.True_, "1", None, [1.0]):
        found = message(lambda value=value: checks.number("t_d_0", value, unit="steps"))
        assert found == f"Expected t_d_0 to be a finite number [steps]. Received: t_d_0={value!r}"
    for value in (0, -0.5):
        found = message(lambda value=value: checks.number("tau_0", value, above=0, unit="steps"))
        assert found == f"Expected tau_0 to be a finite number > 0 [steps]. Received: tau_0={value!r}"
    found = message(lambda: checks.number("lambda_tr", -1e-9, least=0))
    assert found == "Expected lambda_tr to be a finite number >= 0. Received: lambda_tr=-1e-09"
    found = message(lambda: checks.number("x", 0.25, above=0.5))
    assert found == "Expected x to be a finite number > 0.5. Received: x=0.25"


def test_share():
    for value in (0, 1, 0.25, np.float64(0.25)):
        found = checks.share("relaxation", value)
        assert found == value and type(found) is float
    for value in (-0.1, 1.5, float("nan"), True, "0.5", None):
        found = message(lambda value=value: checks.share("relaxation", value))
        assert found == f"Expected relaxation in [0, 1]. Received: relaxation={value!r}"


def test_one_of():
    assert checks.one_of("mode", "clock", ("event", "clock")) == "clock"
    assert checks.one_of("platform", "loihi", {"truenorth": 1, "loihi": 2}) == "loihi"
    found = message(lambda: checks.one_of("mode", "both", ["event", "clock"]))
    assert found == "Expected mode to be one of ('event', 'clock'). Received: mode='both'"


def test_batch():
    assert checks.batch(7) == 7
    for value in (0, -1, 2.5):
        found = message(lambda value=value: checks.batch(value))
        assert found == f"Expected batch_size to be an integer >= 1 [samples]. Received: batch_size={value!r}"


@pytest.mark.parametrize("dtype", checks.DTYPES)
def test_inputs(dtype):
    found = checks.inputs([[0, 1, 2], [3, 4, 5]], (3,), dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])


def test_wrong_inputs():
    x = np.zeros((2, 8, 8, 1))
    expected = "Expected inputs of shape (samples, 8, 8, 1). Received: shape "
    for wrong in (x[0], x[:0], x[:, 1:], x[..., 0]):
        assert message(lambda wrong=wrong: checks.inputs(wrong, (8, 8, 1), "float32")) == f"{expected}{wrong.shape}"
    assert message(lambda: checks.inputs(x, (3,), "float32")) == (
        "Expected inputs of shape (samples, 3,). Received: shape (2, 8, 8, 1)"
    )
    found = message(lambda: checks.inputs(x, (8, 8, 1), "float16"))
    assert found == "Expected dtype to be one of ('float32', 'float64'). Received: dtype='float16'"
    for value in (np.nan, np.inf):
        wrong = x.copy()
        wrong[1, 2, 3] = value
        found = message(lambda wrong=wrong: checks.inputs(wrong, (8, 8, 1), "float64"))
        assert found == "Expected finite inputs. Received: NaN or infinite ones"
