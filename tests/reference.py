"""Independent float64 closed forms of the paper's equations, in NumPy. Imports nothing of keras_ttfs."""

import decimal

import numpy as np


def spike_time(z, tau, t_d, time_window, rounding="ceil"):
    z = np.asarray(z, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = t_d - tau * np.log(np.where(z > 0, z, 0.0))
    t = np.ceil(exact) if rounding == "ceil" else np.ceil(exact - 0.5)
    return np.clip(t, 0, time_window)


def level(t, tau, t_d, time_window):
    t = np.asarray(t, np.float64)
    return np.where(t >= time_window, 0.0, np.exp(-(t - t_d) / tau))


def gradients(z, tau, t_d, time_window, rounding, kernel_gradient):
    """d z_hat / d (z, tau, t_d), per element."""
    t = spike_time(z, tau, t_d, time_window, rounding)
    z_hat = level(t, tau, t_d, time_window)
    inside = (t < time_window) & (z <= np.exp(t_d / tau))
    safe = np.where(inside, z, 1.0)
    dz = np.where(inside, z_hat / safe, 0.0)
    dtau = z_hat * (t - t_d) / tau**2
    dt_d = z_hat / tau
    if kernel_gradient == "full":
        dtau = dtau + np.where(inside, z_hat / tau * np.log(safe), 0.0)
        dt_d = dt_d - np.where(inside, z_hat / tau, 0.0)
    return dz, dtau, dt_d


def exact_thresholds(tau, t_d, time_window, shift=0):
    """exp(-(t + shift - t_d) / tau) to 50 digits, of the very floats given."""
    with decimal.localcontext() as context:
        context.prec = 50
        tau, t_d, shift = decimal.Decimal(tau), decimal.Decimal(t_d), decimal.Decimal(shift)
        return [((t_d - t - shift) / tau).exp() for t in range(time_window)]


def pruning_probability(gamma, beta, z_min):
    """The integral of Eq. 8 by Gauss-Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    x = (z_min - beta) / 2 * nodes + (z_min + beta) / 2
    return (z_min - beta) / 2 * np.sum(weights * (1 - (gamma * x + beta) ** 2 / 2))
