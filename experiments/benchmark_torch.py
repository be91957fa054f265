"""The same VGG-16 in PyTorch, as ReLU network and as SpikingJelly's integrate-and-fire network, for the benchmark.

Neither package is a dependency: `training_steps` returns those of what is installed.
"""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

# Otherwise PyTorch's idle threads spin, and slow down what runs in turn with it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def versions() -> dict[str, str]:
    """`{package: version}` of PyTorch and SpikingJelly, where they are installed."""
    found = {}
    for package in ("torch", "spikingjelly"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def training_steps(width: float, batch_size: int, half: bool, time_steps: int = 4) -> dict[str, Callable[[], float]]:
    """`{name: function that does one training step}`, empty without PyTorch."""
    try:
        import torch
    except ImportError:
        return {}
    images = torch.rand(batch_size, 3, 32, 32)
    labels = torch.randint(10, (batch_size,))
    channels_last = images.to(memory_format=torch.channels_last)
    relu = _vgg16(torch.nn, torch.nn.ReLU, width).to(memory_format=torch.channels_last)
    found = {"PyTorch ReLU": _training_step(torch, relu, lambda: relu(channels_last), labels, half)}
    with contextlib.suppress(ImportError):
        from spikingjelly.activation_based import functional, layer, neuron

        spiking = _vgg16(layer, neuron.IFNode, width)
        functional.set_step_mode(spiking, "m")

        def rates():
            functional.reset_net(spiking)
            return spiking(images.expand(time_steps, -1, -1, -1, -1)).mean(0)

        found[f"SpikingJelly IF, T = {time_steps}"] = _training_step(torch, spiking, rates, labels, half)
    return found


def _vgg16(kinds: ModuleType, activation: type, width: float) -> Any:
    import torch

    from keras_ttfs.applications import VGG16_BLOCKS, VGG16_DENSE

    layers, channels = [], 3
    for block in VGG16_BLOCKS:
        for filters in block:
            filters = max(1, round(width * filters))
            layers += [kinds.Conv2d(channels, filters, 3, padding=1, bias=False), kinds.BatchNorm2d(filters)]
            layers.append(activation())
            channels = filters
        layers.append(kinds.MaxPool2d(2))
    layers.append(kinds.Flatten())
    for units in VGG16_DENSE:
        units = max(1, round(width * units))
        layers += [kinds.Linear(channels, units, bias=False), kinds.BatchNorm1d(units), activation()]
        channels = units
    return torch.nn.Sequential(*layers, kinds.Linear(channels, 10))


def _training_step(
    torch: ModuleType, network: Any, logits: Callable[[], Any], labels: Any, half: bool
) -> Callable[[], float]:
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = torch.nn.functional.cross_entropy(logits(), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
