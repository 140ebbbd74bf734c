#!/usr/bin/env python3
"""make bench: what walsup costs and how late it is, on this machine, now.

Prints tables and writes build/bench.json. Standard library only. Figures that are compared with
each other are taken in alternation in one run and are medians; the load of the machine is noted,
because everything here suffers from neighbours.

  BENCH_SECONDS   length of one writer run (5)
  BENCH_RUNS      how often everything is repeated (3)
  BENCH_MIB       size of the database that is restored (1024)
  BENCH_DIR       where the files go (a directory in /tmp, removed afterwards)
  BENCH_ONLY      some of writer,lag,memory,restore
  LITESTREAM_BIN  a Litestream v0.5 to put beside it
"""
import ctypes
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))
from programs import ENV, OUT, ROOT, Failed, Process  # noqa: E402

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
MIB = int(os.environ.get("BENCH_MIB", "1024"))
ONLY = [x for x in os.environ.get("BENCH_ONLY", "writer,lag,memory,restore").split(",") if x]
LITESTREAM = os.environ.get("LITESTREAM_BIN")
KEY_ID, SECRET = "AKIAWALSUPBENCH", "s3cr3t"


# ---- processes -----------------------------------------------------------------------------------

def run(*args, **kw):
    r = subprocess.run([str(a) for a in args], capture_output=True, text=True,
                       stdin=subprocess.DEVNULL, env=ENV, timeout=600, **kw)
    if r.returncode:
        raise Failed(f"{' '.join(map(str, args))}: {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


class Walsup(Process):
    """dbs: name -> path"""

    def __init__(self, where, dbs, target, **daemon):
        self.dir, self.ini = where, where / "walsup.ini"
        self.replica = where / "replica"
        head = {"state-dir": where / "state", "socket": where / "walsup.sock", **daemon}
        text = "[walsup]\n" + "".join(f"{k.replace('_', '-')} = {v}\n" for k, v in head.items())
        self.ini.write_text(text + target + "".join(
            f"[db {n}]\npath = {p}\ntarget = t\n" for n, p in dbs.items()))
        self.ini.chmod(0o600)
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        heard.bind(str(where / "notify.sock"))
        heard.settimeout(60)
        self.log = where / "walsupd.log"
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen(
                [OUT / "walsupd", "-c", self.ini], stdout=log, stderr=log,
                env={**ENV, "NOTIFY_SOCKET": str(where / "notify.sock")})
        try:
            while b"READY=1" not in heard.recv(65536):
                pass
        except OSError:
            self.stop()
            raise Failed(f"walsupd is not ready: {self.log.read_text()}") from None
        finally:
            heard.close()

    @staticmethod
    def file_target(path):
        return f"[target t]\ntype = file\npath = {path}\n"

    def ctl(self, *args):
        return run(OUT / "walsupctl", "-c", self.ini, *args)

    def sync(self):
        self.ctl("sync", "--wait", "--timeout", "300s")

    def status(self):
        return json.loads(self.ctl("status", "--json"))["databases"]

    def restore(self, name, out):
        self.ctl("restore", name, "-o", out)


class Litestream(Process):
    def __init__(self, where, db):
        self.db, self.conf, self.sock = db, where / "litestream.yml", where / "litestream.sock"
        self.conf.write_text(json.dumps({
            "socket": {"enabled": True, "path": str(self.sock)},
            "dbs": [{"path": str(db), "replica": {"type": "file",
                                                  "path": str(where / "litestream")}}]}))
        self.log = where / "litestream.log"
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([LITESTREAM, "replicate", "-config", self.conf],
                                         stdout=log, stderr=log, env=ENV)
        end = time.monotonic() + 30
        while not list((where / "litestream").rglob("*.ltx")):  # nothing announces it
            if self.proc.poll() is not None or time.monotonic() > end:
                self.stop()
                raise Failed(f"Litestream does not replicate: {self.log.read_text()}")
            time.sleep(0.02)

    def sync(self):
        """ask it, or where a version cannot be asked: its last upload at the end"""
        if self.sock.exists():
            run(LITESTREAM, "sync", "-wait", "-timeout", "300", "-socket", self.sock, self.db)
        else:
            self.stop()

    def restore(self, _name, out):
        run(LITESTREAM, "restore", "-config", self.conf, "-o", out, self.db)


class S3(Process):
    def __init__(self, where):
        self.root = where / "s3"
        self.proc = subprocess.Popen(
            [sys.executable, ROOT / "tests/s3server.py", "--dir", self.root, "--bucket", "bench",
             "--key-pair", f"{KEY_ID}:{SECRET}", "--until-eof"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.endpoint = f"http://127.0.0.1:{int(self.proc.stdout.readline())}"

    def target(self):
        return (f"[target t]\ntype = s3\nendpoint = {self.endpoint}\nbucket = bench\npath = b\n"
                f"access-key-id = {KEY_ID}\nsecret-access-key = {SECRET}\n")

    def stop(self):
        self.proc.stdin.close()
        self.proc.wait(10)
        self.proc.stdout.close()


class Arrivals:
    """inotify on one directory: the TXIDs of LTX files that appear in it"""

    MASK = 0x80 | 0x100  # IN_MOVED_TO, IN_CREATE

    def __init__(self, path, suffix=""):
        self.suffix, self.libc = suffix, ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0 or self.libc.inotify_add_watch(self.fd, os.fsencode(path), self.MASK) < 0:
            raise Failed(f"inotify on {path}: {os.strerror(ctypes.get_errno())}")

    def wait(self, timeout):
        """TXIDs, at least one; the moment is when this returns"""
        end = time.monotonic() + timeout
        while True:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                raise Failed(f"nothing arrived within {timeout} s")
            names = os.read(self.fd, 65536)
            found = [int(m[1], 16) for m in re.finditer(
                rb"[0-9a-f]{16}-([0-9a-f]{16})\.ltx" + re.escape(self.suffix.encode()) + rb"\0",
                names)]
            if found:
                return found

    def close(self):
        os.close(self.fd)


# ---- measurements --------------------------------------------------------------------------------

class Load:
    """load averages; the bench itself makes some two of it"""

    def __init__(self):
        self.started, self.worst = os.getloadavg(), 0.0

    def note(self):
        self.worst = max(self.worst, os.getloadavg()[0])

    def result(self):
        self.note()
        return {"before": self.started, "after": os.getloadavg(), "worst": self.worst,
                "cpus": os.cpu_count()}


def median(rows, key):
    return statistics.median(r[key] for r in rows)


def percentile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * q))]


def fresh(base, name):
    d = base / name
    shutil.rmtree(d, ignore_errors=True)
    d.mkdir()
    return d


def last_row(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return con.execute("select max(n) from load").fetchone()[0]
    finally:
        con.close()


def writer_run(base, who, rate, prove):
    """one writer against one empty database; who replicates it: None, Walsup, Litestream"""
    d = fresh(base, "writer")
    db = d / "app.db"
    con = sqlite3.connect(db)
    con.execute("pragma journal_mode=wal")
    con.execute("create table load(n integer primary key, at integer, b blob)")
    con.commit()
    page = con.execute("pragma page_size").fetchone()[0]
    con.close()
    if who is Walsup:
        side = Walsup(d, {"app": db}, Walsup.file_target(d / "replica"))
    else:
        side = who(d, db) if who else Process()
    with side:
        if who is Walsup:
            side.sync()
        before = side.cpu() if who else 0
        r = json.loads(run(OUT / "helpers/load_writer", db, SECONDS, rate, 1024))
        if not who:
            return r
        # until then CPU time is read while the process lives
        side.sync()
        r["restorable_ms"] = time.time() * 1000 - r["last_at_ms"]
        if side.proc.poll() is None:
            r["cpu_s"] = side.cpu() - before
            r["peak_mib"] = side.memory()["peak_mib"]
        if who is Walsup:
            c = side.status()[0]["counters"]
            r["wal_gib"] = c["frames"] * (24 + page) / 2**30
            r["cpu_per_gib"] = r["cpu_s"] / r["wal_gib"]
            r["counters"] = c
        if prove:
            out = d / "restored.db"
            side.restore("app", out)
            if last_row(out) != r["last"]:
                raise Failed(f"{who.__name__}: the replica ends at row {last_row(out)}, "
                             f"the last commit was {r['last']}")
    return r


def bench_writer(base, load):
    sides = [None, Walsup] + ([Litestream] if LITESTREAM else [])
    out = {}
    for rate in (0, 2000):
        rows = {s: [] for s in sides}
        for i in range(RUNS):
            for s in sides if i % 2 == 0 else sides[::-1]:
                rows[s].append(writer_run(base, s, rate, i == RUNS - 1))
                load.note()
        plain = rows[None]
        result = {}
        for s in sides:
            keys = [k for k in rows[s][0] if k not in ("last", "last_at_ms")
                    and all(isinstance(r.get(k), (int, float)) for r in rows[s])]
            m = {k: median(rows[s], k) for k in keys}
            m["max_us"] = max(r["max_us"] for r in rows[s])
            m["wal_max"] = max(r["wal_max"] for r in rows[s])
            m["errors"] = sum(r["errors"] for r in rows[s])
            # neighbours come and go: ratios are of runs next to each other
            if s is Litestream and all("cpu_s" in r for r in rows[s]):
                # it does not say how much WAL it read: as much per commit as walsup did
                m["cpu_per_gib"] = statistics.median(
                    a["cpu_s"] / (b["wal_gib"] / b["commits"] * a["commits"])
                    for a, b in zip(rows[s], rows[Walsup]))
            for k in ("commits_per_s", "p50_us", "p99_us"):
                m[f"{k}_ratio"] = statistics.median(
                    a[k] / b[k] for a, b in zip(rows[s], plain))
            m["runs"] = rows[s]
            result[s.__name__.lower() if s else "alone"] = m
        out["flat_out" if rate == 0 else f"{rate}_per_s"] = result
        title = "flat out" if rate == 0 else f"{rate} commits/s"
        print(f"\nwriter, {title}, 1 KiB rows, synchronous=NORMAL, median of {RUNS} x {SECONDS:g} s")
        table(["", "commits/s", "ratio", "p50 us", "p99 us", "ratio", "max ms", "WAL MiB",
               "restorable ms", "CPU s", "CPU s/GiB", "peak MiB"],
              [[k, f"{m['commits_per_s']:.0f}", f"{m['commits_per_s_ratio']:.2f}",
                f"{m['p50_us']:.1f}", f"{m['p99_us']:.1f}", f"{m['p99_us_ratio']:.2f}",
                f"{m['max_us'] / 1000:.1f}", f"{m['wal_max'] / 2**20:.1f}",
                cell(m, "restorable_ms", ".0f"), cell(m, "cpu_s", ".2f"),
                cell(m, "cpu_per_gib", ".2f"), cell(m, "peak_mib", ".0f")]
               for k, m in result.items()])
    return out


def lag_run(d, walsup, arrivals, commits):
    """single commits to a quiet database, each awaited in the replica"""
    con = sqlite3.connect(d / "app.db", isolation_level=None)
    con.execute("pragma synchronous=normal")
    txid = int(walsup.status()[0]["txid"], 16)
    lag = []
    for i in range(commits):
        next_at = time.monotonic() + 0.05  # the spacing is the input: 20 commits a second
        t0 = time.monotonic()
        con.execute("insert into load(at,b) values(?,randomblob(1024))", (i,))
        seen = txid
        while seen <= txid:
            seen = max(arrivals.wait(20))
        lag.append((time.monotonic() - t0) * 1000)
        txid = seen
        time.sleep(max(0, next_at - time.monotonic()))
    con.close()
    return lag


def bench_lag(base, load):
    out = {}
    for kind in ("file", "s3"):
        d = fresh(base, "lag")
        con = sqlite3.connect(d / "app.db")
        con.execute("pragma journal_mode=wal")
        con.execute("create table load(n integer primary key, at integer, b blob)")
        con.commit()
        s3 = S3(d) if kind == "s3" else None
        try:
            target = s3.target() if s3 else Walsup.file_target(d / "replica")
            with Walsup(d, {"app": d / "app.db"}, target, sync_interval="10ms") as w:
                w.sync()
                arrivals = (Arrivals(d / "s3/bench", ".data") if s3 else
                            Arrivals(d / "replica/app/ltx/0"))
                try:
                    lag = [x for _ in range(RUNS) for x in lag_run(d, w, arrivals, 40)]
                finally:
                    arrivals.close()
        finally:
            con.close()
            if s3:
                s3.stop()
        load.note()
        out[kind] = {"commits": len(lag), "p50_ms": percentile(lag, .5),
                     "p95_ms": percentile(lag, .95), "max_ms": max(lag)}
    print("\ncommit -> in the replica, quiet database, sync-interval 10ms, 20 commits/s")
    table(["", "commits", "p50 ms", "p95 ms", "max ms"],
          [[k, str(m["commits"]), f"{m['p50_ms']:.1f}", f"{m['p95_ms']:.1f}", f"{m['max_ms']:.1f}"]
           for k, m in out.items()])
    return out


def bench_memory(base, load):
    out = {}
    for n in (1, 100):
        d = fresh(base, "memory")
        dbs = {f"d{i}": d / f"d{i}.db" for i in range(n)}
        cons = []
        for p in dbs.values():
            con = sqlite3.connect(p)
            con.execute("pragma journal_mode=wal")
            con.execute("create table load(n integer primary key, at integer, b blob)")
            con.commit()
            cons.append(con)
        with Walsup(d, dbs, Walsup.file_target(d / "replica")) as w:
            w.sync()
            for con in cons:
                con.execute("insert into load(b) values(randomblob(5000))")
                con.commit()
            w.sync()
            idle = w.idle_cpu(2)
            out[str(n)] = {**w.memory(), "idle_cpu_percent": idle * 100}
        for con in cons:
            con.close()
        load.note()
    print("\nwalsupd with so many attached databases, each with a commit replicated")
    table(["databases", "RSS MiB", "peak MiB", "descriptors", "threads", "idle CPU %"],
          [[k, f"{m['rss_mib']:.1f}", f"{m['peak_mib']:.1f}", str(m["descriptors"]),
            str(m["threads"]), f"{m['idle_cpu_percent']:.1f}"] for k, m in out.items()])
    return out


def timed(fn):
    t0 = time.monotonic()
    fn()
    return time.monotonic() - t0


def bench_restore(base, load):
    d = fresh(base, "restore")
    db = d / "app.db"
    con = sqlite3.connect(db, isolation_level=None)
    con.execute("pragma journal_mode=off")
    con.execute("pragma synchronous=off")
    con.execute("create table load(n integer primary key, at integer, b blob)")
    # half of a row is text that compresses
    con.execute("with recursive c(x) as (select 1 union all select x+1 from c limit ?) "
                "insert into load(at,b) select x, "
                "hex(randomblob(256))||replace(hex(zeroblob(128)),'00','word') from c",
                (MIB * 768,))
    con.execute("pragma journal_mode=wal")
    con.close()
    with Walsup(d, {"app": db}, Walsup.file_target(d / "replica")) as w:
        w.sync()
        con = sqlite3.connect(db, isolation_level=None)
        for i in range(4):
            con.execute("update load set at=at+1 where n%1000=?", (i,))
            w.sync()
        con.close()
    files = sorted((d / "replica/app/ltx/0").glob("*.ltx"))
    size = db.stat().st_size
    out_db = d / "out.db"
    threads = os.cpu_count() or 1

    def baseline(n):
        return lambda: run(OUT / "bench/bench_restore", out_db, n, *files)

    def restore(check):
        return lambda: run(OUT / "walsupctl", "restore", "--url", f"file://{d}/replica/app",
                           "-o", out_db, "--integrity-check", check)
    what = {"baseline, 1 thread": baseline(1), f"baseline, {threads} threads": baseline(threads),
            "walsupctl restore": restore("quick"), "walsupctl restore, no quick_check": restore("none")}
    if LITESTREAM:
        what["litestream restore"] = lambda: run(LITESTREAM, "restore", "-o", out_db,
                                                 f"file://{d}/replica/app")
    took = {k: [] for k in what}
    for i in range(RUNS):
        for k in list(what) if i % 2 == 0 else list(what)[::-1]:
            out_db.unlink(missing_ok=True)
            os.sync()  # the next run shall not write what this one left behind
            took[k].append(timed(what[k]))
            load.note()
    out_db.unlink(missing_ok=True)
    restore("none")()
    con = sqlite3.connect(f"file:{out_db}?mode=ro", uri=True)
    src = sqlite3.connect(f"file:{db}?mode=ro", uri=True)
    query = "select count(*), sum(at), sum(length(b)) from load"
    if con.execute(query).fetchone() != src.execute(query).fetchone():
        raise Failed("the restored database differs from its source")
    con.close()
    src.close()
    best = statistics.median(took[f"baseline, {threads} threads"])
    out = {"bytes": size, "replica_bytes": sum(f.stat().st_size for f in files)}
    for k, v in took.items():
        s = statistics.median(v)
        out[k] = {"seconds": s, "mb_per_s": size / 1e6 / s, "to_baseline": s / best, "runs": v}
    print(f"\nrestore of {size / 2**20:.0f} MiB from a directory ({len(files)} files, "
          f"{out['replica_bytes'] / 2**20:.0f} MiB), everything in the page cache")
    table(["", "s", "MB/s", "x baseline"],
          [[k, f"{out[k]['seconds']:.2f}", f"{out[k]['mb_per_s']:.0f}",
            f"{out[k]['to_baseline']:.2f}"] for k in what])
    return out


# ---- output --------------------------------------------------------------------------------------

def cell(m, key, fmt):
    return format(m[key], fmt) if key in m else "-"


def table(head, rows):
    width = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for r in [head, *rows]:
        print("  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w)
                               for i, (c, w) in enumerate(zip(r, width))).rstrip())
    sys.stdout.flush()


def main():
    base = pathlib.Path(tempfile.mkdtemp(prefix="walsup-bench-", dir=os.environ.get("BENCH_DIR")))
    # a signal must end the children as well
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load, t0 = Load(), time.monotonic()
    result = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "seconds": SECONDS,
              "runs": RUNS, "sqlite": sqlite3.sqlite_version,
              "version": run(OUT / "walsupctl", "version").strip()}
    if LITESTREAM:
        result["litestream"] = run(LITESTREAM, "version").strip()
    print(f"{result['version']}; load {os.getloadavg()[0]:.2f} on {os.cpu_count()} CPUs"
          + (f"; Litestream {result['litestream']}" if LITESTREAM else ""))
    try:
        for name in ONLY:
            result[name] = globals()[f"bench_{name}"](base, load)
    except Failed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(base, ignore_errors=True)
    result["load"], result["took_s"] = load.result(), time.monotonic() - t0
    target = ROOT / "build" / "bench.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")
    one, two = result["load"]["before"][0], result["load"]["worst"]
    print(f"\n{result['took_s']:.0f} s; load {one:.2f} before, {two:.2f} at worst; {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
