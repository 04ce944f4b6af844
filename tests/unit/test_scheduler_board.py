"""The board after long random histories: it plans what a board made anew plans, and keeps what it must.

How: `tests/support/scheduler_world.py` says what may happen, and checks each plan.
"""

from hypothesis import settings

from tests.support.scheduler_world import BoardWorld

TestBoardWorld = BoardWorld.TestCase
TestBoardWorld.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
