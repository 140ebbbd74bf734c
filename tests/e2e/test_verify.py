"""walsupctl verify with the real daemon: what is proven, what is noticed, and what a user is told."""
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess

import pytest

from conftest import OUT, make_db


def verify(world, *args, status=0):
    r = world.ctl("verify", *args, "--json", check=False)
    d = json.loads(r.stdout)
    assert r.returncode == status, (r.returncode, d, r.stderr)
    return d if "error" in d else d["replicas"]


def changes(con, n=6):
    for i in range(n):
        con.execute("insert into t(b) values(randomblob(?))", (3000 + i,))
        con.execute("update t set b=randomblob(40) where a%3=?", (i % 3,))
        con.commit()
        yield i


@pytest.fixture
def replicated(world, s3):
    """seven captures in a directory and in a bucket"""
    con = make_db(world.path / "a.db")
    # not merged to level 1 meanwhile, which would heal what a test breaks
    world.configure(world.file_target(), s3.target(), world.db("a", target="local, s3", level1_interval="0s"))
    # nor missed by a look of the daemon's own, which would heal it as well
    world.start(WALSUP_TEST_FRESH_MS="600000")
    world.sync()
    for _ in changes(con):
        world.sync()
    yield world
    con.close()


def test_both_replicas_are_proven_and_are_the_source(replicated):
    world = replicated
    both = verify(world, "a")
    assert [r["target"] for r in both] == ["local", "s3"]
    for r in both:
        assert r["proven"] and r["counts"]["FOUND"] == r["checksums_compared"] == 7, r
        assert r["source"]["compared"] == "equal" and r["source"]["txid"] == world.status("a")["txid"]
    text = world.ctl("verify", "a").stdout
    assert "a in local: proven: 7 objects" in text and "pages are the source's at TXID" in text
    assert len(max(text.splitlines(), key=len)) <= 80
    # what was made for it goes with the connection, whose end the daemon sees in a moment
    db = world.state / "db" / "a"
    world.poll("it is gone again", lambda: not list(db.glob("pagemap.tmp*")))
    assert "FOUND    a/ltx/0/0000000000000001" in world.ctl("verify", "a", "--target", "local", "--all").stdout


def test_while_writers_write(replicated):
    """the map is taken first, and the replica has what is in it by then"""
    world = replicated
    con = sqlite3.connect(world.path / "a.db", timeout=30)
    for _ in changes(con, 5):
        for r in verify(world, "a"):
            assert r["proven"] and r["source"]["compared"] == "equal", r
    con.close()


def test_without_the_daemon_what_it_left_is_compared_with(replicated):
    world = replicated
    assert world.stop() == 0
    for r in verify(world, "a"):
        assert r["proven"] and r["source"]["compared"] == "equal", r
    # on a machine with the configuration only
    shutil.rmtree(world.state)
    for r in verify(world, "a"):
        assert r["proven"] and r["source"]["compared"] == "none", r
    text = world.ctl("verify", "a").stdout
    assert "not compared with the source: walsupd is not running" in " ".join(text.split())
    r = world.ctl("verify", "--url", f"file://{world.replica}/a")
    assert "proven" in r.stdout


@pytest.mark.outside
def test_the_database_is_not_opened(replicated):
    world = replicated
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    assert world.stop() == 0
    out = world.path / "strace"
    r = subprocess.run(["strace", "-f", "-e", "trace=%file", "-o", out, OUT / "walsupctl", "-c", world.ini, "verify",
                        "a"], capture_output=True, text=True,
                       env={**world.env, "ASAN_OPTIONS": "detect_leaks=0"})  # which ptrace does not go with
    assert r.returncode == 0 and "proven" in r.stdout, r
    calls = out.read_text()
    assert "pagemap" in calls
    # its path may be resolved and looked at, that is all
    touched = [line for line in calls.splitlines() if 'a.db' in line and "open" in line]
    assert not touched, touched


def test_a_flipped_and_a_missing_object_are_named(replicated):
    world = replicated
    l0 = world.replica / "a" / "ltx" / "0"
    files = sorted(l0.iterdir())
    data = bytearray(files[4].read_bytes())
    data[len(data) // 2] ^= 4
    files[4].write_bytes(data)
    files[2].unlink()
    (l0 / "notes.txt").write_text("mine")
    local, s3 = verify(world, "a", status=2)
    assert s3["proven"] and not local["latest_restores"]
    assert {(o["state"], o["name"] and o["name"].rsplit("/", 1)[1], o["min"]) for o in local["objects"]} == {
        ("DAMAGED", files[4].name, "0000000000000005"), ("LOST", None, "0000000000000003"),
        ("FOREIGN", "notes.txt", None)}
    assert local["lost"] == [{"first": "0000000000000003", "last": "0000000000000007"}]
    r = world.ctl("verify", "a", check=False)
    flat = " ".join(r.stdout.split())
    assert r.returncode == 2 and "THE LATEST STATE IS NOT SAFE" in flat and "a in s3: proven" in flat
    assert "What cannot be restored: TXID 0000000000000003 to 0000000000000007" in flat
    # and restore agrees
    r = world.ctl("restore", "a", "--target", "local", "-o", world.path / "o.db", check=False)
    assert r.returncode == 65


def test_without_its_newest_object_a_replica_is_not_the_source(replicated):
    """with no daemon to say that it was stored: it is sound, but what the daemon left says more"""
    world = replicated
    assert world.stop() == 0
    sorted((world.replica / "a" / "ltx" / "0").iterdir())[-1].unlink()
    local, s3 = verify(world, "a")
    assert s3["source"]["compared"] == "equal" and local["source"]["compared"] == "unusable"
    assert "nothing in the replica adds up to it" in local["source"]["why"]


def test_what_was_reported_and_is_gone_is_lost(replicated):
    """only the daemon knows that there was more"""
    world = replicated
    sorted((world.replica / "a" / "ltx" / "0").iterdir())[-1].unlink()
    local, s3 = verify(world, "a", status=2)
    assert s3["proven"]
    assert [(o["state"], o["min"]) for o in local["objects"]] == [("LOST", "0000000000000007")]
    assert "was reported as stored" in local["latest_why"]


def test_a_target_that_is_away_is_delayed_or_an_error(replicated, s3):
    world = replicated
    s3.faults({"verb": "PUT", "action": "status", "status": 503, "code": "SlowDown"})
    con = sqlite3.connect(world.path / "a.db")
    for _ in changes(con, 1):
        pass
    con.close()
    world.poll("it is noticed", lambda: world.status("a")["replicas"][1]["error"])
    local, away = verify(world, "a")
    assert local["source"]["compared"] == "equal"
    assert [(o["state"], o["min"]) for o in away["objects"]] == [("DELAYED", "0000000000000008")]
    assert away["proven"]  # nothing is wrong with what is there
    s3.faults({"verb": "LIST", "action": "status", "status": 403, "code": "AccessDenied"})
    r = world.ctl("verify", "a", "--target", "s3", check=False)
    assert r.returncode == 76 and "AccessDenied" in r.stderr
    s3.faults()


def test_an_object_that_goes_while_it_is_read_is_no_hole(replicated, s3):
    """compaction and retention work meanwhile: the listing is made again"""
    world = replicated
    assert world.stop() == 0
    victim = "backups/a/0000/0000000000000007-0000000000000007.ltx"
    s3.faults({"verb": "GET", "key_regex": victim, "action": "status", "status": 404, "code": "NoSuchKey",
               "count": 1})
    r = verify(world, "a", "--target", "s3")[0]
    assert r["proven"] and r["counts"]["FOUND"] == 7
    s3.faults({"verb": "GET", "key_regex": victim, "action": "status", "status": 404, "code": "NoSuchKey"})
    r = verify(world, "a", "--target", "s3", status=2)[0]
    assert r["objects"][0]["state"] in ("DAMAGED", "LOST") and r["objects"][0]["min"] == "0000000000000007"


def test_the_copy_goes_with_the_one_who_asked(world):
    """also when that one is killed, and when the daemon is"""
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(world.socket))

    def ask():
        s.sendall(json.dumps({"method": "io.walsup.PageMap", "parameters": {"db": "a"}}).encode() + b"\0")
        got = b""
        while not got.endswith(b"\0"):
            got += s.recv(65536)
        return json.loads(got[:-1])["parameters"]
    first, second = ask(), ask()
    assert first["txid"] == second["txid"]
    world.poll("the first one is gone", lambda: first["path"] == second["path"] or not os.path.exists(first["path"]))
    with open(second["path"], "rb") as f:
        assert f.read(8) == b"walsupPM"
    s.close()
    world.poll("the copy is gone", lambda: not os.path.exists(second["path"]))
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(world.socket))
    left = ask()["path"]
    world.stop(signal.SIGKILL)
    assert os.path.exists(left)
    s.close()
    world.start()
    world.sync()
    assert not os.path.exists(left)
    con.close()


def test_mistakes(world):
    con = make_db(world.path / "a.db")
    con.close()
    world.configure(world.file_target(), world.db("a"))
    r = world.ctl("verify", check=False)
    assert r.returncode == 64 and "which database" in r.stderr
    r = world.ctl("verify", "b", check=False)
    assert r.returncode == 66 and "there is no database 'b'" in r.stderr
    r = world.ctl("verify", "a", check=False)
    assert r.returncode == 66 and "the replica is empty" in r.stderr
    r = world.ctl("verify", "a", "--target", "nope", check=False)
    assert r.returncode == 66
    r = world.ctl("verify", "a", "--txid", "zz", check=False)
    assert r.returncode == 64 and "not a TXID" in r.stderr
    r = world.ctl("verify", "a", TMPDIR="/nonexistent", check=False)
    assert r.returncode == 66 and "/nonexistent" in r.stderr


# ---- the drill: what the daemon does by itself ----

def drilled(world, result):
    return world.poll(result, lambda: (world.status("a")["verify"] or {}).get("result") == result
                      and world.status("a")["verify"])


def test_the_drill_notices_and_says_so(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a", verify_interval="1s"))
    world.start()
    world.sync()
    v = drilled(world, "proven")
    assert v["text"] == "local: 1 objects proven" and v["interval_ms"] == 1000
    assert "verified" in world.ctl("status", "a").stdout and "a: replicas verified: local" in world.log.read_text()
    # again and again
    world.poll("the next one", lambda: world.status("a")["verify"]["time_ms"] > v["time_ms"])
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync()
    first, second = sorted((world.replica / "a" / "ltx" / "0").iterdir())
    good = second.read_bytes()
    second.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    v = drilled(world, "unsafe")
    assert second.name in v["text"]
    r = world.ctl("status", check=False)
    flat = " ".join(r.stdout.split())
    assert r.returncode == 1 and "degraded: 1 database" in flat and second.name in flat
    assert "the latest state of a replica is not safe" in flat and "walsupctl verify a says everything" in flat
    assert second.name in world.log.read_text()
    second.write_bytes(good)
    drilled(world, "proven")
    assert world.ctl("status").returncode == 0
    con.close()


def test_when_the_next_drill_is_due_survives_a_restart(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a", verify_interval="1s"))
    world.start()
    world.sync()
    drilled(world, "proven")
    assert world.stop() == 0
    # a day is not over, whatever the process is
    world.configure(world.file_target(), world.db("a", verify_interval="1d"))
    before = (world.state / "db" / "a" / "verified").read_text()
    world.start()
    v = drilled(world, "proven")
    assert str(v["time_ms"]) in before
    assert world.stop() == 0
    # two days are
    stamp, result, text = before.split(" ", 3)[1:]
    (world.state / "db" / "a" / "verified").write_text(f"1 {int(stamp) - 2 * 86400000} {result} {text}")
    world.start()
    world.poll("overdue", lambda: (world.status("a")["verify"] or {}).get("time_ms", 0) > int(stamp))
    assert world.stop() == 0
    # and a file that makes no sense is none
    world.configure(world.file_target(), world.db("a", verify_interval="1s"))
    (world.state / "db" / "a" / "verified").write_text("1 x y")
    world.start()
    drilled(world, "proven")
    assert world.stop() == 0


def test_a_drill_that_cannot_be_is_no_damage(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(), world.db("a", target="s3", verify_interval="1s"))
    world.start()
    world.sync()
    drilled(world, "proven")
    s3.faults({"verb": "GET", "action": "status", "status": 403, "code": "AccessDenied"},
              {"verb": "LIST", "action": "status", "status": 403, "code": "AccessDenied"})
    v = drilled(world, "failed")
    assert "AccessDenied" in v["text"] and v["time_ms"]
    assert world.ctl("status").returncode == 0
    assert "not verified now" in world.ctl("status", "a").stdout
    s3.faults()


@pytest.mark.outside
def test_the_daemon_ends_while_it_drills(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(), world.db("a", target="s3", verify_interval="1s"))
    world.start()
    world.sync()
    s3.faults({"verb": "LIST", "action": "stall"})
    pids = world.poll("it runs", lambda: children(world))
    # the daemon makes it nice when it has started it
    world.poll("it is nice", lambda: os.getpriority(os.PRIO_PROCESS, pids[0]) == 19, timeout=5)
    assert world.stop() == 0
    assert not any(os.path.exists(f"/proc/{p}") for p in pids)
    s3.faults()


def children(world):
    try:
        with open(f"/proc/{world.proc.pid}/task/{world.proc.pid}/children") as f:
            return [int(p) for p in f.read().split()]
    except FileNotFoundError:
        return []
