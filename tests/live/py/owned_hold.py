"""A module whose import keeps the interpreter lock for good."""

import ctypes
import os

print("importing", os.getpid(), flush=True)
ctypes.PyDLL(None).sleep(3600)
