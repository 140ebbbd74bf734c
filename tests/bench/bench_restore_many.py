#!/usr/bin/env python3
"""make bench-restore: a restore of 1 GiB with 10 000 small files since the snapshot.

Prints a table and writes build/bench-restore.json: medians of runs in alternation, the largest resident set,
ratios, the load. Fails when walsup needs more than 128 MiB or does not verify what it restored. Standard
library only; everything over loopback.

  BENCH_RUNS        how often (3)
  BENCH_MIB         size of the database (1024)
  BENCH_COMMITS     files since the snapshot (10000)
  BENCH_DIR         where the files go (a directory in /tmp, removed afterwards)
  LITESTREAM_BIN    a Litestream v0.5, which restores the same replica
  LITESTREAM_V3_BIN a Litestream v0.3, which restores its own replica of the same commits (where
                    tests/tools/get_litestream_v3.sh puts it)
"""
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from xml.sax.saxutils import escape

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(os.environ.get("WALSUP_OUT", ROOT / "build" / "release"))
RUNS = int(os.environ.get("BENCH_RUNS", "3"))
MIB = int(os.environ.get("BENCH_MIB", "1024"))
COMMITS = int(os.environ.get("BENCH_COMMITS", "10000"))
V5 = os.environ.get("LITESTREAM_BIN")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
V3 = os.environ.get("LITESTREAM_V3_BIN", str(CACHE / "walsup-test" / "litestream-v0.3.13"))
ENV = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LITESTREAM_", "WALSUP_"))}
ENV.update(AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench", AWS_REGION="us-east-1",
           LITESTREAM_ACCESS_KEY_ID="bench", LITESTREAM_SECRET_ACCESS_KEY="bench")
RSS_MAX_MIB = 128


class Handler(http.server.BaseHTTPRequestHandler):
    """the replica's directory as a bucket: lists and ranges, no signatures. As fast as Python can"""
    protocol_version = "HTTP/1.1"
    replica = None

    def log_message(self, *args):
        pass

    def answer(self, status, body, headers=()):
        self.send_response(status)
        for k, v in headers:
            self.send_header(k, v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def list(self, query):
        prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
        after = query.get("continuation-token", query.get("marker", [after]))[0]
        most = int(query.get("max-keys", ["1000"])[0])
        keys = []
        for level in self.replica.glob("ltx/*"):
            head = f"app/{int(level.name):04x}/"
            if head.startswith(prefix) or prefix.startswith(head):
                keys += [(head + p.name, p) for p in level.iterdir()]
        keys = sorted(k for k in keys if k[0].startswith(prefix) and k[0] > after)
        page = keys[:most]
        more = len(keys) > len(page)
        rows = "".join(
            f"<Contents><Key>{escape(k)}</Key><Size>{p.stat().st_size}</Size><ETag>\"x\"</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass>"
            "</Contents>" for k, p in page)
        self.answer(200, (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult '
            'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bench</Name>'
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{most}</MaxKeys>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>"
               f"<NextMarker>{escape(page[-1][0])}</NextMarker>" if more else "")
            + rows + "</ListBucketResult>").encode(), [("Content-Type", "application/xml")])

    def object(self, key):
        parts = key.split("/")
        return self.replica / "ltx" / str(int(parts[1], 16)) / parts[2]

    def do_GET(self):
        path, _, query = self.path.partition("?")
        key = urllib.parse.unquote(path).removeprefix("/bench").lstrip("/")
        if not key:
            return self.list(urllib.parse.parse_qs(query, keep_blank_values=True))
        try:
            fd = os.open(self.object(key), os.O_RDONLY)
        except (OSError, IndexError, ValueError):
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>",
                               [("Content-Type", "application/xml")])
        size = os.fstat(fd).st_size
        first, last = 0, size - 1
        if "Range" in self.headers:
            a, _, b = self.headers["Range"].removeprefix("bytes=").partition("-")
            first, last = int(a), min(int(b or last), last)
        self.send_response(206 if "Range" in self.headers else 200)
        for k, v in (("Content-Length", last + 1 - first), ("ETag", '"x"'),
                     ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
                     ("x-amz-meta-walsup-checksum", os.getxattr(fd, "user.walsup-checksum").decode())):
            self.send_header(k, str(v))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        self.wfile.flush()
        if self.command == "GET":
            while first <= last:
                first += os.sendfile(self.connection.fileno(), fd, first, last + 1 - first) or 1 << 62
        os.close(fd)

    do_HEAD = do_GET


class Server:
    """a few processes on one socket"""

    def __init__(self, replica):
        Handler.replica = replica
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.pids = []
        for _ in range(os.cpu_count() or 2):
            pid = os.fork()
            if not pid:
                self.http.socket.setsockopt(socket.SOL_TCP, socket.TCP_NODELAY, 1)
                self.http.serve_forever()
            self.pids.append(pid)

    def stop(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def measured(args, out):
    """seconds, MiB resident at most, what it printed"""
    for p in out.parent.glob(out.name + "*"):
        p.unlink()
    begin = time.monotonic()
    with tempfile.TemporaryFile() as text:
        p = subprocess.Popen([str(a) for a in args], stdout=text, stderr=text, stdin=subprocess.DEVNULL,
                             env=ENV)
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        took = time.monotonic() - begin
        text.seek(0)
        said = text.read().decode(errors="replace")
    if p.returncode:
        sys.exit(f"{' '.join(map(str, args))}: {p.returncode}\n{said[-2000:]}")
    return took, usage.ru_maxrss / 1024, said


def v3_replica(base):
    """the same commits while the real v0.3 replicates; None without it"""
    if not os.access(V3, os.X_OK):
        return None
    db, conf, replica = base / "v3.db", base / "v3.yml", base / "v3"
    make = [str(OUT / "bench/bench_replica"), str(db), str(MIB), str(COMMITS)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    conf.write_text(json.dumps({"dbs": [{"path": str(db), "replicas": [
        {"type": "file", "path": str(replica), "sync-interval": "1ms"}],
        "monitor-interval": "1ms", "checkpoint-interval": "10m", "max-checkpoint-page-count": 100000}]}))
    with open(base / "v3.log", "wb") as log:
        p = subprocess.Popen([V3, "replicate", "-config", str(conf)], stdout=log, stderr=log, env=ENV)
        try:
            end = time.monotonic() + 120
            while not list(replica.glob("generations/*/snapshots/*.lz4")):
                if time.monotonic() > end:
                    sys.exit("Litestream v0.3 makes no snapshot: " + (base / "v3.log").read_text())
                time.sleep(0.1)
            subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
            time.sleep(2)
        finally:
            p.send_signal(signal.SIGTERM)
            p.wait(60)
    files = len(list(replica.glob("generations/*/wal/*")))
    print(f"v0.3's replica: {files} WAL segments", flush=True)
    return replica


def sides(base, replica, endpoint):
    """name -> arguments; the output is the last"""
    url = f"s3://bench/app?endpoint={endpoint}&region=us-east-1"
    ctl = [OUT / "walsupctl", "restore", "app"]
    all_sides = {"walsup, directory": [*ctl, "--url", f"file://{replica}", "-o"],
                 "walsup, S3": [*ctl, "--url", url, "-o"]}
    if V5:
        conf = base / "v5.yml"
        conf.write_text(json.dumps({"dbs": [{"path": str(base / "v5.db"), "replica": {
            "type": "s3", "bucket": "bench", "path": "app", "endpoint": endpoint, "region": "us-east-1",
            "force-path-style": True}}]}))
        all_sides["Litestream v0.5, directory"] = [V5, "restore", f"file://{replica}"]
        all_sides["Litestream v0.5, S3"] = [V5, "restore", "-config", conf, base / "v5.db"]
    return all_sides


def arguments(args, out):
    """Litestream wants options before operands"""
    if args[0] == V5:
        return [args[0], args[1], "-o", out, *args[2:]]
    return [*args, out]


def main():
    own = "BENCH_DIR" not in os.environ
    base = pathlib.Path(tempfile.mkdtemp(prefix="walsup-bench-restore-",
                                         dir=None if own else os.environ["BENCH_DIR"]))
    server = None
    try:
        replica = base / "replica"
        made = json.loads(subprocess.run(
            [OUT / "bench/bench_replica", base / "app.db", str(MIB), str(COMMITS), replica], check=True,
            stdout=subprocess.PIPE).stdout)
        old = v3_replica(base)
        server = Server(replica)
        todo = sides(base, replica, server.endpoint)
        if old:
            todo["Litestream v0.3, directory"] = [V3, "restore", "-o", "{out}", f"file://{old}"]
        rows = {name: [] for name in todo}
        for _ in range(RUNS):
            for name, args in todo.items():
                out = base / "out.db"
                full = [out if a == "{out}" else a for a in args] if "{out}" in args \
                    else arguments(args, out)
                took, rss, said = measured(full, out)
                if name.startswith("walsup") and made["checksum"] not in said:
                    sys.exit(f"{name}: not verified: {said}")
                rows[name].append((took, rss, os.getloadavg()[0]))
                print(f"  {name:28} {took:7.2f} s  {rss:6.0f} MiB", flush=True)
        report(rows, made)
    finally:
        if server:
            server.stop()
        shutil.rmtree(base, ignore_errors=True)


def report(rows, made):
    table = {n: {"seconds": statistics.median(x[0] for x in r), "rss_mib": max(x[1] for x in r),
                 "load": max(x[2] for x in r)} for n, r in rows.items()}
    print(f"\n{MIB} MiB, {COMMITS} files of level 0, {made['replica_bytes'] >> 20} MiB in the replica; "
          f"medians of {RUNS}, {os.cpu_count()} processors\n")
    print(f"{'':28} {'seconds':>9} {'MiB/s':>7} {'RSS MiB':>8} {'load':>6}")
    for name, t in table.items():
        print(f"{name:28} {t['seconds']:9.2f} {MIB / t['seconds']:7.0f} {t['rss_mib']:8.0f} {t['load']:6.1f}")
    for where in ("directory", "S3"):
        for other in ("Litestream v0.5", "Litestream v0.3"):
            if f"{other}, {where}" in table:
                ratio = table[f"{other}, {where}"]["seconds"] / table[f"walsup, {where}"]["seconds"]
                print(f"{where}: walsup is {ratio:.1f} times as fast as {other}")
    (ROOT / "build" / "bench-restore.json").write_text(json.dumps(table, indent=1))
    worst = max(t["rss_mib"] for n, t in table.items() if n.startswith("walsup"))
    if worst > RSS_MAX_MIB:
        sys.exit(f"walsup needed {worst:.0f} MiB, {RSS_MAX_MIB} are allowed")


if __name__ == "__main__":
    main()
