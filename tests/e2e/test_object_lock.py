"""Buckets with Object Lock: they take no object without a digest, and let go of none too early."""
import json

import pytest

from conftest import image, integrity, make_db

PARTS = {"WALSUP_TEST_S3_PART_BYTES": str(1 << 20)}
FAST = {"sync_interval": "10ms", "level1_interval": "150ms", "level2_interval": "400ms",
        "level3_interval": "1s", "snapshot_interval": "400ms", "retention": "400ms", "delete_delay": "0s"}


def write(con):
    con.execute("insert into t(b) values(randomblob(300))")
    con.commit()


def replica(world):
    return world.status("a")["replicas"][0]


@pytest.mark.parametrize("lock", [True, False], ids=["object-lock", "control"])
def test_each_object_and_part_comes_with_a_digest_where_the_bucket_wants_it(world, s3fault, lock):
    s3fault.control("/_profile", {"want_digest": lock})
    world.configure(s3fault.target("x"), world.db("a", target="x"))
    con = make_db(world.path / "a.db")
    con.execute("insert into t(b) values(randomblob(6000000))")  # goes up in parts
    con.commit()
    steps = json.loads(world.ctl("check", "--json", **PARTS).stdout)["targets"][0]["steps"]
    said = {s["step"]: s["result"] for s in steps}
    assert (said.get("object lock") == "ok") == lock, said
    before = s3fault.counts()["PUT"].get("400", 0)
    assert before == lock, "once, then it is known"
    world.start(**PARTS)
    world.sync("a")
    write(con)
    world.sync("a")
    counts = s3fault.counts()
    assert counts["PART"]["200"] > 4, counts
    assert counts["PUT"].get("400", 0) + counts["PART"].get("400", 0) <= before + 4 * lock, counts
    assert replica(world)["digests"] is lock
    out = world.restore("a", "x")
    integrity(out)
    assert image(out) == image(world.path / "a.db")


def test_what_the_bucket_retains_is_told_once_and_is_no_error(world, s3fault):
    s3fault.faults(*({"verb": verb, "action": "object-lock"} for verb in ("DELETE", "DELETES")))
    world.configure(s3fault.target("x"), world.db("a", target="x", **FAST))
    con = make_db(world.path / "a.db")
    world.start()

    def kept():
        write(con)
        return replica(world)["retained"]

    world.poll("something was to be deleted", kept)
    world.sync("a")
    r = replica(world)
    assert r["state"] == "ok" and r["history_error"] is None and r["error"] is None, r
    assert r["deleted_files"] == 0
    log = world.log.read_text()
    assert log.count("old files are kept by the store for now") == 1, log
    assert "set delete = no" not in log
    text = world.ctl("status", "a", check=False).stdout
    assert "Object Lock keeps files that are older than the retention" in text, text


def test_control_keys_that_may_not_delete_are_told_otherwise(world, s3fault):
    denied = {"action": "status", "status": 403, "code": "AccessDenied"}
    s3fault.faults(*({"verb": verb, **denied} for verb in ("DELETE", "DELETES")))
    world.configure(s3fault.target("x"), world.db("a", target="x", **FAST))
    con = make_db(world.path / "a.db")
    world.start()

    def refused():
        write(con)
        return "set delete = no" in world.log.read_text()

    world.poll("something was to be deleted", refused)
    assert replica(world)["retained"] is False


def test_check_says_that_the_bucket_keeps_what_is_deleted(world, s3fault):
    s3fault.faults({"verb": "DELETE", "action": "object-lock"})
    world.configure(s3fault.target("x"), world.db("a", target="x"))
    make_db(world.path / "a.db")
    steps = json.loads(world.ctl("check", "--json", check=False).stdout)["targets"][0]["steps"]
    told = next(s for s in steps if s["step"] == "delete")
    assert told["result"] == "warning" and "keeps what is deleted" in told["message"], told
