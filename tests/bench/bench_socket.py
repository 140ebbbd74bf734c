#!/usr/bin/env python3
"""make bench-socket: what `walsupctl status` waits for, with very many databases and with hostile clients.

One walsupd with BENCH_N databases (10000). Status, as walsupctl asks for it, is timed in calm and while other
processes make 50 000 connections that are malformed, deep, deaf, slow, streams or floods. Prints the median, 90th and
99th percentile of both, and the memory.
"""
import multiprocessing
import os
import pathlib
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import bench_many  # noqa: E402
from bench import percentile  # noqa: E402
from programs import Failed  # noqa: E402
from test_control import Line, assault, rss_kib  # noqa: E402

KINDS = {"hello": 3500, "malformed": 2500, "deep": 1500, "deaf": 1000, "slow": 700, "stream": 600, "flood": 200}
PROCESSES, ROUNDS = 2, 5


def attack(path, share, result):
    failures = []
    for _ in range(ROUNDS):
        for kind, n in share.items():
            assault(path, n, kind, failures)
    result.put((ROUNDS * sum(share.values()), failures))


def ask(line, took):
    t0 = time.monotonic()
    reply = line.call("Status", limit=50)
    took.append((time.monotonic() - t0) * 1000)
    if reply["parameters"]["total"] != bench_many.N:
        raise Failed(f"a reply about {reply['parameters']['total']} databases")
    time.sleep(0.002)


def words(took):
    return f"{len(took)} calls, median {percentile(took, .5):.1f} ms, p90 {percentile(took, .9):.1f} ms, p99 {percentile(took, .99):.1f} ms"


def measure(base):
    side = bench_many.Walsup(base)
    side.start()
    side.sync()
    path = str(base / "walsup.sock")
    line, calm, meanwhile = Line(path), [], []
    for _ in range(300):
        ask(line, calm)
    before, worst = rss_kib(side.proc.pid), 0
    queue = multiprocessing.Queue()
    share = {k: n // PROCESSES for k, n in KINDS.items()}
    attackers = [multiprocessing.Process(target=attack, args=(path, share, queue)) for _ in range(PROCESSES)]
    t0 = time.monotonic()
    for p in attackers:
        p.start()
    while any(p.is_alive() for p in attackers) and queue.qsize() < PROCESSES:
        ask(line, meanwhile)
        worst = max(worst, rss_kib(side.proc.pid))
    seconds = time.monotonic() - t0
    results = [queue.get(timeout=60) for _ in attackers]
    for p in attackers:
        p.join()
    if len(meanwhile) < 50 or any(f for _, f in results):
        raise Failed(f"{len(meanwhile)} calls meanwhile, {[f[:3] for _, f in results]}")
    side.sync()
    side.close()
    print(f"calm:      {words(calm)}")
    print(f"attacked:  {words(meanwhile)}; {sum(n for n, _ in results)} connections in {seconds:.1f} s")
    print(f"memory:    {before / 1024:.0f} MiB before, {worst / 1024:.0f} MiB at most")


def main():
    bench_many.files_unlimited()
    base = pathlib.Path(tempfile.mkdtemp(prefix="walsup-socket-"))
    print(f"{bench_many.N} databases; load {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs", flush=True)
    try:
        measure(base)
    except Failed as e:
        print(f"bench-socket: {e}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"load {os.getloadavg()[0]:.2f} at the end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
