"""Replay equals a model of lists of episodes, for any sequence of calls."""

from helpers.replay_machine import ReplayMachine, at_length

TestReplayAgainstItsModel = ReplayMachine.TestCase
TestReplayAgainstItsModelAtLength = at_length(ReplayMachine.TestCase)
