#!/usr/bin/python3
"""kill -9 at the system calls of a scripted life of walsup, and what the next process makes of it.

    kills.py [--program scripted|history] [--seed N] [--points N | --all] [--control]

tests/engines/scripted.c (capture and checkpoints) or history.c (the whole daemon, with merging, snapshots and
retention) is run under strace, which kills it at the k-th call of one kind; a fresh process
then has to recover by itself: every TXID that was acknowledged is there, every state was committed, the
last one is what the database holds. --control: TXIDs that were acknowledged are removed after the kill,
which the judge has to notice. Exit status 0: no violation (--control: all noticed).
"""
import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

CALLS = ("openat", "close", "pwrite64", "write", "fsync", "fdatasync", "rename", "renameat", "renameat2", "unlink", "mkdir",
         "ftruncate", "fcntl", "fallocate", "pread64", "read", "mmap", "munmap", "newfstatat", "getdents64")
MARK = "/walsup-scripted-begins"


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    a.add_argument("--points", type=int, default=120)
    a.add_argument("--all", action="store_true")
    a.add_argument("--control", action="store_true")
    a.add_argument("--program", choices=("scripted", "history"), default="scripted")
    return a.parse_args()


class World:
    def __init__(self, program, base):
        self.program, self.base = program, base
        self.template, self.dir = os.path.join(base, "template"), os.path.join(base, "run")
        os.mkdir(self.dir)
        subprocess.run([program, "make", self.dir, self.dir + "/acks"], check=True)
        os.rename(self.dir, self.template)

    def fresh(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        shutil.copytree(self.template, self.dir)

    def run(self, verb, *strace):
        return subprocess.run([*strace, self.program, verb, self.dir, self.dir + "/acks"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)


def find_points(world):
    """(call, k) for every call after the mark; k counts from the start of its thread, as strace does."""
    world.fresh()
    trace = os.path.join(world.base, "trace")
    done = world.run("run", "strace", "-f", "-o", trace)
    if done.returncode:
        sys.exit(f"kills: the script alone fails: {done.stdout}")
    count, points, begun = {}, {}, False
    with open(trace, encoding="utf-8", errors="replace") as f:
        for line in f:
            m = re.match(r"(\d+) +(\w+)\(", line)
            if not m:
                continue
            call = m.group(2)
            count[m.groups()] = count.get(m.groups(), 0) + 1
            if MARK in line:
                begun = True
            elif begun and call in CALLS:
                points[call, count[m.groups()]] = True
    return list(points)


def spoil(where, program):
    """what was acknowledged is gone"""
    if program == "history":
        os.environ["HISTORY"] = "spoil"  # it does so itself, before it judges
        return
    shutil.rmtree(where + "/replica/l0")
    os.mkdir(where + "/replica/l0")
    shutil.rmtree(where + "/spool", ignore_errors=True)


def main():
    args = arguments()
    out = os.environ["WALSUP_OUT"]
    start = time.monotonic()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    base = tempfile.mkdtemp(prefix="walsup-kills", dir=memory)
    try:
        world = World(os.path.join(out, "engines", args.program), base)
        points = find_points(world)
        chosen = points if args.all else random.Random(args.seed).sample(points, min(args.points, len(points)))
        kills, missed, bad, slowest, total = 0, 0, 0, 0.0, 0.0
        for call, k in chosen:
            world.fresh()
            killed = world.run("run", "strace", "-f", "-o", "/dev/null", "-e", f"trace={call}",
                               "-e", f"inject={call}:signal=KILL:when={k}")
            if killed.returncode not in (-9, 137):
                missed += 1  # with threads, not every run makes the same calls
                continue
            kills += 1
            if args.control:
                spoil(world.dir, args.program)
            began = time.monotonic()
            after = world.run("recover")
            took = time.monotonic() - began
            slowest, total = max(slowest, took), total + took
            if after.returncode:
                bad += 1
                if not args.control:
                    print(f"violation: kills.py, killed at {call} {k}: status {after.returncode}: {after.stdout.strip()}")
        kinds = len({call for call, _ in chosen})
        print(f"kills: {args.program}, seed {args.seed}{', acknowledged files removed' if args.control else ''}: {kills} kills of {len(points)} "
              f"possible at {kinds} system calls, {missed} not reached, {bad} violations, recovery {1e3 * total / max(kills, 1):.0f} ms on "
              f"average, {1e3 * slowest:.0f} ms at most, {time.monotonic() - start:.1f} s")
        return kills <= missed or (not bad if args.control else bad > 0)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
