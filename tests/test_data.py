"""Data sets and the training pipeline: order, shifts, flips, squares; what a resumed run sees."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from experiments import data as data_module
from experiments import train
from experiments.config import Config
from experiments.data import Augmentation


def batches(initial_epoch=0, augment=True, seed=3):
    data = data_module.load("digits")
    augmentation = Augmentation() if augment else None
    stream = data_module.training_batches(data, 64, 3, seed, augmentation=augmentation, initial_epoch=initial_epoch)
    return [(x.numpy(), y.numpy()) for x, y in stream]


def test_batches_depend_on_seed_and_epoch_alone():
    whole, resumed = batches(), batches(initial_epoch=2)
    steps = len(whole) // 3
    assert steps == 1257 // 64
    for (x, y), (resumed_x, resumed_y) in zip(whole[2 * steps :], resumed, strict=True):
        np.testing.assert_array_equal(x, resumed_x)
        np.testing.assert_array_equal(y, resumed_y)
    assert not np.array_equal(whole[0][1], whole[steps][1])
    assert not np.array_equal(whole[0][1], batches(seed=4)[0][1])


def test_an_epoch_holds_every_image_at_most_once():
    images = np.concatenate([x for x, _ in batches(augment=False)[:19]])
    train = data_module.scale(data_module.load("digits").train.images).numpy()
    key = {image.tobytes() for image in train}
    assert {image.tobytes() for image in images} <= key
    assert len({image.tobytes() for image in images}) == len({i.tobytes() for i in images})
    assert images.min() == 0.0 and images.max() == 1.0


def drawn_images():
    """Colour images of nothing in particular, as training data that may be flipped."""
    images = np.random.default_rng(0).integers(0, 256, (200, 32, 32, 3)).astype("uint8")
    split = data_module.Split(images, np.arange(200, dtype="int32"))
    return data_module.Data(split, split, lambda: split, classes=10, description="", flip=True, padding=4)


def digest(stream):
    found = hashlib.sha256()
    for x, y in stream:
        found.update(x.numpy().tobytes())
        found.update(y.numpy().tobytes())
    return found.hexdigest()


def test_default_batches_are_those_of_version_0_8():
    """Committed results were made with them. The digests are of the version before there was `Augmentation`."""
    stream = data_module.training_batches(data_module.load("digits"), 64, 3, 3)
    assert digest(stream) == "e17c1ccf77104c5a61332b87b42ee9027fe709fe845263bce17d8266ec89bf57"
    stream = data_module.training_batches(drawn_images(), 32, 2, 5)
    assert digest(stream) == "96b8535f50e1ed3c345dbe06bc55994f2aa9c61ae1ea02a08ab0ddf7637293fc"
    stream = data_module.training_batches(drawn_images(), 32, 2, 5, initial_epoch=1)
    assert digest(stream) == "4f3bc8ab14628eb49bade7c0c9a85843902913d2dba80e7ae0f328644632469a"
    assert train.augmentation_of(Config()) == Augmentation() and train.augmentation_of(Config(augment=False)) is None


@pytest.mark.parametrize(("border", "mode"), [("zeros", "constant"), ("reflect", "reflect")])
def test_augmentation_shifts_and_flips(border, mode):
    images = np.arange(1, 1 + 6 * 7 * 2, dtype="uint8").reshape(1, 6, 7, 2).repeat(400, axis=0)
    flipped = tf.range(400) % 3 == 0
    made = data_module._shift_and_flip(tf.constant(images), tf.constant([1, 2]), 2, border, flipped).numpy()
    padded = np.pad(images[0], [(2, 2), (2, 2), (0, 0)], mode=mode)
    crops = {}
    for row in range(5):
        for column in range(5):
            crop = padded[row : row + 6, column : column + 7]
            crops.setdefault(crop.tobytes(), (row, column, False))
            crops.setdefault(crop[:, ::-1].tobytes(), (row, column, True))
    assert len(crops) == 50
    seen = [crops[image.tobytes()] for image in made]
    assert {row for row, _, _ in seen} == {column for _, column, _ in seen} == set(range(5))
    assert [is_flipped for _, _, is_flipped in seen] == list(flipped.numpy())


def test_half_of_the_images_are_flipped_at_random():
    flipped = np.concatenate([data_module._half(100, tf.constant([3, number])) for number in range(10)])
    assert 430 < flipped.sum() < 570


def epochs_of(augmentation, epochs=4, initial_epoch=0, batch_size=64):
    """`{label: image}` of each epoch; the labels of `drawn_images` number the images."""
    stream = data_module.training_batches(
        drawn_images(), batch_size, epochs, 5, augmentation=augmentation, initial_epoch=initial_epoch
    )
    steps, found = 200 // batch_size, []
    for number, (x, y) in enumerate(stream):
        if number % steps == 0:
            found.append({})
        found[-1].update(zip(y.numpy(), np.round(x.numpy() * 255).astype("uint8")))
    return found


def test_alternating_flips_show_every_image_both_ways():
    images = drawn_images().train.images
    epochs = epochs_of(Augmentation(flip="alternating", translation=0), batch_size=50)
    begins = {}
    for number, epoch in enumerate(epochs):
        assert len(epoch) == 200
        for label, image in epoch.items():
            flipped = np.array_equal(image, images[label][:, ::-1])
            assert flipped or np.array_equal(image, images[label])
            assert flipped == begins.setdefault(label, flipped) ^ (number % 2 == 1)
    assert 70 < sum(begins.values()) < 130


def test_every_augmentation_depends_on_seed_and_batch_alone():
    for augmentation in (
        Augmentation(flip="alternating", translation=2, border="reflect", cutout=5),
        Augmentation(cutout=8),
    ):
        whole, resumed = epochs_of(augmentation), epochs_of(augmentation, initial_epoch=3)
        assert len(resumed) == 1 and whole[3].keys() == resumed[0].keys()
        for label, image in resumed[0].items():
            np.testing.assert_array_equal(image, whole[3][label])


def test_cutout_paints_a_square_in_the_mean_colour():
    images = drawn_images().train.images
    colour = np.round(images.reshape(-1, 3).mean(axis=0)).astype("uint8")
    np.testing.assert_array_equal(data_module._mean_colour(images), colour)
    for size in (4, 5):
        made = data_module._cut_out(tf.constant(images), tf.constant([1, 2]), size, colour + 1).numpy()
        changed = (made != images).any(axis=-1)
        assert (made[changed] == colour + 1).all()
        heights, widths = changed.any(axis=2).sum(axis=1), changed.any(axis=1).sum(axis=1)
        # A pixel may have had that colour.
        assert heights.max() == widths.max() == size and (heights == size).mean() > 0.7
        assert min(heights.min(), widths.min()) < size, "the border of the image cuts some squares"
        assert len({tuple(np.argwhere(mask)[0]) for mask in changed}) > 100
        filled = [mask[np.ix_(mask.any(axis=1), mask.any(axis=0))].mean() for mask in changed]
        assert np.mean(filled) > 0.99


def test_too_large_shifts_and_squares_are_refused():
    data = drawn_images()
    assert Augmentation().of(data).translation == 4 and Augmentation(translation=0).of(data).translation == 0
    with pytest.raises(
        ValueError, match="Expected translation <= 31 pixels, for images of 32. Received: translation=32"
    ):
        data_module.training_batches(data, 8, 1, 0, augmentation=Augmentation(translation=32))
    with pytest.raises(ValueError, match="Expected cutout <= 32 pixels, for images of 32. Received: cutout=33"):
        Augmentation(cutout=33).of(data)


def test_digits_splits_are_disjoint_and_stratified():
    data = data_module.load("digits")
    test = data.test()
    assert (len(data.train), len(data.validation), len(test)) == (1257, 180, 360)
    assert np.ptp(np.bincount(test.labels)) <= 2


def test_other_numbers_of_validation_images_are_the_last_ones(monkeypatch):
    images, labels = np.arange(100, dtype="uint8").reshape(100, 1, 1, 1), np.arange(100, dtype="int32")
    parts = [data_module.Split(images[part], labels[part]) for part in (slice(90), slice(90, 100))]
    cifar = data_module.Data(*parts, lambda: parts[1], 10, "fake", True, 4)
    monkeypatch.setattr(data_module, "_load_cifar", lambda *arguments: cifar)
    for held_back, first in ((3, 0), (25, 0), (25, 7)):
        data = data_module.load("cifar10", train_images=first, validation_images=held_back)
        kept = first or 100 - held_back
        np.testing.assert_array_equal(data.train.labels, np.arange(kept))
        np.testing.assert_array_equal(data.validation.images.ravel(), np.arange(100 - held_back, 100))
    assert len(data_module.load("cifar10").validation) == 10
    with pytest.raises(ValueError, match="Expected validation_images < 100. Received: validation_images=100"):
        data_module.load("cifar10", validation_images=100)
    with pytest.raises(ValueError, match="Expected validation_images=0 on digits. Received: validation_images=9"):
        data_module.load("digits", validation_images=9)
