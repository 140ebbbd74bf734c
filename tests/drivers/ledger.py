"""ledger.py DRIVER DATABASE LEDGER - commits a row at a time; what was committed goes into the ledger, synced."""
import os
import sys
import time

driver, path, ledger = sys.argv[1:]
if driver == "sqlite3":
    import sqlite3
    db = sqlite3.connect(path, timeout=5, isolation_level=None)
    version = "SQLite " + sqlite3.sqlite_version
elif driver.startswith("apsw"):
    import apsw
    vfs = "unix" if driver in ("apsw", "apsw-exclusive") else driver[5:]
    db = apsw.Connection(path, vfs=vfs)
    db.setbusytimeout(40000 if driver == "apsw-exclusive" else 5000)
    if driver != "apsw":  # no wal-index that anybody could share
        db.execute("pragma locking_mode=exclusive")
    version = "SQLite " + apsw.sqlitelibversion()
else:
    import turso
    # it locks the whole file, and does not start while anybody else has it open
    start = time.monotonic()
    while True:
        try:
            db = turso.connect(path)
            break
        except turso.Error as e:
            if "lock" not in str(e).lower() or time.monotonic() > start + 120:
                raise
            time.sleep(0.05)
    if time.monotonic() > start + 1:
        print("could start only after %.1f s" % (time.monotonic() - start), flush=True)
    version = "SQLite's format, by another program"


def run(sql, *args):
    c = db.cursor()
    c.execute(sql, args)
    return c


def value(sql):
    return run(sql).fetchone()[0]


def commit():
    if driver == "turso":
        db.commit()


print(version, value("pragma journal_mode=wal"), flush=True)
run("create table if not exists t(id integer primary key, x text)")
commit()
n = value("select coalesce(max(id), 0) from t")
commit()
f = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
while True:
    n += 1
    run("insert into t values(?, ?)", n, "x" * 100)
    commit()
    os.write(f, b"%d\n" % n)
    os.fsync(f)
    time.sleep(0.005)
