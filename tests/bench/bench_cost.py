#!/usr/bin/python3
"""What a replica costs: requests and bytes, per database and day.

First walsup's own figures over two virtual days (tests/engines/history.c: the real code on a clock that is moved),
idle, with a commit a minute and with one an hour. Then both programs side by side for MINUTES real minutes (default 5) on
a real S3 server behind a proxy that counts: walsupd, and Litestream if LITESTREAM_BIN names a v0.5 program, each with
one idle database and one that gets a commit a minute, with their default intervals. MINIO_BIN names the server;
without it that part is skipped, and says so.
"""
import http.client
import http.server
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from ports import free_ports  # noqa: E402

OUT = pathlib.Path(os.environ.get("WALSUP_OUT", "build/release"))
MINUTES = float(os.environ.get("MINUTES", "5"))
KEY, SECRET, BUCKET = "benchbench", "benchbench-secret", "bench"


def virtual():
    for minutes in (0, 1, 60):
        base = tempfile.mkdtemp(prefix="walsup-cost")
        try:
            print(subprocess.run([str(OUT / "engines/history"), "cost", base, str(minutes), "1"], check=True,
                                 capture_output=True, text=True).stdout.strip())
        finally:
            shutil.rmtree(base)


class Counter(http.server.BaseHTTPRequestHandler):
    """forwards bytes as they are, so that signatures hold, and counts"""
    protocol_version = "HTTP/1.1"
    backend = None
    lock = threading.Lock()
    counts, uploaded = {}, {}

    def log_message(self, *args):
        pass

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.urlsplit(self.path)
        verb = "LIST" if self.command == "GET" and ("list-type" in path.query or "prefix=" in path.query) else self.command
        who = urllib.parse.unquote(self.path).split("prefix=")[-1] if verb == "LIST" else path.path
        who = next((w for w in ("walsup-idle", "walsup-busy", "litestream-idle", "litestream-busy") if w in who), "other")
        with self.lock:
            key = who, verb
            self.counts[key] = self.counts.get(key, 0) + 1
            if verb == "PUT":
                self.uploaded[who] = self.uploaded.get(who, 0) + len(body)
        con = http.client.HTTPConnection("127.0.0.1", self.backend, timeout=30)
        con.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            con.putheader(name, value)
        con.endheaders(body)
        answer = con.getresponse()
        data = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        con.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve


def make(path):
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("pragma journal_mode=wal")
    con.execute("create table t(a integer primary key, b)")
    con.execute("insert into t(b) values(randomblob(2000))")
    return con


def side_by_side(base):
    minio, litestream = os.environ.get("MINIO_BIN"), os.environ.get("LITESTREAM_BIN")
    if not minio:
        print("cost: MINIO_BIN is not set: no comparison with real requests")
        return
    port = free_ports(1)
    (base / "store" / BUCKET).mkdir(parents=True)
    procs = [subprocess.Popen([minio, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(base / "store")],
                              env={**os.environ, "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET},
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)]
    Counter.backend = port
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    names = [f"{w}-{k}" for w in ("walsup", "litestream") for k in ("idle", "busy")]
    con = {n: make(base / f"{n}.db") for n in names if litestream or n.startswith("walsup")}
    ini = base / "walsup.ini"
    ini.write_text(f"[walsup]\nstate-dir = {base}/state\nsocket = {base}/sock\n[target s3]\ntype = s3\nendpoint = {endpoint}\n"
                   f"bucket = {BUCKET}\npath = r\naccess-key-id = {KEY}\nsecret-access-key = {SECRET}\n" +
                   "".join(f"[db {n}]\npath = {base}/{n}.db\ntarget = s3\n" for n in con if n.startswith("walsup")))
    ini.chmod(0o600)
    log = open(base / "log", "w", encoding="utf-8")
    procs.append(subprocess.Popen([str(OUT / "walsupd"), "-c", str(ini)], stderr=log))
    if litestream:
        yml = base / "litestream.yml"
        yml.write_text("dbs:\n" + "".join(
            f"  - path: {base}/{n}.db\n    replica:\n      type: s3\n      bucket: {BUCKET}\n      path: r/{n}\n"
            f"      endpoint: {endpoint}\n      region: us-east-1\n      force-path-style: true\n      access-key-id: {KEY}\n"
            f"      secret-access-key: {SECRET}\n" for n in con if n.startswith("litestream")))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "LITESTREAM_"))}
        procs.append(subprocess.Popen([litestream, "replicate", "-config", str(yml)], env=env, stdout=log, stderr=log))
    try:
        time.sleep(45)  # both have settled: the first snapshots are there
        Counter.counts.clear()
        Counter.uploaded.clear()
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end:
            for n in con:
                if n.endswith("busy"):
                    con[n].execute("insert into t(b) values(randomblob(200))")
            time.sleep(min(60, max(0.1, end - time.monotonic())))
        print(f"cost: requests in {MINUTES:g} minutes, and by that in a day; a commit a minute in 'busy'")
        for n in con:
            verbs = {v: c for (who, v), c in sorted(Counter.counts.items()) if who == n}
            total = sum(verbs.values())
            print(f"cost: {n:16} {total:6} requests, {total * 1440 / MINUTES:8.0f} a day; uploaded "
                  f"{Counter.uploaded.get(n, 0)} bytes; {verbs}")
    finally:
        for p in reversed(procs):
            p.terminate()
            p.wait(60)
        server.shutdown()


def main():
    virtual()
    base = pathlib.Path(tempfile.mkdtemp(prefix="walsup-cost"))
    try:
        side_by_side(base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
