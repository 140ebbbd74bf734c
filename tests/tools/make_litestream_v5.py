#!/usr/bin/env python3
"""make_litestream_v5.py LITESTREAM OUT - a small replica that this Litestream v0.5 wrote under load, with
every level and snapshots, and golden.json: which database each of its TXIDs and times is, as Litestream
itself restores it. That is how tests/vectors/litestream-v0.5.* were made.
"""
import datetime
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

SECONDS = 9
PAGE_SIZE = 1024


def run(*args, check=True):
    r = subprocess.run([str(a) for a in args], capture_output=True, text=True, timeout=60)
    if check and r.returncode:
        sys.exit(f"{args}: {r.returncode}\n{r.stdout}{r.stderr}")
    return r


def load(db, seed):
    """commits of a few pages each; twice the database shrinks"""
    rnd = random.Random(seed)
    con = sqlite3.connect(db, timeout=30, isolation_level=None)
    end = time.monotonic() + SECONDS
    n = 0
    while time.monotonic() < end:
        n += 1
        con.execute("begin")
        con.execute("insert or replace into t(a,b) values(?,randomblob(?))",
                    (rnd.randrange(12), rnd.randrange(20, 700)))
        con.execute("commit")
        if n in (25, 60):
            con.execute("delete from t where a % 2")
            con.execute("vacuum")
        time.sleep(0.09)
    con.close()


def replicate(litestream, work):
    db = work / "db"
    con = sqlite3.connect(db)
    con.execute(f"pragma page_size={PAGE_SIZE}")
    con.execute("pragma journal_mode=wal")
    con.execute("create table t(a integer primary key, b blob)")
    con.commit()
    con.close()
    conf = work / "litestream.yml"
    conf.write_text(json.dumps({
        "levels": [{"interval": i} for i in ("500ms", "1s", "2s")],
        "snapshot": {"interval": "3s", "retention": "6s"},
        "l0-retention": "4s", "l0-retention-check-interval": "1s",
        "dbs": [{"path": str(db), "monitor-interval": "50ms",
                 "replica": {"type": "file", "path": str(work / "replica"), "sync-interval": "50ms"}}]}))
    with open(work / "log", "wb") as log:
        p = subprocess.Popen([litestream, "replicate", "-config", str(conf)], stdout=log, stderr=log)
    try:
        load(db, 5)
        p.send_signal(signal.SIGTERM)
        if p.wait(60):
            sys.exit((work / "log").read_text())
    finally:
        if p.poll() is None:
            p.kill()
            p.wait()


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def restored(litestream, work, *args):
    """sha256 of what it restores, None when it refuses"""
    out = work / "out"
    for side in ("", "-wal", "-shm"):
        pathlib.Path(f"{out}{side}").unlink(missing_ok=True)
    r = run(litestream, "restore", *args, "-o", out, f"file://{work}/replica", check=False)
    return sha(out) if r.returncode == 0 and out.exists() else None


def main():
    litestream, out = sys.argv[1], pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as tmp:
        work = pathlib.Path(tmp)
        replicate(litestream, work)
        files = sorted((work / "replica").rglob("*.ltx"))
        txids = sorted({int(re.search(r"-([0-9a-f]{16})\.ltx", f.name)[1], 16) for f in files})
        facts = {"page_size": PAGE_SIZE, "latest": {"txid": txids[-1]}, "txid": {}, "time": {}, "mtime_ms": {}}
        facts["latest"]["sha256"] = restored(litestream, work)
        for t in txids:
            facts["txid"][f"{t:016x}"] = restored(litestream, work, "-txid", f"{t:016x}")
        for f in files:
            facts["mtime_ms"][str(f.relative_to(work / "replica"))] = os.stat(f).st_mtime_ns // 1000000
        # strictly before: a millisecond after each file's own time is the state that it ends with
        for ms in sorted(set(facts["mtime_ms"].values())):
            at = datetime.datetime.fromtimestamp((ms + 1) / 1000, datetime.timezone.utc)
            text = at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"
            facts["time"][text] = restored(litestream, work, "-timestamp", text)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(work / "replica", out)
        (out / "golden.json").write_text(json.dumps(facts, indent=1) + "\n")
    size = sum(f.stat().st_size for f in out.rglob("*"))
    levels = {d.name: len(list(d.iterdir())) for d in sorted((out / "ltx").iterdir())}
    print(f"{out}: {len(files)} objects at levels {levels}, {size} bytes, "
          f"{sum(v is not None for v in facts['txid'].values())} of {len(txids)} TXIDs and "
          f"{sum(v is not None for v in facts['time'].values())} of {len(facts['time'])} times restored")


if __name__ == "__main__":
    main()
