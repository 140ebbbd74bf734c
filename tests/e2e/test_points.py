"""Restores to a time, and the list of what can be restored."""
import json
import re
import sqlite3
import subprocess
import time

import pytest

from conftest import KEY_ID, SECRET, OUT, integrity, make_db

ENV = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET, "TZ": "Europe/Berlin"}


def iso(t):
    """with milliseconds, rounded down"""
    ms = int(t * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}Z"


def rows(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return [r[0] for r in con.execute("select n from log order by n")]
    finally:
        con.close()


@pytest.fixture
def history(world, s3):
    """a database with one synced commit after the other; [(time after it, number)]"""
    db = world.path / "a.db"
    con = make_db(db)
    con.execute("create table log(n integer)")
    con.commit()
    world.configure(world.file_target(), s3.target(), world.db("a", db, "local, s3"),
                    sync_interval="10ms")
    world.start()
    world.sync()
    # the times of files are those of the kernel's last tick, up to 10 ms before: apart by more than that
    time.sleep(0.002)
    done = [(time.time(), 0)]
    for n in range(1, 41):
        time.sleep(0.012)
        con.execute("insert into log values(?)", (n,))
        con.commit()
        world.sync()
        time.sleep(0.002)
        done.append((time.time(), n))
    con.close()
    assert world.stop() == 0
    return done


def restored(world, target, *args, check=True):
    out = world.path / "then.db"
    for side in ("", "-wal", "-shm"):
        (world.path / f"then.db{side}").unlink(missing_ok=True)
    r = world.ctl("restore", "a", "--target", target, "-o", out, *args, check=check, **ENV)
    return out, r


def test_each_moment_of_a_ledger(world, s3, history):
    for target in ("local", "s3"):
        before = len(s3.ledger())
        for t, n in history[::1 if target == "local" else 4]:
            out, r = restored(world, target, "--timestamp", iso(t), "--json")
            d = json.loads(r.stdout)
            assert rows(out) == list(range(1, n + 1)), (iso(t), d)
            assert d["timestamp_ms"] <= t * 1000 and d["asked_ms"] == int(t * 1000)
            if n < 40:
                assert d["next"]["timestamp_ms"] > t * 1000
                assert int(d["next"]["txid"], 16) == int(d["txid"], 16) + 1
            integrity(out)
        if target == "s3":
            # look only: ten lists, and at most 2 + log2(41) requests of 100 bytes
            before = len(s3.ledger())
            restored(world, target, "--timestamp", iso(history[17][0]), "--dry-run")
            asked = s3.ledger()[before:]
            lists = [r for r in asked if r["verb"] == "LIST"]
            gets = [r for r in asked if r["verb"] == "GET"]
            assert len(lists) == 10 and 0 < len(gets) <= 8 and len(asked) == len(lists) + len(gets)


def test_the_answer_in_words(world, history):
    t = history[10][0]
    out, r = restored(world, "local", "--timestamp", iso(t))
    m = re.search(r"at TXID ([0-9a-f]{16}) of (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) from", r.stdout)
    assert m, r.stdout
    local = re.search(r"^restored:  (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \+0[12]00) \(CES?T\)$",
                      r.stdout, re.M)
    assert local, r.stdout
    assert "asked for: " in r.stdout and "the next point is TXID" in r.stdout
    assert "verified: the database checksum" in r.stdout
    # what it says can be asked for again
    for text in (m[2], local[1]):
        _, again = restored(world, "local", "--timestamp", text, "--json")
        assert json.loads(again.stdout)["txid"] == m[1]
        assert json.loads(again.stdout)["timestamp"] == m[2]
    # seconds ago, and now
    out, r = restored(world, "local", "--timestamp", "now")
    assert rows(out) == list(range(1, 41)) and "nothing newer is in the replica" in r.stdout
    out, r = restored(world, "local", "--timestamp", "0 seconds ago", "--dry-run")
    assert "would be restored" in r.stdout and "asked for" in r.stdout


def test_times_that_cannot_be(world, history):
    for text, status, words in (
            ("soon", 64, "'soon' is not a time"), ("2026-02-30", 64, "no such date"),
            ("2999-01-01", 64, "in the future"), ("2026-03-29 02:30", 64, "skipped that time"),
            ("1 hour ago", 66, "does not reach back to"), ("1971-01-01T00:00:00Z", 66, "oldest point is TXID")):
        out, r = restored(world, "local", "--timestamp", text, check=False)
        assert r.returncode == status and words in r.stderr, (text, r.stderr)
        assert not out.exists()
    out, r = restored(world, "local", "--timestamp", "now", "--txid", "1", check=False)
    assert r.returncode == 64
    # the nearest is named, and is one
    txid = re.search(r"--txid ([0-9a-f]{16})",
                     restored(world, "local", "--timestamp", "1 hour ago", check=False)[1].stderr)[1]
    out, _ = restored(world, "local", "--txid", txid)
    assert out.exists()


def test_points(world, s3, history):
    r = world.ctl("points", "a", "--json", "--limit", "0", **ENV)
    d = json.loads(r.stdout)
    assert d["total"] == len(d["points"]) >= 41 and d["format"] == "ltx" and not d["gap"]
    assert sum(d["levels"].values()) == d["total"] and d["oldest"] == d["points"][0]
    for p, after in zip(d["points"], d["points"][1:]):
        assert p["timestamp_ms"] <= after["timestamp_ms"] and p["txid"] < after["txid"]
        assert p["size"] > 100
    # each is what it says
    for p in d["points"][::7]:
        out, r = restored(world, "s3", "--txid", p["txid"], "--json")
        assert json.loads(r.stdout)["timestamp_ms"] == p["timestamp_ms"]
    before = len(s3.ledger())
    r = world.ctl("points", "a", "--target", "s3", "--limit", "3", "--json")
    asked = s3.ledger()[before:]
    assert [x["verb"] for x in asked].count("GET") == 4 and len(asked) == 14
    assert json.loads(r.stdout)["points"] == d["points"][-3:]
    r = world.ctl("points", "a", "--target", "s3", **ENV)
    assert f"{d['total']} points" in r.stdout and "The newest 20" in r.stdout
    assert d["points"][-1]["txid"] in r.stdout and d["oldest"]["txid"] in r.stdout
    assert len(r.stdout.splitlines()) < 30
    # without configuration, and a database of which there is nothing
    r = subprocess.run([OUT / "walsupctl", "points", "--url", f"file://{world.replica}/a", "--json"],
                       capture_output=True, text=True)
    assert json.loads(r.stdout)["total"] == d["total"]
    r = subprocess.run([OUT / "walsupctl", "points", "--url", f"file://{world.path}/nothing"],
                       capture_output=True, text=True)
    assert r.returncode == 66 and not r.stdout
    for args in (["--limit", "x"], ["--limit", "-1"], ["--generation", "1"]):
        assert world.ctl("points", "a", *args, check=False).returncode == 64


def test_a_gap_is_said(world, history):
    files = sorted((world.replica / "a" / "ltx" / "0").glob("*.ltx"))
    files[-5].unlink()
    r = world.ctl("points", "a", "--target", "local")
    assert "a gap before them" in r.stdout
    d = json.loads(world.ctl("points", "a", "--target", "local", "--json", "--limit", "0").stdout)
    assert d["gap"] and d["points"][-1]["txid"] == files[-6].name[:16]
    out, r = restored(world, "local", "--timestamp", "now", check=False)
    assert r.returncode == 65 and "are missing" in r.stderr and not out.exists()
    t, n = history[20]
    out, _ = restored(world, "local", "--timestamp", iso(t))
    assert rows(out) == list(range(1, n + 1))
