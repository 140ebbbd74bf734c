"""What a replica holds is gone: a disk that is not mounted, a bucket that somebody emptied. Nothing is built on it and
nobody is told that it is there, until it is whole again."""
import os
import shutil

import pytest

from conftest import make_db, pages_equal

MARKER = "walsup-target"


def add(con, n=1):
    con.executemany("insert into t(b) values(randomblob(?))", [(200,)] * n)
    con.commit()


def words(r):
    return " ".join((r.stdout + r.stderr).split())


def replica(world, db="a"):
    return world.status(db)["replicas"][0]


# ---- a directory -----------------------------------------------------------------------------------------


def put_in_its_place(world, what):
    """as if the disk was not mounted; returns the directory that is there now"""
    os.rename(world.replica, world.path / "the-disk")
    if what != "nothing":
        world.replica.mkdir()
    if what == "another disk":
        (world.replica / MARKER).write_text("id = 00000000000000aa\n")
    if what == "replicas without a marker":
        shutil.copytree(world.path / "the-disk" / "a", world.replica / "a")


def put_back(world):
    shutil.rmtree(world.replica, ignore_errors=True)
    os.rename(world.path / "the-disk", world.replica)


def below(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("when", ["running", "restart"])
@pytest.mark.parametrize("what", ["an empty directory", "nothing", "another disk", "replicas without a marker", "itself"])
def test_a_target_whose_disk_is_not_mounted_gets_nothing(world, what, when):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    assert (world.replica / MARKER).exists()
    if when == "restart":
        assert world.stop() == 0
    if what != "itself":
        put_in_its_place(world, what)
    there = below(world.replica)
    if when == "restart":
        world.start()
    add(con)
    r = world.sync("--timeout", "3s", check=False)
    if what == "itself":  # the control
        assert r.returncode == 0 and replica(world)["state"] == "ok"
        return
    assert r.returncode == 72 and "is not the directory that target local was stored in before" in words(r), words(r)
    assert "is its disk mounted?" in words(r) and "walsupctl adopt local" in words(r)
    status = world.ctl("status", check=False)
    assert status.returncode == 1 and replica(world)["state"] == "error"
    assert below(world.replica) == there, "something was stored where the disk is not"
    check = world.ctl("check", check=False)
    assert check.returncode == 1 and "walsupctl adopt local" in words(check)
    assert below(world.replica) == there and world.replica.exists() == (what != "nothing")
    put_back(world)
    world.sync()
    assert "ok the one that walsupd knows" in words(world.ctl("check"))
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_a_directory_that_was_emptied_on_purpose_is_adopted(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    shutil.rmtree(world.replica)
    world.replica.mkdir()
    add(con)
    assert world.sync("--timeout", "2s", check=False).returncode == 72
    assert world.ctl("adopt", "nowhere", check=False).returncode == 66
    for verb in (("restore", "a", "-o", world.path / "r.db"), ("verify", "a"), ("points", "a")):
        r = world.ctl(*verb, check=False)
        assert r.returncode == 66 and "is its disk mounted" in r.stderr, r.stderr
    assert "is its directory from now on" in words(world.ctl("adopt", "local"))
    world.sync()
    assert (world.replica / MARKER).exists()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    assert world.ctl("verify", "a").returncode == 0
    assert world.stop() == 0
    world.start()
    world.sync()


def test_a_directory_of_an_earlier_version_is_recognised(world):
    """its replicas have no marker, and nobody remembers one"""
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    assert world.stop() == 0
    (world.replica / MARKER).unlink()
    shutil.rmtree(world.state / "targets")
    world.start()
    world.sync()
    add(con)
    world.sync()
    assert (world.replica / MARKER).exists()
    assert world.stop() == 0
    # and when it is not mounted at the first start of the new one
    shutil.rmtree(world.state / "targets")
    put_in_its_place(world, "an empty directory")
    world.start()
    add(con)
    r = world.sync("--timeout", "2s", check=False)
    assert r.returncode == 72 and "it is empty, and something was stored in it" in words(r), words(r)
    assert not below(world.replica)
    put_back(world)
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_a_bucket_cannot_be_adopted(world, s3):
    world.configure(s3.target("s3"), world.db("a", target="s3"))
    make_db(world.path / "a.db")
    world.start()
    r = world.ctl("adopt", "s3", check=False)
    assert r.returncode == 64 and "only a directory can be adopted" in words(r)


# ---- objects ---------------------------------------------------------------------------------------------


def taken(what, s3):
    level0 = [k for k in s3.keys() if "/0000/" in k]
    return {"everything": s3.keys(), "the whole database": level0[:1], "the newest": level0[-1:],
            "one in the middle": level0[-2:-1], "nothing": []}[what]


@pytest.mark.parametrize("when", ["running", "restart"])
@pytest.mark.parametrize("what", ["everything", "the whole database", "the newest", "one in the middle", "nothing"])
def test_objects_that_somebody_deleted_are_missed_before_anybody_relies_on_them(world, s3, what, when):
    con = make_db(world.path / "a.db")
    # not merged to level 1 meanwhile: what a merged file has as well may be missing from level 0
    db = world.db("a", target="s3", sync_interval="50ms", level1_interval="0s")
    world.configure(s3.target("s3"), db)
    world.start(WALSUP_TEST_FRESH_MS="1")
    world.sync()
    for _ in range(4):
        add(con)
        world.sync()
    if when == "restart":
        assert world.stop() == 0
    s3.take_away(taken(what, s3))
    if when == "restart":
        world.start(WALSUP_TEST_FRESH_MS="1")
        if what == "one in the middle":
            world.sync()  # a start lists nothing: the first look is at both ends
    add(con)
    world.sync()
    log = world.log.read_text()
    assert ("is gone from" in log) == (what != "nothing"), log
    assert ("the replica is whole again" in log) == (what != "nothing"), log
    assert replica(world)["state"] == "ok"
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)
    add(con)
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


def test_an_idle_replica_is_looked_at_though_nobody_asks(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target("s3"), world.db("a", target="s3", sync_interval="50ms"))
    world.start(WALSUP_TEST_LOOK_MS="300")
    world.sync()
    con.close()
    s3.take_away(s3.keys())
    world.poll("a new snapshot", lambda: "whole again" in world.log.read_text())
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)
    # keys that were revoked
    s3.faults({"action": "status", "status": 403, "code": "AccessDenied"})
    world.poll("it is said", lambda: replica(world)["state"] == "error")
    assert world.ctl("status", check=False).returncode == 1
    s3.faults()
    world.poll("it works again", lambda: replica(world)["state"] == "ok")


def test_a_bucket_that_is_deleted_is_named_until_it_is_there_again(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target("s3"), world.db("a", target="s3", sync_interval="50ms"))
    world.start(WALSUP_TEST_FRESH_MS="1", WALSUP_TEST_PARK_MS="200")
    world.sync()
    s3.control("/_buckets", [])
    add(con)
    r = world.sync("--timeout", "2s", check=False)
    assert r.returncode == 72, words(r)
    status = world.ctl("status", check=False)
    assert status.returncode == 1 and replica(world)["state"] == "error" and "NoSuchBucket" in words(status), words(status)
    s3.control("/_buckets", ["litestream"])
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


def test_a_start_with_many_unchanged_databases_lists_nothing_and_asks_little(world, s3):
    n = 40
    for i in range(n):
        make_db(world.path / f"d{i}.db").close()
    world.configure(s3.target("s3"), *[world.db(f"d{i}", target="s3") for i in range(n)])
    world.start()
    world.sync()
    assert world.stop() == 0
    before = len(s3.ledger())
    world.start()
    asked = s3.ledger()[before:]
    assert len(asked) <= n, "a start is a burst of requests"
    world.sync()
    asked = [(e["verb"], e["key"]) for e in s3.ledger()[before:]]
    assert {v for v, _ in asked} == {"HEAD"}, asked
    assert len(asked) <= 2 * n and len(set(asked)) == len(asked) >= n
