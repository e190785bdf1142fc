"""The fused update by two threads, a half of the batch each, where neither waits for a sleeper.

The second thread stands in lend(), and looks for a wanted update whose second half nobody has
claimed. Who computes a half makes no difference to its bits, and halves are added in one order.
So a thread that sleeps, or has ended, or never was, costs time and nothing else.
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

# Places of the shared words [WORDS] int64, each on cache lines of its own: the last update that is
# wanted, or STOP; that whose second half is claimed; that for which it is lent; where the second
# thread was last seen; the semaphore that wakes it.
WANTED, CLAIMED, LENT, STATE, _SEMAPHORE = range(0, 80, 16)
WORDS, STOP = 80, -1
HERE, ASLEEP, AWAY = range(3)
# Pauses without work after which the second thread sleeps: 0.24 ms on Zen 4, where one takes 90
# cycles. That outlasts what a loop does between updates in a row. Ours, untuned.
PATIENCE = 10_000
# Pauses after which a half that was claimed is computed by the first thread after all: 0.06 ms
# there, beside the milliseconds for which a busy machine takes a thread off its core. Untuned.
_OVERDUE = 2_500


@ieee_kernel
def update_in_two(
    layers, weights, target_weights, gradient, exp_avg, exp_avg_sq, steps, rate, betas, epsilon,
    max_norm, obs, action, reward, discount, next_obs, weight, next_mask, priority, taken,
    active, other, turned, sums, loss_sum, double, dueling, scale, slope, bend,
    words, mail_weights, mail_obs, mail_next_obs, more_sums, lent_priority, lent_taken, lent_sums,
    lent_loss,
):  # fmt: skip
    """fused.update() in two halves.

    mail_*     what lend() reads in place of what is written between updates
    more_sums  as sums, for a second half that is computed here; lent_*  what lend() writes
    """
    half = half_of(len(action))
    sent = _want(words, half, weights, obs, next_obs, mail_weights, mail_obs, mail_next_obs)
    loss = differentiate(
        layers, weights, target_weights, obs, action, reward, discount, next_obs, weight,
        next_mask, priority, taken, active, other, turned, sums, double, dueling, scale, slope,
        bend, 0, half,
    )  # fmt: skip
    if sent and _comes(words):
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
    """Compute the second half of every update that is wanted, until words say STOP.

    Sleeps where none was wanted for so many pauses as patience has. Where it comes too late the
    other thread has computed its half, and may write what is read here: what is made of that goes
    to lent_* alone, and is not looked at.
    """
    waited, half = 0, half_of(len(action))
    number = load_acquire(words, WANTED)
    while number != STOP:
        if load_acquire(words, STATE) != HERE:
            store_release(words, STATE, HERE)
        if _claim(words, number):
            for i in range(len(own_weights)):  # at once, where a product asks for them by and by
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
    """Nothing is wanted yet, and nobody there."""
    words[:] = 0
    words[STATE] = AWAY
    make_semaphore(words, _SEMAPHORE)


@ieee_kernel
def dismiss(words):
    """Send the thread in lend() away, asleep or not."""
    store_release(words, WANTED, STOP)
    post_semaphore(words, _SEMAPHORE)


@ieee_kernel
def half_of(size):
    """Samples in the first half of a batch: whole blocks, the larger half."""
    return (size + 2 * BLOCK - 1) // (2 * BLOCK) * BLOCK


@ieee_kernel
def _want(words, half, weights, obs, next_obs, mail_weights, mail_obs, mail_next_obs):
    """Tell the second thread of an update; gives whether it may lend its half."""
    number = words[WANTED] + 1
    state = load_acquire(words, STATE)
    if state == AWAY:  # nothing is sent to where nobody is, so it must not begin
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
    """Whether the second half of an update is the caller's: one caller alone hears so."""
    return load_acquire(words, CLAIMED) == number - 1 and compare_exchange(
        words, CLAIMED, number - 1, number
    )


@ieee_kernel
def _comes(words):
    """Whether the second half was claimed by the other thread, and comes in time."""
    number = words[WANTED]
    if _claim(words, number):
        compare_exchange(words, STATE, HERE, AWAY)  # until it says otherwise
        return False
    for _ in range(_OVERDUE):
        if load_acquire(words, LENT) == number:
            return True
        pause()
    return False


@ieee_kernel
def _copy(to, source, first):
    """All from first on, a multiple of LANES; to begins on a cache line."""
    beyond = first + (len(source) - first) // LANES * LANES
    for i in range(first, beyond, LANES):
        copy_apart(to, source, i)
    for i in range(beyond, len(source)):
        to[i] = source[i]


@ieee_kernel
def _add(sums, others):
    for i in range(len(sums)):
        sums[i] += others[i]
