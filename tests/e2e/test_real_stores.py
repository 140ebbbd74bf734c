"""Servers that others wrote, over real HTTP: the whole life of a replica, from check to a restore by time, on each.

s3rver (from npm) and Ceph's RADOS Gateway (from Debian) are started here and skipped where they cannot be had;
tests/tools/get_s3rver.sh and `make deps-test` install them. Any other server is tried with

    WALSUP_S3_ENDPOINT=http://127.0.0.1:9000 WALSUP_S3_KEY_ID=... WALSUP_S3_SECRET=... make stores

in a new bucket, whose name begins with "walsup-test"."""
import contextlib
import datetime
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import threading
import time

import pytest

from conftest import ROOT, image, integrity, make_db, section
from ports import free_ports

# hours are seconds: everything is merged, snapshots are made, and what is older than two seconds goes
BUSY = {"sync_interval": "50ms", "level1_interval": "300ms", "level2_interval": "1s", "level3_interval": "2s",
        "snapshot_interval": "1s", "retention": "2s", "delete_delay": "0s"}
KEPT = {"sync_interval": "50ms", "level1_interval": "1s", "snapshot_interval": "0s", "retention": "0s"}
PARTS = {"WALSUP_TEST_S3_PART_BYTES": str(5 << 20)}  # the smallest that S3 allows
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "walsup-test"


class Store:
    """fencing: obeys If-None-Match; signs: verifies signatures; aborts: knows AbortMultipartUpload; sse_c: over http"""

    def __init__(self, name, endpoint, key_id, secret, fencing="on", signs=True, aborts=True, sse_c=False):
        self.name, self.endpoint, self.key_id, self.secret = name, endpoint, key_id, secret
        self.fencing, self.signs, self.sse_c, self.bucket = fencing, signs, sse_c, f"walsup-test-{os.getpid()}"
        self.warned = {step for step, is_so in (("condition", fencing == "off"), ("multipart", not aborts)) if is_so}

    def make_bucket(self):
        r = subprocess.run(["curl", "-sS", "-m", "30", "-X", "PUT", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user",
                            f"{self.key_id}:{self.secret}", "-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD", "-o", "-",
                            "-w", "%{http_code}", f"{self.endpoint}/{self.bucket}"], capture_output=True, text=True)
        assert r.stdout.endswith("200"), r.stdout + r.stderr

    def target(self, **more):
        return section("target x", {"type": "s3", "endpoint": self.endpoint, "bucket": self.bucket, "path": "backups",
                                    "access-key-id": self.key_id, "secret-access-key": self.secret,
                                    **{k.replace("_", "-"): v for k, v in more.items()}})


@contextlib.contextmanager
def s3rver(tmp_path):
    program = CACHE / "s3rver-3.7.1/node_modules/.bin/s3rver"
    if not program.exists():
        pytest.skip("there is no s3rver: tests/tools/get_s3rver.sh says why")
    port = free_ports(1)
    store = Store("s3rver", f"http://127.0.0.1:{port}", "S3RVER", "S3RVER", "off", signs=False, aborts=False)
    (tmp_path / "s3rver").mkdir()
    log = open(tmp_path / "s3rver.log", "wb")
    p = subprocess.Popen([program, "-d", tmp_path / "s3rver", "-a", "127.0.0.1", "-p", str(port), "--silent",
                          "--configure-bucket", store.bucket], stdout=log, stderr=log)
    log.close()
    try:
        end = time.monotonic() + 30
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert p.poll() is None and time.monotonic() < end, (tmp_path / "s3rver.log").read_text()
            time.sleep(0.05)
        yield store
        assert p.poll() is None, (tmp_path / "s3rver.log").read_text()
    finally:
        p.kill()
        p.wait()


@contextlib.contextmanager
def ceph(tmp_path):
    if os.environ.get("WALSUP_SANDBOXED"):
        pytest.skip("Ceph's own programs do not run inside the sandbox of the unit")
    p = subprocess.Popen([ROOT / "tests/tools/radosgw.sh", tmp_path / "c", str(free_ports(2))], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
    try:
        line = p.stdout.readline().strip()
        if p.poll() == 77 or line.startswith("there is no"):
            pytest.skip(line)
        assert line.startswith("http://"), line
        store = Store("Ceph RGW", *line.split(), sse_c=True)
        store.make_bucket()
        yield store
    finally:
        p.stdin.close()
        p.wait(30)


@contextlib.contextmanager
def given(tmp_path):
    endpoint = os.environ.get("WALSUP_S3_ENDPOINT")
    if not endpoint:
        pytest.skip("WALSUP_S3_ENDPOINT is not set")
    store = Store(endpoint, endpoint, os.environ["WALSUP_S3_KEY_ID"], os.environ["WALSUP_S3_SECRET"],
                  os.environ.get("WALSUP_S3_FENCING", "on"))
    store.make_bucket()
    yield store


class Writer(threading.Thread):
    def __init__(self, path):
        super().__init__()
        self.path, self.end, self.n = path, threading.Event(), 0

    def run(self):
        con = sqlite3.connect(self.path, timeout=30)
        while not self.end.wait(0.005):
            con.execute("insert into t(b) values(randomblob(400))")
            con.commit()
            self.n += 1
        con.close()


def replica(world):
    return world.status("a")["replicas"][0]


def steps(world, *sections):
    world.configure(*sections)
    r = world.ctl("check", "--json", check=False)
    return {s["step"]: s for s in json.loads(r.stdout)["targets"][0]["steps"]}


def check_names_what_is_wrong(world, store):
    if store.signs:
        found = steps(world, store.target(secret_access_key="x" * 40), world.db("a", target="x"))
        wrong = [s for s in found.values() if s["result"] == "failed"]
        assert len(wrong) == 1 and wrong[0]["step"] == "credentials", found
        assert "SignatureDoesNotMatch" in wrong[0]["message"] and "does not belong to key id" in wrong[0]["hint"], wrong
    found = steps(world, store.target(access_key_id="nobodyskey"), world.db("a", target="x"))
    wrong = [s for s in found.values() if s["result"] == "failed"]
    assert len(wrong) == 1 and wrong[0]["step"] == "credentials" and "nobodyskey" in wrong[0]["message"], found
    found = steps(world, store.target(bucket="walsup-test-none"), world.db("a", target="x"))
    wrong = [s for s in found.values() if s["result"] == "failed"]
    assert len(wrong) == 1 and wrong[0]["step"] == "bucket" and "NoSuchBucket" in wrong[0]["message"], found
    assert "create the bucket walsup-test-none" in wrong[0]["hint"]


def live_a_busy_life(world, store, con):
    """under load: levels, snapshots, deletions. The figures of it."""
    con.execute("insert into t(b) values(randomblob(25000000))")  # goes up in parts
    con.commit()
    world.start(**PARTS)
    world.sync("a")
    con.execute("delete from t where length(b) > 1000000")
    con.commit()
    con.execute("vacuum")
    began, writer = time.monotonic(), Writer(world.path / "a.db")
    writer.start()
    try:
        end = began + 60
        while replica(world)["deleted_files"] < 60 or time.monotonic() < began + 4:
            assert time.monotonic() < end, world.log.read_text()
            time.sleep(0.1)
        world.sync("a")
    finally:
        writer.end.set()
        writer.join()
    world.sync("a")
    r = replica(world)
    assert not r["error"], r
    rate = writer.n / (time.monotonic() - began)
    return f"{rate:.0f} commits/s, {r['uploads']} uploads, {r['deleted_files']} deleted"


def points_come_back(world, con):
    """every TXID and every time that was noted, and the latest"""
    points = []
    for i in range(6):
        con.execute("insert into t(b) values(randomblob(?))", (1000 + i,))
        con.commit()
        r = json.loads(world.sync("a", "--json").stdout)
        now = datetime.datetime.now(datetime.timezone.utc)
        points.append((r["databases"][0]["txid"], now, image(world.path / "a.db")))
        time.sleep(0.05)  # two commits of one millisecond cannot be told apart by time
    for txid, when, want in points:
        assert image(world.restore("a", "x", None, "--txid", txid)) == want, txid
        stamp = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert image(world.restore("a", "x", None, "--timestamp", stamp)) == want, stamp
    t0 = time.monotonic()
    out = world.restore("a", "x")
    took = time.monotonic() - t0
    integrity(out)
    assert image(out) == image(world.path / "a.db")
    return f"{len(points)} points by TXID and by time, the latest in {took * 1000:.0f} ms"


def a_key_of_ones_own(world, store):
    key = world.path / "sse.key"
    key.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    key.chmod(0o600)
    world.configure(store.target(sse="C", sse_customer_key_file=key, path="secret"), world.db("a", target="x", **KEPT))
    world.start(**PARTS)
    world.sync("a")
    assert image(world.restore("a", "x")) == image(world.path / "a.db")
    assert world.stop() == 0
    world.configure(store.target(path="secret"), world.db("a", target="x", **KEPT))
    r = world.ctl("restore", "a", "-o", world.path / "no.db", check=False)
    assert r.returncode != 0 and not (world.path / "no.db").exists(), r.stdout


@pytest.mark.parametrize("start", [s3rver, ceph, given], ids=["s3rver", "ceph", "given"])
def test_the_whole_life_of_a_replica(world, start, tmp_path):
    t0 = time.monotonic()
    with start(tmp_path) as store:
        ready = time.monotonic() - t0
        con = make_db(world.path / "a.db")
        check_names_what_is_wrong(world, store)
        found = steps(world, store.target(storage_class="STANDARD"), world.db("a", target="x", **BUSY))
        assert {s["step"] for s in found.values() if s["result"] != "ok"} == store.warned, found
        assert not [s for s in found.values() if s["result"] == "failed"], found
        life = live_a_busy_life(world, store, con)
        assert replica(world)["fencing"] == store.fencing
        world.configure(store.target(storage_class="STANDARD"), world.db("a", target="x", **KEPT))
        world.ctl("reload")
        points = points_come_back(world, con)
        proof = world.ctl("verify", "a", "--target", "x").stdout
        assert "proven" in proof
        world.poll("nothing is on its way", lambda: "as expected" in world.ctl("reconcile", "a", check=False).stdout)
        assert world.stop() == 0
        if store.sse_c:
            a_key_of_ones_own(world, store)
        con.close()
    print(f"\n{store.name}: ready in {ready:.1f} s, fencing {store.fencing}; {life}; {points};\n"
          f"  {' '.join(proof.split())}\n  {time.monotonic() - t0:.0f} s altogether")
