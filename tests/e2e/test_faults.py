"""Everything a store can do to walsupd, by s3fault: what was acknowledged is in the store, what is in the store
can be restored, and a store in trouble is left in peace. The ledger of the server is the truth."""
import json
import os
import signal
import sqlite3
import ssl
import time
import urllib.request

import pytest

from conftest import S3Fault, make_db
from test_tls import Authority

# WALSUP_FAULTS_LONG=1: with the waits that everybody else has (make torture)
PARK = {} if os.environ.get("WALSUP_FAULTS_LONG") else {"WALSUP_TEST_PARK_MS": "1500"}
IDLE = {"WALSUP_TEST_S3_IDLE_MS": "700", "WALSUP_TEST_S3_CONNECT_MS": "700"}

TRANSPORT = [{"action": a} for a in ("reset-before", "reset-mid-upload", "reset-after", "reset-answer", "truncate",
                                     "bad-chunk", "stall-body", "no-length")] + [
    {"action": "stall", "when": "upload"}, {"action": "stall"}, {"action": "delay", "after_ms": 200}]
ANSWERS = [{"action": "status", "status": s, **({"code": c} if c else {})} for s, c in (
    (500, ""), (500, "InternalError"), (502, ""), (503, ""), (503, "SlowDown"), (504, ""), (408, ""), (429, ""),
    (400, "RequestTimeout"), (400, "BadDigest"), (409, "ConditionalRequestConflict"), (403, "AccessDenied"), (403, ""),
    (403, "SignatureDoesNotMatch"), (403, "RequestTimeTooSkewed"), (400, "ExpiredToken"), (404, "NoSuchBucket"),
    (412, ""), (301, ""), (307, ""), (507, ""))]
LIES = [{"action": "store-then"}, {"action": "store-then", "status": 503}, {"action": "reset-after", "stored": True},
        {"action": "stall", "stored": True}, {"action": "status", "status": 403, "stored": True},
        {"action": "no-store"}, {"action": "early-200"}, {"action": "error-200", "etag": True},
        {"action": "duplicate", "after_ms": 50}, {"action": "late", "after_ms": 50},
        {"action": "big-header"}, {"action": "big-body"}, {"action": "bomb"}]


def stored(s3fault):
    """TXIDs at level 0, by what the store has"""
    return {int(k.split("/")[-1][:16], 16) for k in s3fault.objects() if "/0000/" in k}


def count(world, out):
    con = sqlite3.connect(out)
    try:
        return con.execute("select count(*) from t").fetchone()[0]
    finally:
        con.close()


def commit(con, size=300):
    con.execute("insert into t(b) values(randomblob(?))", (size,))
    con.commit()


def test_the_matrix_of_faults(world, s3fault):
    world.configure(s3fault.target("x"), world.db("a", target="x", sync_interval="20ms"))
    con = make_db(world.path / "a.db")
    world.start(**IDLE)
    world.sync("a")
    rules, acked, lost, phantom, restores, refused = 0, 0, 0, 0, 0, 0
    for rule in TRANSPORT + ANSWERS + LIES:
        s3fault.faults({"verb": "PUT", "key_regex": "/0000/", "count": 1, **rule})
        rules += 1
        # an answer that comes when a small body has left already is a perfect lie, which nobody can notice
        commit(con, 20_000_000 if rule["action"] == "early-200" else 300)
        # a person's trouble waits for a probe of 15 s: that it is over is said by a restart here
        r = world.ctl("sync", "--wait", "--timeout", "2s", "a", check=False)
        if r.returncode:
            assert r.returncode != 80, f"{rule}: {r.stderr}"  # nobody else wrote
            world.stop(signal.SIGKILL)
            world.start(**IDLE)
            r = world.sync("a")
        acked += 1
        txid = int(r.stdout.split("TXID ")[1].split()[0], 16)
        missing = set(range(1, txid + 1)) - stored(s3fault)
        missing -= {1}  # the first may be a base
        phantom += len(missing)
        assert not missing, f"{rule}: acknowledged up to {txid}, but the store lacks {missing}"
    rows = count(world, world.path / "a.db")
    for verb in ("LIST", "GET"):
        for rule in TRANSPORT[:1] + TRANSPORT[2:8] + ANSWERS[:8] + [{"action": "drip", "delay_ms": 0}] + (
                [{"action": a} for a in ("cut-listing", "html-listing", "empty-listing", "error-listing", "disorder",
                                         "duplicate-keys", "loop-listing", "big-header", "bomb")]
                if verb == "LIST" else [{"action": a} for a in ("ignore-range", "wrong-range", "corrupt", "more")]):
            s3fault.faults({"verb": verb, "count": 1, **rule})
            rules += 1
            out = world.path / "r.db"
            out.unlink(missing_ok=True)
            r = world.ctl("restore", "a", "-o", out, check=False, **IDLE)
            if r.returncode == 0:
                restores += 1
                n = count(world, out)
                lost += rows - n
                assert n == rows, f"{verb} {rule}: {n} rows of {rows}"
            else:
                refused += 1
                assert not out.exists(), f"{verb} {rule}: a file although {r.stderr}"
    print(f"\nfault matrix: {rules} rules, {acked} acknowledgements, {phantom} not in the ledger, {lost} commits lost, "
          f"{restores} restores equal, {refused} refused")
    assert restores > 20


# as hours and days, some thousand times faster: something is to be deleted all the time
EPHEMERAL = {"sync_interval": "10ms", "level1_interval": "150ms", "level2_interval": "400ms", "level3_interval": "1s",
             "snapshot_interval": "400ms", "retention": "400ms", "delete_delay": "0s"}
# not 404 and 412: to a deletion they say nothing
DELETIONS = [r for r in TRANSPORT if r.get("when") != "upload"] + [
    r for r in ANSWERS if r["status"] not in (404, 412) and r.get("code") != "AccessDenied"] + [
    {"action": a} for a in ("big-header", "big-body", "bomb")]


def fired(s3fault):
    return json.loads(s3fault.control("/_faults"))[0]["fired"]


def deleted(world):
    return world.status("a")["replicas"][0]["deleted_files"]


def until(what, con, fn, seconds=60):
    """commits go on, and with them there is something to merge and to delete"""
    end = time.monotonic() + seconds
    while not fn():
        assert time.monotonic() < end, what
        commit(con)
        time.sleep(0.01)


@pytest.mark.parametrize("verb", ["DELETES", "DELETE"])
def test_the_matrix_of_faults_of_deletions(world, s3fault, verb):
    """nothing is deleted that is needed, nothing stays behind, and the inventory knows what is there"""
    world.configure(s3fault.target("x"), world.db("a", target="x", **EPHEMERAL))
    con = make_db(world.path / "a.db")
    rules = DELETIONS + [{"action": "delete-errors"}, {"action": "error-200"}] if verb == "DELETES" else DELETIONS[::4]
    env = {**IDLE, "WALSUP_TEST_PARK_MS": "200"}
    # a store that has no DeleteObjects, for the other row
    lacks = [{"verb": "DELETES", "action": "status", "status": 501}] if verb == "DELETE" else []
    s3fault.faults(*lacks)
    world.start(**env)
    for rule in rules:
        said = len(world.log.read_text())
        s3fault.faults({"verb": verb, "count": 1, **rule}, *lacks)
        until(f"{rule} was never met", con, lambda: fired(s3fault))
        if (rule.get("status") == 403 and "Skewed" not in rule.get("code", "")) or rule["action"] == "delete-errors":
            # keys without that right are left in peace for an hour
            until("it is said", con, lambda: "does not let old files be deleted" in world.log.read_text()[said:])
            world.stop(signal.SIGKILL)
            world.start(**env)
        before = deleted(world)
        until(f"nothing is deleted any more after {rule}", con, lambda: deleted(world) > before)
    gone = deleted(world)
    s3fault.faults(*lacks)
    world.sync("a")
    assert count(world, world.restore("a", "x")) == count(world, world.path / "a.db")
    world.stop()
    world.configure(s3fault.target("x"), world.db("a", target="x", **{**EPHEMERAL, "retention": "0s"}))
    world.start(**env)
    world.poll("the inventory is what the bucket has",
               lambda: "as expected" in world.ctl("reconcile", "a", check=False).stdout)
    got = s3fault.counts()
    print(f"\nfault matrix of {verb}: {len(rules)} rules, {gone} files deleted since the last restart; {got.get(verb)}")
    assert len(rules) > (20 if verb == "DELETES" else 5)
    assert ("DELETE" if verb == "DELETE" else "DELETES") in got


def test_a_store_that_fails_to_delete_is_asked_less_and_less_often(world, s3fault):
    world.configure(s3fault.target("x"), world.db("a", target="x", **EPHEMERAL))
    con = make_db(world.path / "a.db")
    world.start(**IDLE)
    until("something is deleted", con, lambda: deleted(world) > 0)
    s3fault.faults({"verb": "DELETES", "action": "status", "status": 500})
    until("it fails", con, lambda: fired(s3fault))
    before, end = fired(s3fault), time.monotonic() + 4
    until("time passes", con, lambda: time.monotonic() > end)
    tries = fired(s3fault) - before
    assert 1 <= tries <= 10, f"{tries} tries in 4 s"
    assert "works again" not in world.log.read_text()
    assert "500" in world.status("a")["replicas"][0]["history_error"]["message"]
    gone = deleted(world)
    s3fault.faults()
    until("it is deleted in the end", con, lambda: deleted(world) > gone)
    assert world.log.read_text().count("deleting old files works again") == 1
    print(f"\n{tries} tries in 4 s")


HEADS = [r for r in TRANSPORT if r.get("when") != "upload"] + [r for r in ANSWERS if r.get("status") not in (404, 412)]


def test_the_matrix_of_faults_of_looking_for_an_object(world, s3fault):
    """a listing leaves out what is there, and the HEAD that would say so fails: nothing is taken for lost"""
    calm = {"snapshot_interval": "0s", "retention": "0s", "sync_interval": "10ms"}
    world.configure(s3fault.target("x"), world.db("a", target="x", **calm))
    con = make_db(world.path / "a.db")
    world.start(**IDLE, WALSUP_TEST_PARK_MS="200")
    for _ in range(6):
        commit(con)
        world.sync("a")
    for rule in HEADS:
        s3fault.faults({"verb": "HEAD", "count": 1, **rule},
                       {"verb": "LIST", "key_regex": "/000", "count": 1, "action": "incomplete-listing", "every": 3})
        world.ctl("reconcile", "a", check=False, timeout=60)
        assert fired(s3fault), f"{rule} was never met"
        s3fault.faults()
        out = world.ctl("reconcile", "a").stdout
        assert "as expected" in out, f"{rule}: {out}"
    assert "missing" not in world.log.read_text().replace("0 missing", "")
    assert not any("/0009/" in k for k in s3fault.objects()), "a snapshot was made for nothing"
    print(f"\nfault matrix of HEAD: {len(HEADS)} rules")


def test_the_matrix_of_faults_over_tls(world, tmp_path):
    pair = Authority(tmp_path, "ours")
    s3fault = S3Fault(tmp_path / "tls", *pair.sign("good"))
    s3fault.control = lambda path, body=None, c=ssl.create_default_context(cafile=pair.ca): urllib.request.urlopen(
        urllib.request.Request(s3fault.endpoint + path, data=None if body is None else json.dumps(body).encode()),
        timeout=10, context=c).read().decode()
    try:
        world.configure(s3fault.target("x", ca_file=pair.ca), world.db("a", target="x", sync_interval="20ms"))
        con = make_db(world.path / "a.db")
        world.start(**IDLE)
        world.sync("a")
        rules = TRANSPORT + [{"action": "stall", "when": "before"}, {"verb": "CONNECT", "action": "plain"},
                             {"verb": "CONNECT", "action": "stall"}, {"verb": "CONNECT", "action": "reset-before"}]
        for rule in rules:
            s3fault.faults({"verb": "PUT", "count": 1, **rule},
                           *([{"verb": "PUT", "count": 1, "action": "reset-before"}] if "verb" in rule else []))
            commit(con)
            r = world.sync("a", "--timeout", "30s")
            txid = int(r.stdout.split("TXID ")[1].split()[0], 16)
            assert not set(range(2, txid + 1)) - stored(s3fault), f"{rule}: acknowledged, and not in the store"
            assert fired(s3fault), f"{rule} was never met"
        assert count(world, world.restore("a", "x")) == count(world, world.path / "a.db")
        print(f"\nfault matrix over TLS: {len(rules)} rules")
    finally:
        s3fault.close()


def test_requests_in_a_storm_are_no_more_than_in_calm(world, s3fault):
    n, seconds = 8, 4
    world.configure(s3fault.target("x"), *[world.db(f"d{i}", target="x", sync_interval="250ms") for i in range(n)])
    cons = [make_db(world.path / f"d{i}.db") for i in range(n)]
    world.start(**IDLE)
    world.sync()

    def write_for(seconds):
        before = json.loads(s3fault.control("/_stats"))["requests"]
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for c in cons:
                commit(c)
            time.sleep(0.05)
        return json.loads(s3fault.control("/_stats"))["requests"] - before

    calm = write_for(seconds)
    s3fault.faults({"action": "status", "status": 503, "code": "SlowDown"})
    storm = write_for(seconds)
    s3fault.faults()
    t0 = time.monotonic()
    world.sync("--timeout", "60s")
    print(f"\nrequests in {seconds} s: {calm} in calm, {storm} in a storm of 503, ratio {storm / calm:.2f}; "
          f"caught up {time.monotonic() - t0:.1f} s after it")
    assert calm > n * seconds and storm <= 1.2 * calm


@pytest.mark.parametrize("what", ["secret", "bucket"])
def test_a_dead_target_gets_one_probe_for_all_databases(world, s3fault, what):
    n = 20
    good = s3fault.target("x")
    key = world.path / "secret"
    key.write_text("wrong" if what == "secret" else "s3cr3t/with+signs=")
    key.chmod(0o600)
    good = "\n".join(line for line in good.splitlines() if not line.startswith("secret-access-key"))
    good += f"\nsecret-access-key-file = {key}\n\n"
    if what == "bucket":
        s3fault.faults({"action": "status", "status": 404, "code": "NoSuchBucket"})
    world.configure(good, *[world.db(f"d{i}", target="x") for i in range(n)])
    for i in range(n):
        make_db(world.path / f"d{i}.db")
    began = time.monotonic()
    world.start(**PARK)
    code = "SignatureDoesNotMatch" if what == "secret" else "NoSuchBucket"
    world.poll("all of them say why", lambda: world.ctl("status", check=False).stdout.count(code) >= n)
    seen = json.loads(s3fault.control("/_stats"))["requests"]
    probes = (time.monotonic() - began) * 1000 / int(PARK.get("WALSUP_TEST_PARK_MS", 15000))
    # those that were on their way at the same time, and the probes since
    assert seen <= 8 + int(probes), f"{seen} requests for {n} databases in {probes:.1f} times the wait"
    key.write_text("s3cr3t/with+signs=")
    s3fault.faults()
    t0 = time.monotonic()

    world.poll("all of them work again", lambda: world.status()["state"] == "healthy", 60)
    print(f"\n{what}: {seen} requests for {n} databases; all work {time.monotonic() - t0:.0f} s after it was put right")
    assert world.status()["state"] == "healthy"
