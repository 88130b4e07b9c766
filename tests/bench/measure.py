"""Runs a command; prints seconds, seconds of processor, and the most MiB that it and all its processes held together.

measure.py [--until WORDS] COMMAND...: with --until, the seconds until a line on stderr has these words.

Memory is the proportional set size (proc(5), smaps_rollup), so that what processes share counts once.
"""
import os
import resource
import subprocess
import sys
import threading
import time


def children(process):
    found = []
    try:
        for task in os.listdir(f"/proc/{process}/task"):
            with open(f"/proc/{process}/task/{task}/children") as file:
                found += file.read().split()
    except OSError:
        pass
    return found


def held(process):
    total = 0
    try:
        with open(f"/proc/{process}/smaps_rollup") as file:
            total = sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except OSError:
        pass
    return total + sum(held(child) for child in children(process))


def main():
    arguments = sys.argv[1:]
    until = None
    if arguments[0] == "--until":
        until, arguments = arguments[1].encode(), arguments[2:]
    start = time.monotonic()
    child = subprocess.Popen(arguments, stderr=subprocess.PIPE)
    peak, seen, said = 0, None, []

    def listen():
        nonlocal seen
        for line in child.stderr:
            said.append(line)
            if until and seen is None and until in line:
                seen = time.monotonic() - start

    listener = threading.Thread(target=listen)
    listener.start()
    while child.poll() is None:
        peak = max(peak, held(child.pid))
        time.sleep(0.02)
    seconds = time.monotonic() - start
    listener.join()
    if child.returncode != 0 or until and seen is None:
        sys.stderr.buffer.write(b"".join(said[-20:]))
        sys.exit(f"measure: {arguments[0]} ended with {child.returncode}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{seen if until else seconds:.3f} {used.ru_utime + used.ru_stime:.3f} {peak / 1024:.0f}")


main()
