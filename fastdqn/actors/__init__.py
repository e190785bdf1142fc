"""Actors: processes on other machines that step environments for one learner."""
