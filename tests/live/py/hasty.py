"""Imported first: Python's threads change as often as they can."""

import sys

sys.setswitchinterval(1e-6)
