"""Slow references of losses and projections, in plain Python."""

import math


def projected(probs, atoms, reward: float, discount: float) -> list[float]:
    """Projects a distribution by one Bellman step: Algorithm 1 of arXiv 1707.06887, in which the
    mass of an atom that is met exactly stays there (as printed, floor = ceil would lose it)."""
    gap = (atoms[-1] - atoms[0]) / (len(atoms) - 1)
    found = [0.0] * len(atoms)
    for p, z in zip(probs, atoms, strict=True):
        moved = min(max(reward + discount * z, atoms[0]), atoms[-1])
        place = min((moved - atoms[0]) / gap, len(atoms) - 1)
        lower, upper = math.floor(place), math.ceil(place)
        if lower == upper:
            found[lower] += p
        else:
            found[lower] += p * (upper - place)
            found[upper] += p * (place - lower)
    return found


def quantile_loss(prediction, target, fractions) -> float:
    """Returns the loss of one sample: equation 10 of arXiv 1710.10044 with kappa = 1."""
    total = 0.0
    for theta, tau in zip(prediction, fractions, strict=True):
        for sample in target:
            u = sample - theta
            huber = 0.5 * u * u if abs(u) <= 1 else abs(u) - 0.5
            total += abs(tau - (1.0 if u < 0 else 0.0)) * huber / len(target)
    return total


def soft_policy(values, temperature: float) -> list[float]:
    """Returns the softmax policy of arXiv 2007.14430, section 2."""
    weights = [math.exp((value - max(values)) / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def munchausen_target(
    reward, discount, here, action, following, alpha, temperature, floor
) -> float:
    """Returns the Munchausen target, equation 2 of arXiv 2007.14430 with the clipped bonus.

    here, following [A]: values of the target network at obs and next_obs
    """
    bonus = max(temperature * math.log(soft_policy(here, temperature)[action]), floor)
    policy = soft_policy(following, temperature)
    soft = sum(p * (q - temperature * math.log(p)) for p, q in zip(policy, following, strict=True))
    return reward + alpha * bonus + discount * soft


def gaussian_histogram(target, num_bins, v_min, v_max, sigma, parts=2_000) -> list[float]:
    """Integrates a Gaussian over each bin by the midpoint rule, and divides by the sum.

    sigma: standard deviation in bin widths (arXiv 2403.03950, section 3.1)
    """
    width = (v_max - v_min) / num_bins
    mean, step = min(max(target, v_min), v_max), width / parts
    masses = []
    for i in range(num_bins):
        points = (v_min + i * width + (j + 0.5) * step for j in range(parts))
        masses.append(sum(math.exp(-0.5 * ((x - mean) / (sigma * width)) ** 2) for x in points))
    return [mass / sum(masses) for mass in masses]
