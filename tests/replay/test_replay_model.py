"""Replay against a list-of-episodes model, under whatever calls hypothesis can think of."""

from helpers.replay_machine import ReplayMachine, at_length

TestReplayAgainstItsModel = ReplayMachine.TestCase
TestReplayAgainstItsModelAtLength = at_length(ReplayMachine.TestCase)
