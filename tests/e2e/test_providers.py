"""What each provider's server refuses, wants, or does differently, played by s3fault as its documentation has it
(common/store/s3_provider.c says where that is from): everything that walsup does has to work there, and what it does
not have has to be said."""
import json
import re
import sqlite3
import time

import pytest

from conftest import ROOT, image, integrity, make_db

ENCODINGS = {"content-encoding": [501, "NotImplemented"], "x-amz-trailer": [501, "NotImplemented"],
             "x-amz-sdk-checksum*": [501, "NotImplemented"], "transfer-encoding": [411, "MissingContentLength"]}
NO_CHECKSUMS = {**ENCODINGS, "x-amz-checksum*": [501, "NotImplemented"]}
NO_SSE = {"x-amz-server-side-encryption*": [400, "InvalidArgument"]}
ONLY_C = {"x-amz-server-side-encryption": [400, "InvalidArgument"]}
NO_CONDITION = {"if-none-match": [501, "NotImplemented"]}

# (what the server is like, fencing in the end, requests that delete)
PROVIDERS = {
    "generic": ({"refuse_headers": NO_CHECKSUMS}, "on", "DELETES"),
    "aws": ({"equal_parts": False}, "on", "DELETES"),
    "minio": ({}, "on", "DELETES"),
    "ceph": ({"refuse_headers": ENCODINGS}, "on", "DELETES"),
    "r2": ({"refuse_headers": {**NO_CHECKSUMS, **ONLY_C}, "parallel_parts": 2, "equal_parts": True, "region": "auto"}, "on",
           "DELETES"),
    "b2": ({"refuse_headers": {**NO_CHECKSUMS, **NO_CONDITION}}, "off", "DELETES"),
    "hetzner": ({"refuse_headers": {**ENCODINGS, **ONLY_C}}, "on", "DELETES"),
    "scaleway": ({"refuse_headers": ENCODINGS, "max_parts": 1000}, "on", "DELETES"),
    "digitalocean": ({"refuse_headers": {**NO_CHECKSUMS, **ONLY_C}}, "on", "DELETES"),
    "tigris": ({"refuse_headers": {**ENCODINGS, **NO_SSE, "content-md5": [400, "InvalidArgument"]}, "region": "auto",
                "need_headers": {"x-tigris-consistent": "true"}}, "on", "DELETES"),
    "gcs": ({"refuse_headers": {**NO_CHECKSUMS, **NO_SSE, **NO_CONDITION,
                                "accept-encoding": [403, "SignatureDoesNotMatch"]},
             "refuse_verbs": {"DELETES": [400, "InvalidArgument"]}, "missing_404": True, "region": "auto"}, "off",
            "DELETE"),
    "supabase": ({"refuse_headers": {**NO_SSE, **NO_CONDITION, "x-amz-storage-class": [400, "InvalidArgument"]},
                  "base": "/storage/v1/s3"}, "off", "DELETES"),
}
FAST = {"sync_interval": "10ms", "level1_interval": "150ms", "level2_interval": "400ms", "level3_interval": "1s",
        "snapshot_interval": "400ms", "retention": "400ms", "delete_delay": "0s"}
PARTS = {"WALSUP_TEST_S3_PART_BYTES": str(1 << 20)}


def replica(world):
    return world.status("a")["replicas"][0]


@pytest.mark.parametrize("name", PROVIDERS)
def test_everything_works_where_this_is_refused(world, s3fault, name):
    profile, fencing, deletes = PROVIDERS[name]
    s3fault.control("/_profile", profile)
    known = {"provider": name} if name != "supabase" else {"endpoint": s3fault.endpoint + profile["base"]}
    world.configure(s3fault.target("x", **known), world.db("a", target="x", **FAST))
    con = make_db(world.path / "a.db")
    con.execute("insert into t(b) values(randomblob(6000000))")  # goes up in parts
    con.commit()
    steps = json.loads(world.ctl("check", "--json", check=False, **PARTS).stdout)["targets"][0]["steps"]
    wrong = {s["step"]: s["message"] for s in steps if s["result"] != "ok"}
    assert set(wrong) == ({"condition"} if fencing == "off" else set()), wrong
    world.start(**PARTS)
    world.sync("a")
    if name != "generic":
        assert replica(world)["provider"] in {s["message"] for s in steps if s["step"] == "provider"}
    end = time.monotonic() + 30
    while replica(world)["deleted_files"] < 5:
        assert time.monotonic() < end, world.log.read_text()
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        time.sleep(0.01)
    world.sync("a")
    assert replica(world)["fencing"] == fencing
    out = world.restore("a", "x")
    integrity(out)
    assert image(out) == image(world.path / "a.db")
    counts = s3fault.counts()
    assert counts["PART"]["200"] > 4 and set(counts["PART"]) == {"200"}, counts
    assert any(s in ("200", "204") for s in counts[deletes]), counts
    if deletes == "DELETE":
        assert sum(counts["DELETES"].values()) == 1, "it is asked for what it does not have again and again"
    assert world.stop() == 0, world.log.read_text()


def test_every_row_of_the_table_is_played():
    table = (ROOT / "common/store/s3_provider.c").read_text()
    keys = set(re.findall(r'\.key = "(\w+)"', table)) - {"auto"}
    assert keys == set(PROVIDERS) and len(keys) == 12


def test_what_a_provider_is_not_known_to_have_is_warned_of_and_explained_when_refused(world, s3fault):
    s3fault.control("/_profile", {"refuse_headers": ONLY_C})
    world.configure(s3fault.target("x", provider="hetzner", sse="aws:kms"), world.db("a", target="x"))
    make_db(world.path / "a.db").close()
    r = world.ctl("check", check=False)
    words = " ".join(r.stdout.split())
    assert r.returncode != 0
    assert "provider warning sse = aws:kms is nothing that Hetzner Object Storage is known to have" in words, r.stdout
    assert ("hint: sse = aws:kms is nothing that Hetzner Object Storage is known to have: take it out of [target x]"
            in words)


def test_a_store_that_refuses_the_condition_gets_uploads_without_it(world, s3fault):
    """no provider is named, and none can be told from 127.0.0.1"""
    s3fault.control("/_profile", {"refuse_headers": NO_CONDITION})
    world.configure(s3fault.target("x"), world.db("a", target="x", sync_interval="20ms"))
    make_db(world.path / "a.db").close()
    world.start()
    world.sync("a", "--timeout", "20s")
    assert replica(world)["fencing"] == "off"
    assert "fencing is off" in world.log.read_text()


KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_with_a_key_of_ones_own_only_its_owner_can_restore(world, s3fault):
    key = world.path / "sse.key"
    key.write_text(KEY + "\n")
    key.chmod(0o600)
    target = s3fault.target("x", sse="C", sse_customer_key_file=key)
    world.configure(target, world.db("a", target="x", **FAST))
    con = make_db(world.path / "a.db")
    con.execute("insert into t(b) values(randomblob(6000000))")
    con.commit()
    assert "everything is fine" in world.ctl("check", **PARTS).stdout
    world.start(**PARTS)
    for _ in range(30):
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
    world.sync("a")
    world.ctl("verify", "a", "--target", "x")
    assert image(world.restore("a", "x")) == image(world.path / "a.db")
    objects = [o for k, o in s3fault.objects().items() if "/.walsup" not in k]
    assert objects and all(any("customer-key-md5" in h.lower() for h in o["headers"]) for o in objects)
    world.stop()
    world.configure(s3fault.target("x"), world.db("a", target="x"))
    r = world.ctl("restore", "a", "-o", world.path / "no.db", check=False)
    assert r.returncode != 0 and "sse = C" in r.stderr, r.stderr
    everything = world.log.read_text() + r.stderr + world.ctl("config", check=False).stdout
    assert KEY not in everything and bytes(range(32)).hex() not in everything


@pytest.mark.parametrize("keys, words", [
    ({"sse": "C"}, "add sse-customer-key-file = FILE"),
    ({"sse_customer_key_file": "/etc/k"}, "without sse = C"),
    ({"sse": "C", "sse_customer_key_file": "/etc/k", "endpoint": "http://s3.example.com"},
     "over plain http would show the key"),
    ({"sse": "C", "sse_customer_key_file": "/etc/k", "endpoint": "http://127.evil.example"},
     "over plain http would show the key"),
    ({"sse": "C", "sse_customer_key_file": "/etc/k", "endpoint": "http://localhost.example.com"},
     "over plain http would show the key"),
    ({"provider": "amazon"}, "provider"),
    ({"endpoint": "https://x.supabase.co/storage/v2"}, "a path after the host")])
def test_settings_that_make_no_sense_are_refused(world, s3fault, keys, words):
    world.configure(s3fault.target("x", **keys), world.db("a", target="x"))
    r = world.ctl("check", check=False)
    assert r.returncode != 0 and words in " ".join((r.stdout + r.stderr).split()), r.stdout + r.stderr


def test_the_bandwidth_limit_is_kept_and_commits_still_arrive(world, s3fault):
    limit, size = 2 << 20, 6 << 20
    world.configure(s3fault.target("x", bandwidth_limit="2MiB"), world.db("a", target="x", sync_interval="20ms"))
    con = make_db(world.path / "a.db")
    world.start()
    world.sync("a")
    con.execute("insert into t(b) values(randomblob(?))", (size,))
    con.commit()
    t0 = time.monotonic()
    world.sync("a", "--timeout", "60s")
    took = time.monotonic() - t0
    rate = size / took
    for _ in range(5):
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        world.sync("a", "--timeout", "10s")
    print(f"\n{rate / 2**20:.2f} MiB/s of {limit / 2**20:.0f} MiB/s")
    assert 0.7 * limit < rate < 1.15 * limit
    con2 = sqlite3.connect(world.restore("a", "x"))
    assert con2.execute("select count(*) from t").fetchone()[0] == 16
    con2.close()
