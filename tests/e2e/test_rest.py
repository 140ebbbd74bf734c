"""What happens every second looks at the databases that are not at rest; the answers are those of a look at all of them.
Every walsupd of these tests runs with WALSUP_TEST_LOOK=check and ends itself when that is not so; `make rest` counts."""
import collections
import json
import re
import signal
import socket
import sqlite3

from conftest import make_db


def call(world, **parameters):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(world.socket))
        s.sendall(json.dumps({"method": "io.walsup.Status", "parameters": parameters}).encode() + b"\0")
        reply = b""
        while not reply.endswith(b"\0"):
            reply += s.recv(1 << 16)
    return json.loads(reply[:-1])["parameters"]


def test_what_is_told_of_all_is_what_each_of_them_says(world):
    for name in ("a", "b", "paused", "behind"):
        make_db(world.path / f"{name}.db").close()
    con = sqlite3.connect(world.path / "rollback.db")
    con.execute("create table t(a)")
    con.close()
    away = world.path / "away"
    away.write_text("no directory")
    names = ["a", "b", "paused", "rollback", "missing"]
    world.configure(world.file_target(), f"[target away]\ntype = file\npath = {away}\n\n", *(world.db(n) for n in names),
                    world.db("behind", target="away"), idle_timeout="1s", scan_interval="1h")
    world.start()
    world.sync("a")
    world.ctl("pause", "paused")
    expect = {"a": "idle", "b": "idle", "paused": "paused", "rollback": "not-wal", "missing": "waiting", "behind": "behind"}
    world.poll("every state", lambda: {d["name"]: d["state"] for d in world.status()["databases"]} == expect)
    full, short = call(world), call(world, limit=1)
    each = collections.Counter(d["state"] for d in full["databases"])
    assert full["counts"] == short["counts"] == dict(each)
    assert len(short["databases"]) == 1 and short["databases"][0]["state"] not in ("idle", "replicating")
    assert short["state"] == full["state"] and short["total"] == 6
    text = world.ctl("metrics").stdout
    for state, n in each.items():
        assert re.search(rf'^walsup_databases\{{state="{state}"\}} {n}$', text, re.M), (state, n, text)
    before = call(world, limit=0)["looks"]
    world.poll("it was compared", lambda: call(world, limit=0)["looks"]["checks"] > before["checks"] + 1)
    world.notify.drain()
    line = [x for x in world.notify.heard if x.startswith("STATUS=")][-1]
    assert "6 databases" in line and re.search(r"\d failed, [45] degraded|[1-5] failed", line), line


def rounds(world, n=3):
    """databases that were looked at in so many rounds"""
    before = call(world, limit=0)["looks"]
    world.poll(f"{n} rounds", lambda: call(world, limit=0)["looks"]["rounds"] >= before["rounds"] + n)
    return call(world, limit=0)["looks"]["visits"] - before["visits"]


def test_what_happens_to_one_that_sleeps_is_seen(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), idle_timeout="1s", scan_interval="1h", level1_interval="0s")
    world.start()
    state = lambda: world.status("a")["state"]
    for what in ("commit", "pause", "gone"):
        world.poll("nobody looks at it", lambda: state() == "idle" and rounds(world) == 0, timeout=60)
        if what == "commit":
            con.execute("insert into t(b) values(1)")
            con.commit()
            world.poll("awake", lambda: state() == "replicating")
        elif what == "pause":
            world.ctl("pause", "a")
            assert rounds(world) >= 3 and state() == "paused"
            world.ctl("resume", "a")
        else:
            con.close()
            (world.path / "a.db").rename(world.path / "b.db")
            world.poll("missing", lambda: state() == "missing")
        assert rounds(world, 2) >= 0 and world.proc.poll() is None


def test_the_control_looks_at_what_sleeps(world):
    for i in range(5):
        make_db(world.path / f"d{i}.db").close()
    world.configure(world.file_target(), *(world.db(f"d{i}") for i in range(5)), idle_timeout="1s", scan_interval="1h",
                    level1_interval="0s")
    for how, most, least in (("check", 0, 0), ("walk", 99, 10)):
        world.start(WALSUP_TEST_LOOK=how)
        world.poll("all sleep", lambda: call(world, limit=0)["counts"] == {"idle": 5})
        for _ in range(20):  # a look at a replica, after the start, may still be due
            before = call(world, limit=0)["looks"]
            world.poll("three rounds", lambda: call(world, limit=0)["looks"]["rounds"] >= before["rounds"] + 3)
            n = call(world, limit=0)["looks"]["visits"] - before["visits"]
            if least <= n <= most:
                break
        assert least <= n <= most, (how, n)
        world.stop(signal.SIGTERM)
