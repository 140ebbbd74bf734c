#!/usr/bin/env python3
"""make bench-many: one walsupd with very many small databases, on this machine, now.

Start, restart, rest, a little load everywhere, and restores of a sample, compared page by page. With
a directory and with an S3 server over HTTP. Prints a table, writes build/bench-many.json.

  BENCH_N           databases (10000)
  BENCH_EXPLICIT    1: a section for each of them, instead of one with a pattern
  BENCH_IDLE        seconds of rest that are measured (30)
  BENCH_LOAD        seconds of load (20)
  BENCH_RATE        commits per second, over all databases at random (200)
  BENCH_EACH        1: one commit in every database, instead of at random for BENCH_LOAD seconds
  BENCH_RESTORES    databases restored and compared at the end (100)
  BENCH_DIR         where the files go (a directory in /tmp, removed afterwards)
  BENCH_ONLY        some of file,s3,litestream,litestream03
  LITESTREAM_BIN, LITESTREAM_V03_BIN   a Litestream v0.5 and a v0.3 to put beside it
"""
import collections
import ctypes
import json
import os
import pathlib
import random
import re
import resource
import select
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

import bench
import programs  # which bench has made findable
from bench import percentile, run, table
from programs import ENV, OUT, ROOT, Failed

N = int(os.environ.get("BENCH_N", "10000"))
EXPLICIT = os.environ.get("BENCH_EXPLICIT", "") not in ("", "0")
IDLE = float(os.environ.get("BENCH_IDLE", "30"))
LOAD = float(os.environ.get("BENCH_LOAD", "20"))
RATE = float(os.environ.get("BENCH_RATE", "200"))
EACH = os.environ.get("BENCH_EACH", "") not in ("", "0")
RESTORES = int(os.environ.get("BENCH_RESTORES", "100"))
V05, V03 = os.environ.get("LITESTREAM_BIN"), os.environ.get("LITESTREAM_V03_BIN")
ONLY = [x for x in os.environ.get("BENCH_ONLY", "file,s3,litestream,litestream03").split(",") if x]
PER_DIRECTORY = 100
WAIT = 3600  # seconds after which something is given up
NAME = re.compile(r"/d(\d{6})(?!\d)")


def number(path):
    """which database a path is about: whatever the replica is called, its name is part of it"""
    return int(NAME.search(str(path))[1])


def make_tree(root):
    """N copies of one small database in WAL mode"""
    template = root.parent / "template.db"
    if not template.exists():
        con = sqlite3.connect(template)
        con.execute("pragma journal_mode=wal")
        con.execute("create table t(n integer primary key, at integer, b blob)")
        con.executemany("insert into t(b) values(randomblob(?))", [(100 + i,) for i in range(50)])
        con.commit()
        con.close()
    data, paths = template.read_bytes(), []
    for i in range(N):
        if i % PER_DIRECTORY == 0:
            (root / f"{i // PER_DIRECTORY:04d}").mkdir(parents=True)
        paths.append(root / f"{i // PER_DIRECTORY:04d}" / f"d{i:06d}.db")
        paths[-1].write_bytes(data)
    return paths


def files_unlimited():
    """for the daemon and for the application's connections, three a database"""
    most = int(pathlib.Path("/proc/sys/fs/nr_open").read_text())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for limit in (most, hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return
        except (ValueError, OSError):
            pass  # only root with CAP_SYS_RESOURCE may raise it


# ---- who is measured -----------------------------------------------------------------------------

class Side(programs.Process):
    """a replicator with all databases of a tree"""

    def __init__(self, where):
        self.dir, self.paths = where, make_tree(where / "tree")
        self.log = where / "log"

    def popen(self, args, **env):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(args, stdout=log, stderr=log, env={**ENV, **env})

    def asked(self):
        """what it costs to ask it how it fares; None: it cannot be asked"""
        return None

    def requests(self):
        """how many of each verb so far; None: there are none to count"""
        return None

    def switches(self):
        """how often its threads went to sleep so far"""
        total = 0
        for task in pathlib.Path(f"/proc/{self.proc.pid}/task").iterdir():
            text = (task / "status").read_text()
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.M)[1])
        return total

    def replica_dirs(self):
        """directories of a replica where something appears after a commit"""
        for at, dirs, _ in os.walk(self.replica):
            if at.endswith("/ltx/0") or at.endswith("/wal"):
                dirs.clear()
                yield at

    def close(self):
        self.stop()


class Walsup(Side):
    def __init__(self, where):
        super().__init__(where)
        self.replica, self.ini = where / "replica", where / "walsup.ini"
        dbs = "".join(f"[db d{i:06d}]\npath = {p}\ntarget = t\n" for i, p in enumerate(self.paths))
        if not EXPLICIT:
            dbs = f"[db many]\npath = {where}/tree/**/*.db\ntarget = t\n"
        self.ini.write_text(f"[walsup]\nstate-dir = {where}/state\nsocket = {where}/walsup.sock\n"
                            + self.target() + dbs)
        self.ini.chmod(0o600)

    def target(self):
        return bench.Walsup.file_target(self.replica)

    def start(self):
        """seconds until READY=1"""
        path = self.dir / "notify.sock"
        path.unlink(missing_ok=True)
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        heard.bind(str(path))
        heard.settimeout(WAIT)
        t0 = time.monotonic()
        self.popen([OUT / "walsupd", "-c", self.ini], NOTIFY_SOCKET=str(path))
        try:
            while True:
                ready = select.select([heard], [], [], 1)[0]
                if ready and b"READY=1" in heard.recv(65536):
                    return time.monotonic() - t0
                if self.proc.poll() is not None or time.monotonic() - t0 > WAIT:
                    raise Failed(f"walsupd is not ready: {self.log.read_text()[-2000:]}")
        finally:
            heard.close()

    def ctl(self, *args):
        r = subprocess.run([OUT / "walsupctl", "-c", self.ini, *map(str, args)], text=True,
                           capture_output=True, stdin=subprocess.DEVNULL, env=ENV, timeout=WAIT)
        if r.returncode:
            raise Failed(f"walsupctl {args}: {r.returncode}\n{r.stdout[-500:]}{r.stderr[-2000:]}\n"
                         f"{self.log.read_text()[-2000:]}")
        return r.stdout

    def sync(self):
        self.ctl("sync", "--wait", "--timeout", f"{WAIT}s")

    def call(self, method, **parameters):
        """milliseconds until the whole reply is here, and its bytes"""
        t0 = time.monotonic()
        reply = programs.call(self.dir / "walsup.sock", method, **parameters)
        return (time.monotonic() - t0) * 1000, len(reply)

    def asked(self):
        """what walsupctl status asks for, everything, and the metrics; how long the loop was busy in one go, at worst,
        in the minutes with all of that"""
        r = {}
        for name, n, method, p in (("status", 300, "Status", {"limit": 50}), ("status_all", 30, "Status", {}),
                                   ("metrics", 10, "Metrics", {})):
            took = [self.call(method, **p) for _ in range(n)]
            ms = [t for t, _ in took]
            r[name] = {"p50_ms": percentile(ms, .5), "p99_ms": percentile(ms, .99), "bytes": took[-1][1]}
        text = self.ctl("metrics")
        r["loop_ms"] = float(re.search(r"^walsup_loop_delay_max_seconds (\S+)", text, re.M)[1]) * 1000
        return r

    def restore(self, i, out):
        """whether it was verified against the source's checksum"""
        r = json.loads(self.ctl("restore", self.paths[i], "--target", "t", "-o", out, "--json"))
        return r.get("checksum") == "verified"


class WalsupS3(Walsup):
    def __init__(self, where):
        self.s3 = bench.S3(where)
        super().__init__(where)

    def target(self):
        return self.s3.target()

    def control(self, path):
        with urllib.request.urlopen(self.s3.endpoint + path, timeout=600) as r:
            return r.read()

    def requests(self):
        return collections.Counter(e["verb"] for e in json.loads(self.control("/_ledger")))

    def replica_dirs(self):
        yield str(self.s3.root / "bench")

    def close(self):
        super().close()
        self.s3.stop()


class Litestream(Side):
    """v0.5; nothing announces that it is ready, so it is when every database has a file"""

    program, key = V05, "replica"

    def __init__(self, where):
        super().__init__(where)
        self.replica, self.conf = where / "replica", where / "litestream.yml"
        dbs = []
        for p in self.paths:
            r = {"type": "file", "path": str(self.replica / p.stem)}
            dbs.append({"path": str(p), self.key: r if self.key == "replica" else [r]})
        self.conf.write_text(json.dumps({"dbs": dbs}))

    def start(self):
        t0 = time.monotonic()
        self.popen([self.program, "replicate", "-config", self.conf])
        missing = set(range(N))
        while missing:
            if self.proc.poll() is not None or time.monotonic() - t0 > WAIT:
                raise Failed(f"Litestream does not replicate: {self.log.read_text()[-2000:]}")
            time.sleep(0.2)
            missing -= {i for i in missing if self.has_file(self.replica / f"d{i:06d}")}
        return time.monotonic() - t0

    @staticmethod
    def has_file(path):
        return any(files for _, _, files in os.walk(path))

    def sync(self):
        """it polls once a second"""
        time.sleep(5)

    def restore(self, i, out):
        run(self.program, "restore", "-config", self.conf, "-o", out, self.paths[i])
        return False


class Litestream03(Litestream):
    program, key = V03, "replicas"


SIDES = {"file": Walsup, "s3": WalsupS3, "litestream": Litestream if V05 else None,
         "litestream03": Litestream03 if V03 else None}


# ---- lag -----------------------------------------------------------------------------------------

class Arrivals(threading.Thread):
    """inotify on the directories of all replicas: when the next object of a database appears"""

    MASK = 0x80 | 0x100  # IN_MOVED_TO, IN_CREATE

    def __init__(self, side):
        super().__init__(daemon=True)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.where, self.waiting, self.lag, self.over = {}, {}, [], False
        for d in side.replica_dirs():
            wd = self.libc.inotify_add_watch(self.fd, os.fsencode(d), self.MASK)
            if wd < 0:
                raise Failed(f"inotify on {d}: {os.strerror(ctypes.get_errno())}; see "
                             "/proc/sys/fs/inotify/max_user_watches")
            self.where[wd] = d
        self.start()

    def run(self):
        while not self.over:
            if not select.select([self.fd], [], [], 0.2)[0]:
                continue
            data, now, pos = os.read(self.fd, 1 << 20), time.monotonic(), 0
            while pos < len(data):
                wd, mask, _, n = struct.unpack_from("iIII", data, pos)
                name = data[pos + 16:pos + 16 + n].rstrip(b"\0").decode()
                pos += 16 + n
                if mask & 0x4000:  # IN_Q_OVERFLOW
                    raise Failed("inotify: the queue overflowed")
                if ".tmp" in name or name.endswith((".new", ".json")) or name.startswith(".walsup-"):
                    continue
                path = urllib.parse.unquote(self.where[wd] + "/" + name)
                at = self.waiting.pop(number(path), None)
                if at is not None:
                    self.lag.append(now - at)

    def close(self):
        self.over = True
        self.join()
        os.close(self.fd)


def load(side):
    """commits at random; a database gets its next one when the last one has arrived, so that it is
    known which object has which commit"""
    seen, cons, took, late = Arrivals(side), {}, [], 0
    most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 4
    order = random.sample(range(N), N) if EACH else []
    cpu, t0, i = side.cpu(), time.monotonic(), 0
    try:
        while i < N if EACH else time.monotonic() - t0 < LOAD:
            pause = t0 + i / RATE - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            else:
                late += pause < -0.1
            db = order[i] if EACH else random.randrange(N)
            for _ in range(0 if EACH else 100):
                if db not in seen.waiting:
                    break
                db = random.randrange(N)
            i += 1
            if db in seen.waiting:
                continue
            if db not in cons:
                if len(cons) == most:
                    cons.pop(next(c for c in cons if c not in seen.waiting)).close()
                cons[db] = sqlite3.connect(side.paths[db], isolation_level=None)
                cons[db].execute("pragma synchronous=normal")
            at = time.monotonic()
            seen.waiting[db] = at
            cons[db].execute("insert into t(at,b) values(?,randomblob(200))", (i,))
            took.append(time.monotonic() - at)
        elapsed, cpu = time.monotonic() - t0, side.cpu() - cpu
        end = time.monotonic() + 60
        while seen.waiting and time.monotonic() < end:
            time.sleep(0.05)
        lost = len(seen.waiting)
    finally:
        seen.close()
        for con in cons.values():
            con.close()
    if not seen.lag:
        raise Failed("nothing arrived under load")
    m = side.memory()
    return {"commits_per_s": len(took) / elapsed, "databases": len(cons), "behind_schedule": late,
            "commit_p50_us": percentile(took, .5) * 1e6, "commit_p99_us": percentile(took, .99) * 1e6,
            "lag_p50_ms": percentile(seen.lag, .5) * 1e3,
            "lag_p95_ms": percentile(seen.lag, .95) * 1e3, "lag_max_ms": max(seen.lag) * 1e3,
            "not_arrived": lost, "cpu_percent": cpu / elapsed * 100, **m}


# ---- the rest ------------------------------------------------------------------------------------

def image(path):
    """the database as a reader sees it, page by page"""
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return con.serialize()
    finally:
        con.close()


def restores(side):
    out, took, verified = side.dir / "restored.db", [], 0
    for i in random.sample(range(N), min(RESTORES, N)):
        t0 = time.monotonic()
        verified += side.restore(i, out)
        took.append(time.monotonic() - t0)
        if image(out) != image(side.paths[i]):
            raise Failed(f"{out} differs from {side.paths[i]}")
        for suffix in ("", "-wal", "-shm"):
            pathlib.Path(f"{out}{suffix}").unlink(missing_ok=True)
    return {"equal": len(took), "verified": verified, "p50_ms": percentile(took, .5) * 1e3}


def idle(side):
    """from the moment on when the CPU time stands still, or nearly"""
    end, cpu = time.monotonic() + 60, -1.0
    while side.cpu() - cpu > 0.02 and time.monotonic() < end:
        cpu = side.cpu()
        time.sleep(2)
    requests = side.requests()
    t0, cpu, slept = time.monotonic(), side.cpu(), side.switches()
    time.sleep(IDLE)
    elapsed = time.monotonic() - t0
    r = {"cpu_percent": (side.cpu() - cpu) / elapsed * 100,
         "wakeups_per_s": (side.switches() - slept) / elapsed, **side.memory()}
    if requests is not None:
        r["requests"] = sum((side.requests() - requests).values())
    return r


def since(side, before):
    now = side.requests()
    return None if now is None else dict(now - before)


def measure(kind, base):
    d = base / kind
    d.mkdir()
    side, r = SIDES[kind](d), {}
    try:
        def step(text):
            print(f"  {kind}: {text}", file=sys.stderr, flush=True)
        step("first start")
        t0, before = time.monotonic(), side.requests()
        r["first"] = {"ready_s": side.start()}
        side.sync()
        r["first"].update(all_replicated_s=time.monotonic() - t0, **side.memory())
        r["first"]["requests"] = since(side, before)
        step(f"{IDLE:g} s of rest")
        r["idle"] = idle(side)
        step("how it fares")
        r["asked"] = side.asked()
        step("restart")
        side.stop()
        before = side.requests()
        r["restart"] = {"ready_s": side.start(), **side.memory()}
        side.sync()
        r["restart"]["requests"] = since(side, before)
        step(f"{IDLE:g} s of rest")
        r["idle_again"] = idle(side)
        step(f"{RATE:g} commits/s, " + (f"one in each of {N}" if EACH else f"for {LOAD:g} s"))
        r["load"] = load(side)
        side.sync()
        step(f"{min(RESTORES, N)} restores")
        r["restores"] = restores(side)
    finally:
        side.close()
        shutil.rmtree(d, ignore_errors=True)
    return r


def verbs(requests):
    if requests is None:
        return "-"
    return " ".join(f"{v} {requests[v]}" for v in sorted(requests)) or "0"


def asked(r, name):
    a = r["asked"]
    return f"{a[name]['p50_ms']:.1f} / {a[name]['p99_ms']:.1f}, {a[name]['bytes'] / 2**20:.1f} MiB" if a else "-"


ROWS = [
    ("first start: READY, s", lambda r: f"{r['first']['ready_s']:.2f}"),
    ("  everything in the replica, s", lambda r: f"{r['first']['all_replicated_s']:.1f}"),
    ("  requests", lambda r: verbs(r["first"]["requests"])),
    ("  RSS / peak, MiB", lambda r: f"{r['first']['rss_mib']:.1f} / {r['first']['peak_mib']:.1f}"),
    ("at rest: CPU, % of a core", lambda r: f"{r['idle']['cpu_percent']:.2f}"),
    ("  wake-ups/s", lambda r: f"{r['idle']['wakeups_per_s']:.1f}"),
    ("  requests", lambda r: str(r["idle"].get("requests", "-"))),
    ("  RSS, MiB", lambda r: f"{r['idle']['rss_mib']:.1f}"),
    ("  threads / descriptors",
     lambda r: f"{r['idle']['threads']} / {r['idle']['descriptors']}"),
    ("status: p50 / p99, ms", lambda r: asked(r, "status")),
    ("  of every database", lambda r: asked(r, "status_all")),
    ("  metrics", lambda r: asked(r, "metrics")),
    ("  loop busy in one go at worst, ms", lambda r: f"{r['asked']['loop_ms']:.0f}" if r["asked"] else "-"),
    ("restart, nothing changed: READY, s", lambda r: f"{r['restart']['ready_s']:.2f}"),
    ("  requests", lambda r: verbs(r["restart"]["requests"])),
    ("  at rest: CPU, % of a core", lambda r: f"{r['idle_again']['cpu_percent']:.2f}"),
    ("  at rest: RSS, MiB", lambda r: f"{r['idle_again']['rss_mib']:.1f}"),
    ("  at rest: threads / descriptors",
     lambda r: f"{r['idle_again']['threads']} / {r['idle_again']['descriptors']}"),
    ("load: commits/s", lambda r: f"{r['load']['commits_per_s']:.0f}"),
    ("  commit p50 / p99, us",
     lambda r: f"{r['load']['commit_p50_us']:.0f} / {r['load']['commit_p99_us']:.0f}"),
    ("  lag p50 / p95 / max, ms",
     lambda r: " / ".join(f"{r['load'][k]:.0f}" for k in ("lag_p50_ms", "lag_p95_ms",
                                                          "lag_max_ms"))),
    ("  not arrived within 60 s", lambda r: str(r["load"]["not_arrived"])),
    ("  CPU, % of a core", lambda r: f"{r['load']['cpu_percent']:.1f}"),
    ("  RSS / peak, MiB", lambda r: f"{r['load']['rss_mib']:.1f} / {r['load']['peak_mib']:.1f}"),
    ("  threads / descriptors", lambda r: f"{r['load']['threads']} / {r['load']['descriptors']}"),
    ("restores: equal page by page", lambda r: str(r["restores"]["equal"])),
    ("  verified by the source's checksum", lambda r: str(r["restores"]["verified"])),
    ("  p50, ms", lambda r: f"{r['restores']['p50_ms']:.0f}"),
]


def main():
    files_unlimited()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    base = pathlib.Path(tempfile.mkdtemp(prefix="walsup-many-", dir=os.environ.get("BENCH_DIR")))
    noted, t0 = bench.Load(), time.monotonic()
    result = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "databases": N,
              "explicit": EXPLICIT, "version": run(OUT / "walsupctl", "version").strip()}
    print(f"{result['version']}; {N} databases, {'a section each' if EXPLICIT else 'one pattern'}; "
          f"load {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs")
    try:
        for kind in ONLY:
            if SIDES[kind]:
                result[kind] = measure(kind, base)
                noted.note()
    except Failed as e:
        print(f"bench-many: {e}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(base, ignore_errors=True)
    done = [k for k in ONLY if k in result]
    if not done:
        print("bench-many: nothing was measured", file=sys.stderr)
        return 1
    print()
    table(["", *done], [[text, *(fn(result[k]) for k in done)] for text, fn in ROWS])
    result["load"], result["took_s"] = noted.result(), time.monotonic() - t0
    target = ROOT / "build" / "bench-many.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{result['took_s']:.0f} s; load {result['load']['before'][0]:.2f} before, "
          f"{result['load']['worst']:.2f} at worst; {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
