"""Data sets in memory, and a training pipeline whose every batch depends on the seed and the batch's number alone."""

import dataclasses
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

VALIDATION = {"digits": 180, "cifar10": 5000, "cifar100": 5000}
# Digits have no official test split: one fixed, stratified draw.
DIGITS_TEST = 360


@dataclasses.dataclass(frozen=True)
class Split:
    """uint8 images `(n, height, width, channels)` and int labels `(n,)`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """The first `count` images; all if 0."""
        return Split(self.images[: count or None], self.labels[: count or None])


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set: training and validation splits, and `test`, which loads the test split.

    A run calls `test` once, at its end.
    """

    train: Split
    validation: Split
    test: Callable[[], Split]
    classes: int
    description: str
    flip: bool
    padding: int


def load(name: str, data_dir: str | None = None, download: bool = False, train_images: int = 0) -> Data:
    """Loads `digits`, `cifar10` or `cifar100`, with the first `train_images` of the training split; with all if 0."""
    if data_dir is not None and not (data_dir and (os.path.isdir(data_dir) or not os.path.lexists(data_dir))):
        raise FileExistsError(f"Expected --data_dir to be a directory. Received: --data_dir={data_dir!r}")
    data = _load_digits() if name == "digits" else _load_cifar(name, data_dir, download)
    if train_images > len(data.train):
        raise ValueError(f"Expected train_images <= {len(data.train)}. Received: train_images={train_images}")
    return dataclasses.replace(data, train=data.train.first(train_images))


def _load_digits() -> Data:
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError("--dataset=digits needs scikit-learn: pip install 'keras-ttfs[experiments]'") from error
    digits = datasets.load_digits()
    # Intensities are 0..16.
    images = np.round(digits.images * (255 / 16)).astype("uint8")[..., None]
    labels = digits.target.astype("int32")
    rest, test = model_selection.train_test_split(
        np.arange(len(labels)), test_size=DIGITS_TEST, stratify=labels, random_state=0
    )
    train, validation = model_selection.train_test_split(
        rest, test_size=VALIDATION["digits"], stratify=labels[rest], random_state=0
    )
    return Data(
        Split(images[train], labels[train]),
        Split(images[validation], labels[validation]),
        lambda: Split(images[test], labels[test]),
        classes=10,
        description="scikit-learn digits, 8x8, 1,257/180/360 images",
        flip=False,
        padding=1,
    )


def _load_cifar(name: str, data_dir: str | None, download: bool) -> Data:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"--dataset={name} needs tensorflow-datasets: pip install 'keras-ttfs[experiments]'"
        ) from error
    builder = tfds.builder(name, data_dir=data_dir)
    if download:
        try:
            builder.download_and_prepare()
        # All that a download can raise: tensorflow-datasets, requests and the file system have their own.
        except Exception as error:
            raise ConnectionError(
                f"Expected to download {name} to {builder.data_path}. Received: {type(error).__name__}: {error}. "
                "Prepare it elsewhere and pass --data_dir."
            ) from error
    try:
        train = _read(builder, "train")
    except (AssertionError, FileNotFoundError, ValueError) as error:
        raise FileNotFoundError(
            f"Expected {name}, prepared by tensorflow-datasets, under --data_dir. Received: "
            f"--data_dir={builder.data_dir_root}. Pass --download to fetch it (needs the internet), "
            "or train on digits: --flagfile=experiments/flagfiles/digits.flags."
        ) from error
    # A fixed shuffle first: the last 5,000 are the validation split.
    cut = len(train) - VALIDATION[name]
    return Data(
        Split(train.images[:cut], train.labels[:cut]),
        Split(train.images[cut:], train.labels[cut:]),
        lambda: _read(builder, "test"),
        classes=builder.info.features["label"].num_classes,
        description=_describe(builder),
        flip=True,
        padding=4,
    )


def _read(builder: Any, split: str) -> Split:
    dataset = builder.as_dataset(split=split, batch_size=1000, shuffle_files=False)
    parts = [(batch["image"].numpy(), batch["label"].numpy()) for batch in dataset]
    images, labels = (np.concatenate(column) for column in zip(*parts))
    order = np.random.default_rng(0).permutation(len(labels)) if split == "train" else slice(None)
    return Split(images[order], labels[order].astype("int32"))


def _describe(builder: Any) -> str:
    record = next(iter(builder.as_dataset(split="test[:1]")))["id"].numpy().decode()
    # The original's records are numbered (test_00001); those of the JPEG copy bear its files' names (test_cat_0993).
    copy = re.fullmatch(r"test_[a-z]+_\d+", record)
    return f"{builder.info.full_name}{' (JPEG copy)' if copy else ''}"


def scale(images: np.ndarray) -> tf.Tensor:
    """uint8 images as float32 intensities in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def batches_per_epoch(data: Data, batch_size: int) -> int:
    """Whole batches in the training images; raises ValueError where there is none."""
    if batch_size > len(data.train):
        raise ValueError(f"Expected batch_size <= {len(data.train)} training images. Received: batch_size={batch_size}")
    return len(data.train) // batch_size


def training_batches(
    data: Data, batch_size: int, epochs: int, seed: int, *, augment: bool = True, initial_epoch: int = 0
) -> tf.data.Dataset:
    """Batches `(images, labels)` of the epochs `initial_epoch..epochs-1`, one after the other.

    The order of an epoch depends on the seed and the epoch alone. The crop and flip of a batch depend on the seed and the
    batch's number alone. A run that resumes at epoch e therefore sees the batches of an uninterrupted one. The last,
    incomplete batch of an epoch is dropped.
    """
    size, count = len(data.train), batches_per_epoch(data, batch_size)
    images, labels = tf.constant(data.train.images), tf.constant(data.train.labels)

    def epoch_batches(epoch):
        epoch_seed = tf.stack([seed, tf.cast(epoch, tf.int32)])
        order = tf.random.experimental.stateless_shuffle(tf.range(size), seed=epoch_seed)
        order = tf.reshape(order[: count * batch_size], (count, batch_size))
        numbers = tf.cast(epoch, tf.int32) * count + tf.range(count)
        return tf.data.Dataset.from_tensor_slices((numbers, order))

    def batch(number, index):
        x = tf.gather(images, index)
        if augment:
            x = _pad_crop_flip(x, tf.stack([seed, number]), data.padding, data.flip)
        return scale(x), tf.gather(labels, index)

    dataset = tf.data.Dataset.range(initial_epoch, epochs).flat_map(epoch_batches)
    return dataset.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)


def _pad_crop_flip(images: tf.Tensor, seed: tf.Tensor, padding: int, flip: bool) -> tf.Tensor:
    """Zero-pads, crops each image at a random place, flips half of them. Vectorised and stateless."""
    shape = tf.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
    offsets = tf.random.stateless_uniform((2, batch), seed=seed, maxval=2 * padding + 1, dtype=tf.int32)
    rows = offsets[0][:, None] + tf.range(height)
    columns = offsets[1][:, None] + tf.range(width)
    if flip:
        flipped = tf.random.stateless_uniform((batch, 1), seed=seed + tf.constant([0, 1 << 30])) < 0.5
        columns = tf.where(flipped, tf.reverse(columns, [1]), columns)
    index = tf.stack(tf.broadcast_dynamic_shape(tf.shape(rows[:, :, None]), tf.shape(columns[:, None, :])))
    place = tf.stack([tf.broadcast_to(rows[:, :, None], index), tf.broadcast_to(columns[:, None, :], index)], axis=-1)
    return tf.gather_nd(padded, place, batch_dims=1)


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Batches of a split in order, scaled. The last one may be smaller."""
    dataset = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(batch_size)
    return dataset.map(lambda x, y: (scale(x), y)).prefetch(2)
