"""Data sets in memory, and a training pipeline whose every batch depends on the seed and the batch's number alone."""

import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

VALIDATION = {"digits": 180, "cifar10": 5000, "cifar100": 5000}
# Of the host that a data set is fetched from.
SECONDS_TO_ANSWER = 8
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


def load(
    name: str,
    data_dir: str | None = None,
    download: bool = False,
    train_images: int = 0,
    validation_images: int = 0,
) -> Data:
    """Loads `digits`, `cifar10` or `cifar100`.

    Args:
        name: of the data set.
        data_dir: where tensorflow-datasets keeps it.
        download: whether to fetch it.
        train_images: how many of the first training images there are [images]; 0: all.
        validation_images: how many images are held back from training, the last ones [images]; 0: `VALIDATION[name]`.
            Numbers other than 0 are for CIFAR, whose images stand in random order.
    """
    if data_dir is not None and not (data_dir and (os.path.isdir(data_dir) or not os.path.lexists(data_dir))):
        raise FileExistsError(f"Expected --data_dir to be a directory. Received: --data_dir={data_dir!r}")
    data = _load_digits() if name == "digits" else _load_cifar(name, data_dir, download)
    if validation_images:
        data = _split_again(data, name, validation_images)
    if train_images > len(data.train):
        raise ValueError(f"Expected train_images <= {len(data.train)}. Received: train_images={train_images}")
    return dataclasses.replace(data, train=data.train.first(train_images))


def _split_again(data: Data, name: str, validation_images: int) -> Data:
    """The same images with another number of them held back."""
    if name == "digits":
        raise ValueError(f"Expected validation_images=0 on digits. Received: validation_images={validation_images}")
    both = (data.train, data.validation)
    images, labels = (np.concatenate([getattr(split, part) for split in both]) for part in ("images", "labels"))
    cut = len(labels) - validation_images
    if cut < 1:
        raise ValueError(f"Expected validation_images < {len(labels)}. Received: validation_images={validation_images}")
    train, validation = Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    return dataclasses.replace(data, train=train, validation=validation)


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
    if download and not builder.is_prepared():
        try:
            if not _has_archive(pathlib.Path(builder.data_dir_root, "downloads"), name):
                _check_reachable(builder.info.homepage)
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
        root = builder.data_dir_root
        prepare = f"import tensorflow_datasets as t; t.builder('{name}', data_dir='{root}').download_and_prepare()"
        raise FileNotFoundError(
            f"Expected {name}, prepared by tensorflow-datasets, under --data_dir. Received: --data_dir={root}. Fill it where "
            f'there is internet: run python -c "{prepare}", or pass --download to a command that trains. Or train on '
            "digits: --flagfile=experiments/flagfiles/digits.flags."
        ) from error
    # `_read` has shuffled them: the last 5,000 are the validation split.
    cut = len(train) - VALIDATION[name]
    return Data(
        Split(train.images[:cut], train.labels[:cut]),
        Split(train.images[cut:], train.labels[cut:]),
        lambda: _read(builder, "test"),
        classes=builder.info.features["label"].num_classes,
        description=builder.info.full_name,
        flip=True,
        padding=4,
    )


def _has_archive(downloads: pathlib.Path, name: str) -> bool:
    """Whether the archive is there from an earlier time, whole: what is on its way is in a directory `...tmp...`."""
    found = downloads.rglob(f"*{name.replace('cifar', 'cifar-')}-*.tar.gz")
    return any(path.is_file() and ".tmp." not in str(path) for path in found)


def _check_reachable(address: str) -> None:
    """Raises soon where the host does not answer: tensorflow-datasets would try again and again, for minutes."""
    import requests

    found: list[Exception | None] = []

    def ask():
        try:
            answer = requests.head(address, timeout=SECONDS_TO_ANSWER)
            # Of a proxy that reaches nobody; a server may refuse the question itself.
            failed = answer.status_code >= 500
            found.append(ConnectionError(f"{answer.status_code} {answer.reason}") if failed else None)
        except requests.RequestException as error:
            found.append(error)

    # In a thread, because the time to look up a host's name has no limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER + 4)
    if error := found[0] if found else TimeoutError(f"no answer of {address}"):
        raise error


def _read(builder: Any, split: str) -> Split:
    dataset = builder.as_dataset(split=split, batch_size=1000, shuffle_files=False)
    parts = [(batch["image"].numpy(), batch["label"].numpy()) for batch in dataset]
    images, labels = (np.concatenate(column) for column in zip(*parts))
    order = np.random.default_rng(0).permutation(len(labels)) if split == "train" else slice(None)
    return Split(images[order], labels[order].astype("int32"))


def scale(images: np.ndarray) -> tf.Tensor:
    """uint8 images as float32 intensities in [0, 1]."""
    return tf.cast(images, tf.float32) / 255.0


def batches_per_epoch(data: Data, batch_size: int) -> int:
    """Whole batches in the training images; raises ValueError where there is none."""
    if batch_size > len(data.train):
        raise ValueError(f"Expected batch_size <= {len(data.train)} training images. Received: batch_size={batch_size}")
    return len(data.train) // batch_size


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How training images are changed, anew in each epoch.

    Attributes:
        flip: `"random"` flips half of the images; `"alternating"` flips each image in every second epoch, half of them in
            the first. Of data whose `flip` is False, none is flipped.
        translation: largest shift of an image [pixels]; -1: the data's `padding`.
        border: what shifts in, `"zeros"` or the `"reflect"`ed image.
        cutout: size of a square around a random pixel that gets the mean colour [pixels]; 0: none. What would be beyond
            the image is cut off.
    """

    flip: str = "random"
    translation: int = -1
    border: str = "zeros"
    cutout: int = 0

    def of(self, data: Data) -> "Augmentation":
        """The same with the shift in pixels. Raises ValueError where the data's images are too small for it."""
        shift = data.padding if self.translation == -1 else self.translation
        smallest = min(data.train.images.shape[1:3])
        for name, value, most in (("translation", shift, smallest - 1), ("cutout", self.cutout, smallest)):
            if value > most:
                raise ValueError(
                    f"Expected {name} <= {most} pixels, for images of {smallest}. Received: {name}={value}"
                )
        return dataclasses.replace(self, translation=shift)


def training_batches(
    data: Data,
    batch_size: int,
    epochs: int,
    seed: int,
    *,
    augmentation: Augmentation | None = Augmentation(),
    initial_epoch: int = 0,
) -> tf.data.Dataset:
    """Batches `(images, labels)` of the epochs `initial_epoch..epochs-1`, one after the other.

    The order of an epoch depends on the seed and the epoch alone. The augmentation of a batch depends on the seed and the
    batch's number alone; alternating flips depend on seed, epoch and image. A run that resumes at epoch e therefore sees
    the batches of an uninterrupted one. The last, incomplete batch of an epoch is dropped.
    """
    size, count = len(data.train), batches_per_epoch(data, batch_size)
    images, labels = tf.constant(data.train.images), tf.constant(data.train.labels)
    augmentation = augmentation and augmentation.of(data)
    alternates = data.flip and augmentation is not None and augmentation.flip == "alternating"
    # No epoch has this number.
    begins_flipped = tf.random.stateless_uniform((size,), seed=(seed, -1)) < 0.5 if alternates else None
    colour = _mean_colour(data.train.images) if augmentation and augmentation.cutout else None

    def epoch_batches(epoch):
        epoch_seed = tf.stack([seed, tf.cast(epoch, tf.int32)])
        order = tf.random.experimental.stateless_shuffle(tf.range(size), seed=epoch_seed)
        order = tf.reshape(order[: count * batch_size], (count, batch_size))
        numbers = tf.cast(epoch, tf.int32) * count + tf.range(count)
        return tf.data.Dataset.from_tensor_slices((numbers, order))

    def batch(number, index):
        x = tf.gather(images, index)
        if augmentation:
            batch_seed = tf.stack([seed, number])
            if alternates:
                flipped = tf.gather(begins_flipped, index) ^ (number // count % 2 == 1)
            else:
                flipped = _half(batch_size, batch_seed) if data.flip else None
            x = _shift_and_flip(x, batch_seed, augmentation.translation, augmentation.border, flipped)
            if augmentation.cutout:
                x = _cut_out(x, batch_seed, augmentation.cutout, colour)
        return scale(x), tf.gather(labels, index)

    dataset = tf.data.Dataset.range(initial_epoch, epochs).flat_map(epoch_batches)
    return dataset.map(batch, num_parallel_calls=2, deterministic=True).prefetch(4)


def _half(count: int, seed: tf.Tensor) -> tf.Tensor:
    """Which of so many images are flipped: half of them, at random."""
    return tf.random.stateless_uniform((count, 1), seed=seed + tf.constant([0, 1 << 30]))[:, 0] < 0.5


def _shift_and_flip(
    images: tf.Tensor, seed: tf.Tensor, most: int, border: str, flipped: tf.Tensor | None = None
) -> tf.Tensor:
    """Shifts each image at random, by at most `most` pixels in each direction, and flips those that are `flipped`.

    Vectorised and stateless.
    """
    shape = tf.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    mode = "REFLECT" if border == "reflect" else "CONSTANT"
    padded = tf.pad(images, [[0, 0], [most, most], [most, most], [0, 0]], mode=mode)
    offsets = tf.random.stateless_uniform((2, batch), seed=seed, maxval=2 * most + 1, dtype=tf.int32)
    rows = offsets[0][:, None] + tf.range(height)
    columns = offsets[1][:, None] + tf.range(width)
    if flipped is not None:
        columns = tf.where(flipped[:, None], tf.reverse(columns, [1]), columns)
    index = tf.stack(tf.broadcast_dynamic_shape(tf.shape(rows[:, :, None]), tf.shape(columns[:, None, :])))
    place = tf.stack([tf.broadcast_to(rows[:, :, None], index), tf.broadcast_to(columns[:, None, :], index)], axis=-1)
    return tf.gather_nd(padded, place, batch_dims=1)


def _mean_colour(images: np.ndarray) -> np.ndarray:
    """The mean of uint8 images in each channel, rounded."""
    return np.round(images.mean(axis=(0, 1, 2))).astype("uint8")


def _cut_out(images: tf.Tensor, seed: tf.Tensor, size: int, colour: np.ndarray) -> tf.Tensor:
    """Gives a square of `size` pixels around a random pixel of each image one colour. Vectorised and stateless."""
    batch, height, width, _ = images.shape
    inside = []
    # Apart from the seeds of shifts and flips.
    for length, offset in ((height, 1 << 28), (width, 1 << 29)):
        seeds = seed + tf.constant([0, offset])
        first = tf.random.stateless_uniform((batch,), seed=seeds, maxval=length, dtype=tf.int32) - size // 2
        place = tf.range(length)[None] - first[:, None]
        inside.append((place >= 0) & (place < size))
    rows, columns = inside
    return tf.where((rows[:, :, None] & columns[:, None, :])[..., None], tf.constant(colour), images)


def evaluation_batches(split: Split, batch_size: int) -> tf.data.Dataset:
    """Batches of a split in order, scaled. The last one may be smaller."""
    dataset = tf.data.Dataset.from_tensor_slices((split.images, split.labels)).batch(batch_size)
    return dataset.map(lambda x, y: (scale(x), y)).prefetch(2)
