"""walsupctl pause and resume: a database that is left alone, and what goes on meanwhile."""
import json
import os
import sqlite3
import time

import pytest

from conftest import image, make_db, txids


def commit(con, n=1):
    for _ in range(n):
        con.execute("insert into t(b) values (randomblob(500))")
        con.commit()


@pytest.fixture
def one(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync("a")
    yield world, con
    con.close()


def test_a_paused_database_is_let_go_and_resume_captures_what_came_of_it(one):
    world, con = one
    commit(con)
    r = world.ctl("pause", "a", "--reason", "moving house")
    assert r.stdout.startswith("a: paused, captured up to TXID 0000")
    before = txids(world)
    # nobody of walsup's keeps the WAL any more: the application's checkpoint gets through, as often as it likes
    for _ in range(3):
        commit(con, 3)
        assert con.execute("pragma wal_checkpoint(truncate)").fetchone() == (0, 0, 0)
    d = world.status("a")
    assert (d["state"], d["paused"]["reason"], d["paused"]["uid"]) == ("paused", "moving house", os.geteuid())
    assert abs(d["since_ms"] / 1000 - time.time()) < 60 and d["since_ms"] == d["paused"]["since_ms"]
    r = world.ctl("status", check=False)
    assert r.returncode == 1 and "paused" in r.stdout
    by = f"uid {os.geteuid()}" if os.geteuid() else "root"
    assert f"moving house: paused by {by}; commits are not captured (for " in " ".join(r.stdout.split())
    assert "hint: walsupctl resume a" in " ".join(r.stdout.split())
    assert txids(world) == before
    assert world.ctl("resume", "a").stdout == "a: resumed\n"
    world.sync("a")
    assert world.status("a")["state"] == "replicating" and world.status("a")["paused"] is None
    assert image(world.restore("a", "local")) == image(world.path / "a.db")


def test_what_happened_while_paused_costs_what_differs(one):
    world, con = one
    con.executemany("insert into t(b) values (randomblob(3000))", [()] * 500)
    con.commit()
    world.sync("a")
    full = world.status("a")["counters"]["full_captures"]
    world.ctl("pause", "a")
    commit(con, 2)
    con.execute("pragma wal_checkpoint(truncate)")
    world.ctl("resume", "a")
    world.sync("a")
    c = world.status("a")["counters"]
    assert c["full_captures"] == full and 0 < c["resync_pages"] < 50
    assert image(world.restore("a", "local")) == image(world.path / "a.db")


def test_who_wants_a_capture_is_answered_at_once(one):
    world, con = one
    world.ctl("pause", "a", "--reason", "upgrade")
    commit(con)
    for verb in (["sync", "a", "--wait"], ["sync", "a"], ["snapshot", "a"]):
        begin = time.monotonic()
        r = world.ctl(*verb, check=False)
        assert r.returncode == 75 and time.monotonic() - begin < 5
        assert r.stderr == "walsupctl: a is paused (upgrade), so its commits are not captured\nhint: walsupctl resume a\n"
    assert world.ctl("sync", "--wait").stdout == ""  # of all: like one that is not there
    assert world.ctl("verify", "a", check=False).returncode == 0  # what is stored can be proven all the same


def test_a_restart_keeps_it_and_does_not_wait_for_it(one):
    world, con = one
    world.ctl("pause", "a", "--reason", "the disk is moved")
    since = world.status("a")["since_ms"]
    for _ in range(2):
        assert world.stop() == 0
        commit(con)
        world.start()  # waits for READY
        d = world.status("a")
        assert (d["state"], d["paused"]["reason"], d["since_ms"]) == ("paused", "the disk is moved", since)
        assert con.execute("pragma wal_checkpoint(truncate)").fetchone() == (0, 0, 0)
    assert "a: paused: the disk is moved, as before the start" in world.log.read_text()
    world.ctl("resume", "a")
    world.sync("a")
    assert image(world.restore("a", "local")) == image(world.path / "a.db")
    world.stop()
    world.start()
    assert world.status("a")["state"] in ("replicating", "idle")


def test_killed_while_paused_it_stays_paused(one):
    world, con = one
    world.ctl("pause", "a")
    world.proc.kill()
    world.stop()
    world.start()
    assert world.status("a")["state"] == "paused"


def test_what_was_captured_is_uploaded_while_it_is_paused(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    world.sync("a")
    acked = world.status("a")["replicas"][0]["txid"]
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    commit(con)
    world.ctl("sync", "a")
    r = world.ctl("pause", "a")
    assert "1 file is still to be uploaded" in r.stdout
    assert world.status("a")["replicas"][0]["txid"] == acked
    s3.faults()
    d = world.poll("uploaded", lambda: (d := world.status("a"))["replicas"][0]["pending_files"] == 0 and d)
    assert d["state"] == "paused" and d["replicas"][0]["txid"] == d["txid"] > acked
    begin = time.monotonic()
    assert world.stop() == 0 and time.monotonic() - begin < 10
    con.close()


def test_all_of_them_and_mistakes(world):
    cons = [make_db(world.path / f"{n}.db") for n in "abc"]
    world.configure(world.file_target(), world.db("a"), world.db("p", world.path / "[bc].db"))
    world.start()
    world.sync()
    r = world.ctl("pause", "--all", "--json")
    assert {d["name"]: d["changed"] for d in json.loads(r.stdout)["databases"]} == {"a": True, "p/b.db": True, "p/c.db": True}
    assert world.status()["counts"] == {"paused": 3}
    assert world.ctl("resume", world.path / "b.db").stdout == "p/b.db: resumed\n"
    assert world.ctl("resume", "p/b.db").stdout == "p/b.db: was not paused\n"
    assert "a: was paused already" in world.ctl("pause", "a", "--reason", "second thought").stdout
    assert world.status("a")["paused"]["reason"] == "second thought"
    for args, status, words in ((["pause"], 64, "name a database, or say --all"),
                                (["resume", "a", "--all"], 64, "not both"),
                                (["pause", "nobody"], 66, "no database is called nobody"),
                                (["pause", "a", "--reason", "x" * 201], 64, "longer than 200 bytes")):
        r = world.ctl(*args, check=False)
        assert (r.returncode, r.stdout) == (status, "") and words in r.stderr
    world.ctl("reload")  # the same configuration changes nothing about it
    assert world.status()["counts"]["paused"] == 2
    world.ctl("resume", "--all")
    world.sync()
    for con in cons:
        con.close()


def test_pause_in_the_midst_of_commits_loses_none(one):
    world, con = one
    con.execute("pragma synchronous=off")
    for _ in range(5):
        commit(con, 20)
        world.ctl("pause", "a")
        commit(con, 20)
        world.ctl("resume", "a")
        commit(con, 20)
    world.sync("a")
    out = world.restore("a", "local")
    assert image(out) == image(world.path / "a.db")
    assert sqlite3.connect(out).execute("select count(*) from t").fetchone() == con.execute("select count(*) from t").fetchone()


def test_a_record_that_is_damaged_counts_and_says_so(one):
    world, con = one
    world.stop()
    (world.state / "db" / "a" / "paused").write_text("{not json")
    world.start()
    d = world.status("a")
    assert d["state"] == "paused" and "cannot be read" in d["paused"]["reason"]
    world.ctl("resume", "a")
    assert not (world.state / "db" / "a" / "paused").exists()
    world.sync("a")


def test_a_pause_for_a_time_ends_by_itself_and_captures_what_came(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    r = world.ctl("pause", "a", "--for", "2s", "--reason", "moving house")
    assert r.stdout.startswith("a: paused")
    d = world.status("a")
    assert d["state"] == "paused" and 0 < d["paused"]["until_ms"] - d["paused"]["since_ms"] <= 2500
    assert "until 20" in d["detail"]
    assert con.execute("pragma journal_mode=delete").fetchone()[0] == "delete"  # it has the database for itself
    assert con.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
    con.execute("insert into t(b) values('while paused')")
    con.commit()
    world.poll("resumed", lambda: world.status("a")["state"] in ("replicating", "idle"), timeout=15)
    world.sync()
    assert image(world.restore("a", "local")) == image(world.path / "a.db")


def test_a_pause_for_a_time_that_ended_while_walsupd_was_down_is_over(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    world.ctl("pause", "a", "--for", "1s")
    until = world.status("a")["paused"]["until_ms"]
    world.stop()
    while time.time() * 1000 < until:  # the time is the input
        time.sleep(0.05)
    world.start()
    world.sync()
    assert world.status("a")["paused"] is None


def test_a_pause_for_no_time(world):
    world.configure(world.file_target(), world.db("a"))
    r = world.ctl("pause", "a", "--for", "soon", check=False)
    assert r.returncode == 64 and "--for soon is not a time such as 10m" in r.stderr
