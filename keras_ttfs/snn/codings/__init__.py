"""Codings of ReLU activations as spikes, for conversion: one file each, one simulator (`CodedNetwork`) for all."""

from keras_ttfs.snn.codings.burst import BurstCoding
from keras_ttfs.snn.codings.coding import Coding
from keras_ttfs.snn.codings.phase import PhaseCoding
from keras_ttfs.snn.codings.rate import RateCoding
from keras_ttfs.snn.codings.temporal_switch import TemporalSwitchCoding

__all__ = ["BurstCoding", "Coding", "PhaseCoding", "RateCoding", "TemporalSwitchCoding"]
