"""A program for live tests: shows how it was started, then waits at the test's gate and leaves."""

import sys

import gate

print("name", __name__)
print("argv", sys.argv[1:])
print("file", __file__)
if sys.argv[1] != "no-gate":
    gate.wait(int(sys.argv[1]))
if sys.argv[2] == "raise":
    raise ValueError("the script's own")
if sys.argv[2] == "exit-text":
    sys.exit("said on leaving")
sys.exit(int(sys.argv[2]))
