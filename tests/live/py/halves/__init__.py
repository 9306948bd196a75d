"""A package that stops at a gate when half of it is there, the first time that it is imported."""

import os

import gate

from .first import *

if "HALVES_GATE" in os.environ:
    gate.wait(int(os.environ.pop("HALVES_GATE")))

whole = first.__all__
