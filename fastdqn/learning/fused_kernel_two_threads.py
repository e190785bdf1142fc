"""update_in_two(): the fused update on two threads, each with half of the batch.

The second thread runs lend(), which polls for an update whose second half is not claimed. The
result does not depend on which thread computes a half, since halves are added in a fixed order. So
a second thread that sleeps, has ended or never started costs time only.
"""

import numpy as np

from fastdqn.kernels.atomics import (
    compare_exchange,
    copy_apart,
    finish_copies,
    load_acquire,
    make_semaphore,
    pause,
    post_semaphore,
    store_release,
    wait_semaphore,
)
from fastdqn.kernels.jit import ieee_kernel
from fastdqn.kernels.matmul import LANES
from fastdqn.learning.fused_kernel import BLOCK, collect, descend, differentiate

# Indices of shared words, int64[WORDS], each on its own cache line: number of the last requested
# update, or STOP; the last update whose second half is claimed; the last one whose second half is
# ready; the state of the second thread; the semaphore that wakes it.
WANTED, CLAIMED, LENT, STATE, _SEMAPHORE = range(0, 80, 16)
WORDS, STOP = 80, -1
HERE, ASLEEP, AWAY = range(3)
# Pauses without work after which the second thread sleeps: 0.24 ms on Zen 4, where one takes 90
# cycles. That is longer than the time between consecutive updates. Ours, untuned.
PATIENCE = 10_000
# Pauses after which the first thread computes a claimed half itself: 0.06 ms on Zen 4. A busy
# machine may suspend a thread for milliseconds. Ours, untuned.
_OVERDUE = 2_500


@ieee_kernel
def update_in_two(
    layers, weights, target_weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon,
    max_norm, obs, action, reward, discount, next_obs, weight, next_mask, priority, taken,
    active, other, turned, sums, loss_sum, double, dueling, scale, slope, bend,
    words, mail_weights, mail_obs, mail_next_obs, more_sums, lent_priority, lent_taken, lent_sums,
    lent_loss,
):  # fmt: skip
    """As fused_kernel.update(), but in two halves.

    Args:
        mail_*: Copies for lend() of arrays that change between updates.
        more_sums: As sums, for a second half that is computed here.
        lent_*: Outputs of lend().
    """
    half = half_of(len(action))
    sent = _request(words, half, weights, obs, next_obs, mail_weights, mail_obs, mail_next_obs)
    loss = differentiate(
        layers, weights, target_weights, obs, action, reward, discount, next_obs, weight,
        next_mask, priority, taken, active, other, turned, sums, double, dueling, scale, slope,
        bend, 0, half,
    )  # fmt: skip
    if sent and _is_lent(words):
        loss += lent_loss[0]
        _add(sums, lent_sums)
        for b in range(half, len(action)):
            priority[b], taken[b] = lent_priority[b], lent_taken[b]
    else:
        loss += differentiate(
            layers, weights, target_weights, obs, action, reward, discount, next_obs, weight,
            next_mask, priority, taken, active, other, turned, more_sums, double, dueling, scale,
            slope, bend, half, len(action),
        )  # fmt: skip
        _add(sums, more_sums)
    loss_sum[0] += np.float32(loss / len(action))
    collect(layers, sums, turned, gradient)
    descend(weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon, max_norm)


@ieee_kernel
def lend(
    layers, target_weights, mail_obs, action, reward, discount, mail_next_obs, weight, next_mask,
    double, dueling, scale, slope, bend, words, mail_weights, own_weights, active, other, turned,
    sums, lent_priority, lent_taken, lent_sums, lent_loss, patience,
):  # fmt: skip
    """Computes the second half of every requested update, until words contain STOP.

    Sleeps after `patience` pauses without a request. If it is late, the first thread has computed
    the half itself and may overwrite the inputs. The result is then wrong, but it is written to
    lent_* only and never read.
    """
    waited, half = 0, half_of(len(action))
    number = load_acquire(words, WANTED)
    while number != STOP:
        if load_acquire(words, STATE) != HERE:
            store_release(words, STATE, HERE)
        if _claim(words, number):
            for i in range(len(own_weights)):  # at once: products would fetch the lines one by one
                own_weights[i] = mail_weights[i]
            lent_loss[0] = differentiate(
                layers, own_weights, target_weights, mail_obs, action, reward, discount,
                mail_next_obs, weight, next_mask, lent_priority, lent_taken, active, other, turned,
                sums, double, dueling, scale, slope, bend, half, len(action),
            )  # fmt: skip
            _copy(lent_sums, sums, 0)
            finish_copies()
            store_release(words, LENT, number)
            waited = 0
        elif waited < patience:
            pause()
            waited += 1
        else:
            store_release(words, STATE, ASLEEP)
            wait_semaphore(words, _SEMAPHORE)
            waited = 0
        number = load_acquire(words, WANTED)


@ieee_kernel
def begin(words):
    """Initializes words: no request and no second thread."""
    words[:] = 0
    words[STATE] = AWAY
    make_semaphore(words, _SEMAPHORE)


@ieee_kernel
def dismiss(words):
    """Ends the thread in lend(), even if it sleeps."""
    store_release(words, WANTED, STOP)
    post_semaphore(words, _SEMAPHORE)


@ieee_kernel
def half_of(size):
    """Returns the number of samples in the first and larger half of a batch, in whole blocks."""
    return (size + 2 * BLOCK - 1) // (2 * BLOCK) * BLOCK


@ieee_kernel
def _request(words, half, weights, obs, next_obs, mail_weights, mail_obs, mail_next_obs):
    """Requests a second half from the other thread; returns whether it may compute it."""
    number = words[WANTED] + 1
    state = load_acquire(words, STATE)
    if state == AWAY:  # no inputs are copied for it, so it must not start
        store_release(words, CLAIMED, number)
    else:
        begin = half * obs.shape[1]
        _copy(mail_weights, weights, 0)
        _copy(mail_obs.reshape(-1), obs.reshape(-1), begin)
        _copy(mail_next_obs.reshape(-1), next_obs.reshape(-1), begin)
        finish_copies()
    store_release(words, WANTED, number)
    if state == ASLEEP and compare_exchange(words, STATE, ASLEEP, AWAY):
        post_semaphore(words, _SEMAPHORE)
    return state != AWAY


@ieee_kernel
def _claim(words, number):
    """Claims the second half of an update; returns True to one caller only."""
    return load_acquire(words, CLAIMED) == number - 1 and compare_exchange(
        words, CLAIMED, number - 1, number
    )


@ieee_kernel
def _is_lent(words):
    """Whether the other thread claimed the second half and finishes it in time."""
    number = words[WANTED]
    if _claim(words, number):
        compare_exchange(words, STATE, HERE, AWAY)  # until it reports itself again
        return False
    for _ in range(_OVERDUE):
        if load_acquire(words, LENT) == number:
            return True
        pause()
    return False


@ieee_kernel
def _copy(to, source, first):
    """Copies everything from first on, a multiple of LANES; `to` starts on a cache line."""
    beyond = first + (len(source) - first) // LANES * LANES
    for i in range(first, beyond, LANES):
        copy_apart(to, source, i)
    for i in range(beyond, len(source)):
        to[i] = source[i]


@ieee_kernel
def _add(sums, others):
    for i in range(len(sums)):
        sums[i] += others[i]
