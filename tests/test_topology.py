"""Which encoder follows which batch normalisation, and which encodes the input: counts of every kind of model."""

import keras
import numpy as np
import pytest

from keras_ttfs import (
    RelaxationSchedule,
    TemporalKernelDecode,
    TemporalKernelHistory,
    TKBatchNorm,
    TTFSActivation,
    TTFSEncode,
    TTFSModel,
    quantization_report,
)
from keras_ttfs.snn import SpikingNetwork
from keras_ttfs.topology import layers_of

L = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.random.default_rng(0).uniform(size=(24, 8, 8, 1)).astype("float32")
Y = np.arange(24) % 10


def evaluated(model, x=X):
    model.compile("sgd", LOSS)
    return model.evaluate(x, Y[: len(x)], batch_size=7, verbose=0, return_dict=True)


def nested_block_with_an_encoder_first(inputs):
    x = L.Conv2D(4, 3)(TTFSActivation()(inputs))
    return keras.Sequential([keras.Input((6, 6, 4)), TTFSActivation(), L.Flatten(), L.Dense(10)])(x)


def encoder_in_a_block(inputs):
    x = keras.Sequential([keras.Input((8, 8, 1)), L.ZeroPadding2D(), TTFSActivation()])(inputs)
    return L.Dense(10)(L.Flatten()(x))


def normalised_input(inputs):
    return L.Dense(10)(L.Flatten()(TTFSActivation()(TKBatchNorm()(inputs))))


def pooled_input(inputs):
    return L.Dense(10)(L.Flatten()(TTFSActivation()(L.AveragePooling2D(2)(inputs))))


def shared_encoder(inputs):
    encode = TTFSActivation()
    x = L.Conv2D(4, 3)(TTFSActivation()(inputs))
    return L.Dense(10)(L.Flatten()(encode(L.Conv2D(4, 3, padding="same")(encode(x)))))


def shared_encoder_of_several_shapes(inputs):
    encode = TTFSActivation()
    x = encode(L.Dense(16)(L.Flatten()(TTFSActivation()(inputs))))
    return L.Dense(10)(encode(L.Dense(4)(x)))


def block_of_any_size(inputs):
    block = keras.Sequential([keras.Input((None, None, 1)), L.Conv2D(2, 3), TTFSActivation()])
    return L.Dense(10)(L.Flatten()(block(TTFSActivation()(inputs))))


def block_called_by_keyword(inputs):
    block = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(2, 3), TKBatchNorm(), TTFSActivation()])
    return L.Dense(10)(L.Flatten()(block(inputs=TTFSActivation()(inputs))))


def shared_block(inputs):
    block = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(1, 3, padding="same"), TTFSActivation()])
    return L.Dense(10)(L.Flatten()(block(block(TTFSActivation()(inputs)))))


def pooled_by_unequal_strides(inputs):
    x = L.AveragePooling2D((2, 1))(TTFSActivation()(inputs))
    x = L.AveragePooling2D((3, 2), strides=(1, 2), padding="same")(TTFSActivation()(L.Conv2D(3, 3)(x)))
    return L.Dense(10)(L.Flatten()(x))


@pytest.mark.parametrize(
    "make",
    [
        nested_block_with_an_encoder_first, encoder_in_a_block, normalised_input, pooled_input, shared_encoder,
        shared_encoder_of_several_shapes, block_of_any_size, block_called_by_keyword, shared_block,
        pooled_by_unequal_strides,
    ],
)  # fmt: skip
def test_a_model_counts_as_its_spiking_network(make):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    model = TTFSModel(inputs, make(inputs))
    logs = evaluated(model)
    network = SpikingNetwork.from_model(model)
    result = network.run(X)
    assert model.neurons == network.neurons
    assert logs["spikes"] == pytest.approx(result.hidden_spikes, rel=1e-12)
    assert logs["input_spikes"] == pytest.approx(sum(result.spikes[name] for name in result.input_encoders), rel=1e-12)
    assert logs["spikes_per_neuron"] == pytest.approx(result.hidden_spikes / network.neurons, rel=1e-12)
    assert sum(result.spikes.values()) > 0


def test_augmentation_before_the_encoder_of_the_input():
    inputs = keras.Input((8, 8, 1))
    x = keras.Sequential([L.RandomFlip(), L.Rescaling(0.5)])(inputs)
    model = TTFSModel(inputs, L.Dense(10)(L.Flatten()(TTFSActivation()(x))))
    logs = evaluated(model)
    assert (logs["spikes"], model.neurons) == (0, 74) and logs["input_spikes"] > 0


def test_weights_of_any_kind_make_what_follows_hidden():
    inputs = keras.Input((8, 8))
    model = TTFSModel(inputs, L.Dense(10)(TTFSActivation()(L.LSTM(6)(inputs))))
    logs = evaluated(model, X[..., 0])
    assert logs["input_spikes"] == 0 and model.neurons == 64 + 6 + 10


def test_averages_and_sums_of_the_input_make_what_follows_hidden():
    inputs = keras.Input((8, 8))
    for x in (L.AveragePooling1D(2)(inputs), inputs + inputs, L.Subtract()([inputs, inputs])):
        model = TTFSModel(inputs, L.Dense(10)(L.Flatten()(TTFSActivation()(x))))
        assert evaluated(model, X[..., 0])["input_spikes"] == 0
        assert model.neurons == 64 + np.prod(x.shape[1:]) + 10


def test_an_encoder_of_the_input_and_of_hidden_values_counts_as_hidden():
    inputs = keras.Input((8,))
    encode = TTFSActivation()
    model = TTFSModel(inputs, L.Dense(10)(encode(L.Dense(6)(encode(inputs)))))
    logs = evaluated(model, X[:, 0, :, 0])
    assert model.neurons == 8 + 8 + 6 + 10 and logs["input_spikes"] == 0
    assert logs["spikes_per_neuron"] == pytest.approx(logs["spikes"] / model.neurons, rel=1e-12)


def test_an_encoder_outside_the_graph_counts_as_hidden():
    class Beyond(TTFSModel):
        def __init__(self):
            inputs = keras.Input((8,))
            super().__init__(inputs, L.Dense(10)(inputs))
            self.beyond = TTFSActivation()

        def call(self, x, training=False):
            return self.beyond(super().call(x, training=training), training=training)

    logs = evaluated(Beyond(), X[:, 0, :, 0])
    assert logs["input_spikes"] == 0 and logs["spikes"] > 0


def test_other_inferences_are_not_counted():
    inputs = keras.Input((8, 8, 1))
    model = TTFSModel(inputs, L.Dense(10)(L.Flatten()(TTFSActivation()(inputs))))
    spikes = evaluated(model)["input_spikes"]

    class Looks(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            self.model(X)

    logs = model.evaluate(X, Y, batch_size=7, verbose=0, callbacks=[Looks()], return_dict=True)
    assert logs["input_spikes"] == spikes


def test_a_test_step_of_ones_own_counts_nothing():
    class Own(WithInputs):
        def test_step(self, data):
            x, y = data
            return self.compute_metrics(x, y, self(x, training=False))

    model = Own(units=10)
    model.compile("sgd", LOSS, metrics=["accuracy"])
    assert "spikes" not in model.evaluate(X, Y, verbose=0, return_dict=True)


def names(model):
    return {(norm.name, encoder.name) for norm, encoder in model.batch_norm_pairs()}


def test_pairs_cross_the_borders_of_blocks_and_not_those_of_calls():
    inputs = keras.Input((8, 8, 1))
    pool = L.MaxPooling2D(1)
    ends = keras.Sequential([L.Conv2D(2, 3), TKBatchNorm(name="one")], name="ends")
    begins = keras.Sequential([L.Dropout(0.1), TTFSActivation(name="b"), L.Conv2D(2, 3), TKBatchNorm(name="two")])
    x = TTFSActivation(name="a")(pool(ends(inputs)))
    x = TKBatchNorm(name="zero")(L.Conv2D(2, 1)(x))
    x = begins(pool(x))
    model = TTFSModel(inputs, L.Dense(10)(L.Flatten()(TTFSActivation(name="c")(x))))
    assert names(model) == {("one", "a"), ("zero", "b"), ("two", "c")}


def test_a_block_of_several_inputs_called_with_their_names():
    ends = [keras.Input((6,), name=name) for name in ("b", "a")]
    block = keras.Model(ends, [TTFSActivation(name=f"of_{end.name}")(end) for end in ends])
    inputs = keras.Input((8,))
    norms = {name: TKBatchNorm(name=f"norm_{name}")(L.Dense(6)(inputs)) for name in ("a", "b")}
    model = TTFSModel(inputs, L.Add()(block(norms)))
    assert names(model) == {("norm_a", "of_a"), ("norm_b", "of_b")}


def pooled_before_and_behind(inputs):
    x = TTFSActivation(name="a")(L.MaxPooling2D()(TKBatchNorm(name="one")(L.Conv2D(2, 3)(TTFSActivation()(inputs)))))
    x = L.MaxPooling2D(1)(TTFSActivation(name="b")(TKBatchNorm(name="two")(L.Conv2D(3, 2)(x))))
    x = L.GlobalMaxPooling2D()(L.MaxPooling2D(2, 1)(TKBatchNorm(name="three")(L.Conv2D(4, 1)(x))))
    return L.Dense(10)(TTFSActivation(name="c")(L.Dropout(0.1)(x)))


def test_neurons_membranes_and_pairs_of_windows():
    inputs = keras.Input((8, 8, 1))
    block = keras.Model(inputs, pooled_before_and_behind(inputs))
    outer = keras.Input((8, 8, 1))
    for model in (TTFSModel(inputs, block.output), TTFSModel(outer, block(outer))):
        assert names(model) == {("one", "a"), ("two", "b"), ("three", "c")}
        assert model.neurons == 64 + 3 * 3 * 2 + 2 * 2 * 3 + 4 + 10
        assert model.membranes == 64 + 6 * 6 * 2 + 2 * 2 * 3 + 2 * 2 * 4 + 10
        network = SpikingNetwork.from_model(model)
        assert (network.neurons, network.membranes) == (model.neurons, model.membranes)
        assert evaluated(model)["spikes"] == pytest.approx(network.run(X, verbose=0).hidden_spikes, rel=1e-12)


def test_pooling_of_spikes_and_of_the_input_makes_no_windows():
    inputs = keras.Input((8, 8, 1))
    x = TTFSEncode(name="first")(L.MaxPooling2D()(inputs))
    x = TTFSActivation()(L.MaxPooling2D()(TemporalKernelDecode()(x)))
    model = TTFSModel(inputs, L.Dense(10)(L.Flatten()(x)))
    assert model.membranes == model.neurons


class Blocks(TTFSModel):
    """A subclassed model of blocks, the last of them built by its first call."""

    def __init__(self):
        super().__init__()
        self.code = TTFSActivation(name="code")
        self.input_encoders = [self.code]
        self.norm = TKBatchNorm(name="norm")
        self.block = keras.Sequential(
            [keras.Input((8, 8, 1)), TTFSActivation(name="first"), L.Conv2D(2, 3), TKBatchNorm(name="inner"),
             L.MaxPooling2D(), TTFSActivation(name="second")]
        )  # fmt: skip
        self.lazy = keras.Sequential([L.Flatten(), L.Dense(5), TKBatchNorm(name="late"), TTFSActivation(name="third")])
        self.head = L.Dense(10)

    def call(self, x, training=False):
        x = self.norm(self.code(x, training=training), training=training)
        return self.head(self.lazy(self.block(x, training=training), training=training))


def test_blocks_of_a_subclassed_model():
    model = Blocks()
    logs = evaluated(model)
    assert names(model) == {("norm", "first"), ("inner", "second"), ("late", "third")}
    assert logs["input_spikes"] == np.count_nonzero(model.code(X)) / 24
    neurons = 64 + 64 + 18 + 5 + 10
    assert logs["spikes_per_neuron"] == pytest.approx(logs["spikes"] / neurons)


def test_images_of_any_size():
    inputs = keras.Input((None, None, 1))
    x = L.Conv2D(4, 3, padding="same")(TTFSActivation()(inputs))
    model = TTFSModel(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(TTFSActivation()(x))))
    for x in (X, X[:, :4, :4], X):
        logs = evaluated(model, x)
        neurons = x[0].size * 5 + 10
        assert logs["spikes_per_neuron"] == pytest.approx(logs["spikes"] / neurons, rel=1e-12)
    with pytest.raises(ValueError, match="Expected fixed shapes. Received: .* inputs of shape"):
        model.neurons  # noqa: B018


class WithInputs(TTFSModel):
    def __init__(self, units=3, **kwargs):
        inputs = keras.Input((8, 8, 1))
        super().__init__(inputs, L.Dense(units)(L.Flatten()(TTFSActivation()(inputs))), **kwargs)


def test_functional_subclasses_leave_other_subclasses_alone():
    model = WithInputs(lambda_tr=0.5)
    assert model.lambda_tr == 0.5 and model(X).shape == (24, 3) and model.neurons == 67
    assert "fit" in dir(model) and evaluated(Blocks())["loss"] > 0
    assert WithInputs(units=4)(X).shape == (24, 4)


@pytest.mark.parametrize("kind", [keras.Sequential, TTFSModel])
def test_relaxation_of_layers_that_the_first_batch_builds(kind):
    layers = [TTFSActivation(), L.Flatten(), L.Dense(10), TTFSActivation(), L.Dense(10)]
    model = keras.Sequential(layers) if kind is keras.Sequential else Blocks()
    model.compile("sgd", LOSS)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            found = layers_of(model, TTFSActivation)
            seen.append({float(layer.relaxation) for layer in found})

    model.fit(X, Y, epochs=3, verbose=0, callbacks=[RelaxationSchedule(2), Watch()])
    assert seen == [{0.5}, {0.0}, {0.0}]


def test_layers_of_one_name_in_several_blocks():
    def block(name):
        layers = [L.Conv2D(1, 3, padding="same"), TKBatchNorm(name="n"), TTFSActivation(name="a")]
        return keras.Sequential([keras.Input((8, 8, 1)), *layers], name=name)

    inputs = keras.Input((8, 8, 1))
    first, second = block("one"), block("two")
    model = TTFSModel(inputs, L.Dense(10)(L.Flatten()(second(first(inputs)))))
    second.get_layer("n").gamma.assign([0.25])
    assert [row.layer for row in quantization_report(model, X)] == ["a", "a_1"]
    opaque = keras.Input((8, 8, 1))
    with pytest.raises(ValueError, match="Received: layer 'blocks"):
        quantization_report(TTFSModel(opaque, Blocks()(TTFSActivation()(opaque))), X)
    history = TemporalKernelHistory(X)
    history.set_model(model)
    history.on_epoch_end(0)
    gamma = dict(zip(history.arrays()["layer"], history.arrays()["gamma_mean"][0]))
    assert sorted(gamma) == ["a", "a_1"] and sorted(gamma.values()) == [0.25, 1.0]
    errors = history.arrays()["minimum_error"][0]
    assert errors[0] != errors[1]
