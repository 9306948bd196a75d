"""A script that starts other processes, by subprocess and by multiprocessing."""

import math
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


def main():
    import erlang

    out = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True, check=True)
    print("subprocess", out.stdout.strip())
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2) as pool:
        print("spawn", pool.map(math.sqrt, [4, 9]))
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        print("pool", list(pool.map(math.sqrt, [16, 25])))
        with ThreadPoolExecutor(2) as threads:
            print("thread", list(threads.map(lambda x: pool.submit(math.sqrt, x).result(), [36, 49])))
    print("erlang", len(erlang.call("lists:seq", 1, 3)))


if __name__ == "__main__":
    main()
