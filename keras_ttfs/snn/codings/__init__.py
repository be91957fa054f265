"""Codings of ReLU activations as spikes: one file each, one simulator (`CodedNetwork`) for all.

`CodedNetwork.from_model(relu_model, RateCoding(), training_images).run(images)`. How to add one: `codings/coding.py`.
"""

from keras_ttfs.snn.codings.burst import BurstCoding
from keras_ttfs.snn.codings.coding import Coding
from keras_ttfs.snn.codings.phase import PhaseCoding
from keras_ttfs.snn.codings.rate import RateCoding
from keras_ttfs.snn.codings.temporal_switch import TemporalSwitchCoding

__all__ = ["BurstCoding", "Coding", "PhaseCoding", "RateCoding", "TemporalSwitchCoding"]
