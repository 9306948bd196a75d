"""A module whose import takes until the test opens its gate, for live tests."""

import os

import gate

gate.wait(int(os.environ["GATE"]))
