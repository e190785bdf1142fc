"""Networks, value distributions, losses and the learner; where NumPy meets torch."""
