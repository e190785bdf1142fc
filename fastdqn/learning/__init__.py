"""Networks, value distributions, losses and the learner, all in torch."""
