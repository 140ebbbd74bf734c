"""walsupd --once: capture, upload, exit; for cron and machines that are not always on."""
import sqlite3
import subprocess
import time

import pytest

from conftest import OUT, image, make_db, section


def once(world, *args, timeout=60, **env):
    return subprocess.run([str(OUT / "walsupd"), "-c", str(world.ini), "--once", *args], env={**world.env, **env},
                          capture_output=True, text=True, timeout=timeout)


def test_everything_committed_is_in_every_replica_and_the_next_run_adds_what_is_new(world, s3):
    a, b = make_db(world.path / "a.db"), make_db(world.path / "b.db")
    world.configure(world.file_target(), s3.target(), world.db("a", target="local, s3"), world.db("b"))
    r = once(world)
    assert r.returncode == 0, r.stderr
    assert "2 databases: everything is in every replica" in r.stderr
    for target in ("local", "s3"):
        assert image(world.restore("a", target)) == image(world.path / "a.db")
    assert image(world.restore("b", "local")) == image(world.path / "b.db")
    before = len(list(world.replica.glob("a/ltx/*/*.ltx")))
    a.execute("insert into t(b) values('later')")
    a.commit()
    r = once(world)
    assert r.returncode == 0, r.stderr
    out = sqlite3.connect(world.restore("a", "s3"))
    assert out.execute("select count(*) from t where b = 'later'").fetchone() == (1,)
    assert len(list(world.replica.glob("a/ltx/*/*.ltx"))) == before + 1
    assert not world.socket.exists()
    a.close()
    b.close()


def test_databases_that_a_pattern_stands_for(world):
    for n in ("x", "y"):
        make_db(world.path / f"{n}.db").close()
    world.configure(world.file_target(), section("db all", {"path": world.path / "*.db", "target": "local"}))
    r = once(world)
    assert r.returncode == 0, r.stderr
    assert image(world.restore("all/x.db", "local")) == image(world.path / "x.db")
    assert image(world.restore("all/y.db", "local")) == image(world.path / "y.db")


def test_a_store_that_is_away_is_given_up_and_the_exit_status_says_so(world, s3):
    make_db(world.path / "a.db").close()
    make_db(world.path / "b.db").close()
    world.configure(world.file_target(), s3.target(endpoint="http://127.0.0.1:1"), world.db("a", target="s3"), world.db("b"),
                    shutdown_timeout="2s")
    start = time.monotonic()
    r = once(world)
    assert r.returncode == 69, r.stderr
    assert time.monotonic() - start < 30
    assert "a: not everything is in its replicas: target s3, given up after shutdown-timeout (2.0 s): " in r.stderr, r.stderr
    assert "1 of 2 databases: not everything is in every replica" in r.stderr
    # the other one did not suffer, and what was captured goes up the next time
    assert image(world.restore("b", "local")) == image(world.path / "b.db")
    world.configure(world.file_target(), s3.target(), world.db("a", target="s3"), world.db("b"))
    r = once(world)
    assert r.returncode == 0, r.stderr
    assert image(world.restore("a", "s3")) == image(world.path / "a.db")


@pytest.mark.parametrize("what, status, text", [
    ("missing", 66, "there is no database at"), ("journal", 81, "is not in WAL mode")])
def test_what_cannot_be_replicated_is_named(world, what, status, text):
    make_db(world.path / "b.db").close()
    if what == "journal":
        con = sqlite3.connect(world.path / "a.db")
        con.execute("create table t(a)")
        con.close()
    world.configure(world.file_target(), world.db("a"), world.db("b"))
    r = once(world)
    assert r.returncode == status, r.stderr
    assert text in r.stderr
    assert image(world.restore("b", "local")) == image(world.path / "b.db")


def test_while_the_service_runs_on_the_same_state_it_does_nothing(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    r = once(world)
    assert r.returncode == 75
    assert "another walsupd uses the state directory" in r.stderr


def test_what_is_due_of_merging_and_retention_is_done_too(world):
    """a machine that only ever runs --once would keep every file for ever otherwise"""
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), level1_interval="1s", level2_interval="0s", level3_interval="0s")
    for n in range(7):
        con.execute("insert into t(b) values(?)", (n,))
        con.commit()
        r = once(world)
        assert r.returncode == 0, r.stderr
    time.sleep(1.1)  # an interval of level 1 ends
    assert once(world).returncode == 0
    assert list(world.replica.glob("a/ltx/1/*.ltx"))
    con.close()


def test_asked_to_stop_before_it_is_done(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(endpoint="http://127.0.0.1:1"), world.db("a", target="s3"), shutdown_timeout="1s")
    p = subprocess.Popen([str(OUT / "walsupd"), "-c", str(world.ini), "--once"], env=world.env, stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if "ready:" in line:
            break
    p.terminate()
    rest = p.communicate(timeout=30)[1]
    assert p.returncode == 72, rest
    assert "not uploaded, to go from the spool after the next start" in rest
