"""Energy of a spiking network from its spikes and time steps, normalised as Table 2 of the paper."""

# (E_d, E_s): dynamic and static share, of TrueNorth (Merolla et al. 2014) and SpiNNaker (Furber et al. 2014) as used by
# Park et al. 2020 (T2FSNN); they give every energy cell of Table 2.
COEFFICIENTS = {"truenorth": (0.4, 0.6), "spinnaker": (0.64, 0.36)}
# (spikes per sample, time steps) of TSC coding (Han & Roy 2020), Table 2's reference.
TSC_CIFAR10 = (0.193e6, 512)
TSC_CIFAR100 = (0.170e6, 512)


def normalized_energy(spikes, time_steps, platform="truenorth", reference=TSC_CIFAR10):
    """Energy relative to a reference network: `E = E_d * S / S_ref + E_s * L / L_ref` [1].

    >>> round(normalized_energy(0.067e6, 544), 2)
    0.78

    Args:
        spikes: float >= 0: S per sample, hidden layers.
        time_steps: int >= 1: L [steps].
        platform: `"truenorth"` or `"spinnaker"`.
        reference: `(spikes, time_steps)` of the network that has energy 1.

    Raises:
        ValueError: "Expected platform to be one of ... Received: ...".

    Reference: section 6.2, Table 2.
    """
    if platform not in COEFFICIENTS:
        raise ValueError(f"Expected platform to be one of {tuple(COEFFICIENTS)}. Received: platform={platform!r}")
    dynamic, static = COEFFICIENTS[platform]
    return dynamic * spikes / reference[0] + static * time_steps / reference[1]
