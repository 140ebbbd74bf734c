"""The store lies: nothing counts as stored that was not, everything arrives in the end, and status
says so meanwhile."""
import os
import socket
import subprocess
import threading

import pytest

from conftest import KEY_ID, SECRET, S3, integrity, make_db, pages_equal, section

LIES = {
    "503 with an empty body": {"action": "status", "status": 503},
    "500 with HTML": {"action": "status", "status": 500, "html": True},
    "403 with XML": {"action": "status", "status": 403, "code": "AccessDenied"},
    "200 cut short": {"action": "truncate"},
    "200 without an ETag, not stored": {"action": "no-store"},
    "200 with an error document": {"action": "error-200"},
    "reset before the body": {"action": "reset-before"},
    "reset after the body, not stored": {"action": "reset-after", "stored": False},
    "reset after the body, stored": {"action": "reset-after", "stored": True},
    "stored, then 500": {"action": "store-then", "status": 500},
    "stall for ever": {"action": "stall"},
    "answered before the body was read": {"action": "early-200"},
}


@pytest.mark.parametrize("name", LIES)
def test_a_put_that_is_not_stored_is_not_counted_and_arrives_in_the_end(world, s3, name):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), sync_interval="50ms")
    world.start(WALSUP_TEST_S3_IDLE_MS="400")
    world.sync()
    s3.faults({"verb": "PUT", **LIES[name]})  # first: a commit is on its way at once
    # a body that fits into the socket's buffers is sent before the early answer can come: a perfect lie
    size = 20_000_000 if LIES[name]["action"] == "early-200" else 5000
    con.execute("insert into t(b) values(randomblob(?))", (size,))
    con.commit()
    if LIES[name].get("stored") or LIES[name]["action"] == "store-then":
        world.sync("--timeout", "20s")  # what is in the way of the next try is found to be ours
        assert [e["stored"] for e in s3.ledger() if e["key"].endswith("0000000000000002.ltx")].count(True) == 1
        pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)
        return
    rep = world.poll("status tells", lambda: (lambda x: x if x["error"] else None)(
        world.status("a")["replicas"][0]))
    r = world.sync("--timeout", "500ms", check=False)
    assert r.returncode != 0 and "s3" in r.stderr, r.stderr
    err = rep["error"]["message"]
    for part in (s3.endpoint, "litestream", "backups/a/0000/0000000000000002", KEY_ID):
        assert part in err, err
    assert SECRET not in err and int(rep["txid"], 16) == 1
    assert world.status()["state"] == "degraded" and world.status("a")["state"] == "behind"
    s3.faults()
    if LIES[name].get("code") == "AccessDenied":
        world.stop()  # a person changes the rights and does not wait for the slow probe
        world.start(WALSUP_TEST_S3_IDLE_MS="400")
    world.sync("--timeout", "60s")
    stored = {e["key"] for e in s3.ledger() if e["verb"] == "PUT" and e.get("stored")}
    assert "backups/a/0000/0000000000000002-0000000000000002.ltx" in stored
    out = world.restore("a", "s3")
    pages_equal(world.path / "a.db", out, 4096)
    integrity(out)
    assert world.status()["state"] == "healthy"


def test_the_lies_test_can_fail(world, s3):
    """The control: a server that stores nothing and answers perfectly cannot be told from one that
    stores; the check on the ledger is what would see it."""
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"))
    s3.faults({"verb": "PUT", "action": "no-store", "etag": True})
    world.start()
    world.sync()
    assert not [e for e in s3.ledger() if e["verb"] == "PUT" and e.get("stored")]
    con.close()


def test_an_untrusted_certificate_receives_no_request(world, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
                    "-out", cert, "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    s3 = S3(tmp_path / "tls", cert, key)
    try:
        make_db(world.path / "a.db").close()
        raw = s3.control
        s3.control = None  # urllib would refuse the certificate as well
        world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="1s")
        world.start()
        err = world.poll("an error", lambda: world.status("a")["replicas"][0]["error"])
        assert "certificate" in err["message"] and "ca-file" in err["hint"], err
        world.stop()
        world.configure(s3.target(**{"ca-file": cert}), world.db("a", target="s3"))
        world.start()
        world.sync()
        s3.control = raw
        import ssl
        import urllib.request
        ctx = ssl.create_default_context(cafile=cert)
        with urllib.request.urlopen(s3.endpoint + "/_ledger", context=ctx) as r:
            import json
            ledger = json.loads(r.read())
        first = next(e for e in ledger if e["verb"] in ("LIST", "PUT"))
        assert first["status"] == 200, "something was asked before the certificate was trusted"
        pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)
    finally:
        s3.close()


def test_a_redirect_is_refused(world, s3):
    other = socket.socket()
    other.bind(("127.0.0.1", 0))
    other.listen(5)
    got = []

    def accept():
        try:
            c, _ = other.accept()
            got.append(c.recv(4096))
        except OSError:
            pass
    t = threading.Thread(target=accept, daemon=True)
    t.start()
    make_db(world.path / "a.db").close()
    s3.faults({"verb": "PUT", "action": "redirect", "status": 307,
               "location": f"http://127.0.0.1:{other.getsockname()[1]}/x"})
    world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="1s")
    world.start()
    err = world.poll("an error", lambda: world.status("a")["replicas"][0]["error"])
    assert "307" in err["message"] or "redirect" in err["message"], err
    world.stop()
    other.close()
    assert not got, "the redirect was followed"


def test_a_broken_bucket_hurts_only_its_own_replica(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.file_target(), world.db("a", target="s3, local"),
                    world.db("b", target="local"), sync_interval="20ms")
    make_db(world.path / "b.db").close()
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    world.start()
    for i in range(5):
        con.execute("insert into t(b) values(?)", (i,))
        con.commit()
        world.ctl("sync")
    world.poll("the file replica is up to date",
               lambda: world.status("a")["replicas"][1]["pending_files"] == 0)
    st = world.status("a")
    assert st["replicas"][0]["state"] == "error" and st["replicas"][1]["state"] == "ok"
    assert world.status("b")["state"] == "replicating"
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    r = world.ctl("status", check=False)
    assert r.returncode == 1 and "503" in r.stdout, r.stdout


def test_wal_and_memory_stay_bounded_while_the_store_is_away(world, s3):
    db = world.path / "a.db"
    con = make_db(db)
    con.execute("pragma synchronous=off")
    s3.faults({"action": "status", "status": 503})
    world.configure(s3.target(), world.db("a", target="s3"), sync_interval="50ms",
                    wal_limit="4MiB")
    world.start()
    largest, written = 0, 0
    for i in range(20000):
        con.execute("insert or replace into t(a,b) values(?,randomblob(9000))", (i % 200,))
        con.commit()
        written += 4 * 4120
        if i % 500 == 0:
            largest = max(largest, (world.path / "a.db-wal").stat().st_size)
    print(f"{written >> 20} MiB written, the WAL never had more than {largest >> 20} MiB")
    assert largest < written / 2
    s3.faults()
    world.stop()
    world.start()
    world.sync("--timeout", "60s")
    pages_equal(db, world.restore("a", "s3"), 4096)


def test_a_full_spool_disk_hurts_neither_the_application_nor_its_wal_and_heals(world):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    world.state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", world.state]).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        db = world.path / "a.db"
        con = make_db(db)
        con.execute("pragma synchronous=off")
        world.configure(world.file_target(), world.db("a"), sync_interval="50ms",
                        wal_limit="1MiB", min_free="0KiB")
        world.start()
        world.sync()
        ballast = world.state / "ballast"
        fd = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        try:
            while os.write(fd, b"x" * 4096):
                pass
        except OSError:
            os.close(fd)
        largest, written = 0, 0
        for i in range(30000):
            con.execute("insert or replace into t(a,b) values(?,randomblob(9000))", (i % 200,))
            con.commit()
            written += 4 * 4120
            if i % 100 == 0:
                largest = max(largest, (world.path / "a.db-wal").stat().st_size)
        st = world.status("a")
        assert st["state"] == "failed" and "No space left" in st["error"]["message"], st
        print(f"{written >> 20} MiB written, the WAL never had more than {largest >> 20} MiB")
        assert largest < written / 3
        ballast.unlink()
        world.poll("it heals by itself", lambda: world.status("a")["state"] in ("replicating", "idle"),
                   timeout=60)
        world.sync()
        pages_equal(db, world.restore("a", "local"), 4096)
    finally:
        world.stop()
        subprocess.run(["umount", world.state], check=True)


def test_more_than_a_thousand_objects_are_listed(world, s3):
    """Numbering after the local state was lost needs the highest TXID of a long listing."""
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), sync_interval="10ms")
    world.start()
    world.sync()
    bucket = s3.root / "litestream"
    # 1500 more objects, the cheap way: the server reads its directory when it starts
    import json
    import shutil
    metas = [p for p in bucket.glob("*.json")]
    meta = json.loads(metas[0].read_text())
    world.stop()
    s3.close()
    src = metas[0].with_suffix("")
    for n in range(2, 1502):
        key = f"backups/a/0000/{n:016x}-{n:016x}.ltx"
        name = f"copy{n}"
        m = {**meta, "key": key}
        for k in ("file", "name"):
            if k in m:
                m[k] = name
        (bucket / f"{name}.json").write_text(json.dumps(m))
        if src.exists():
            shutil.copy(src, bucket / name)
    shutil.rmtree(world.state)
    s3b = S3(s3.root)
    try:
        world.configure(s3b.target(), world.db("a", target="s3"))
        con.execute("insert into t(b) values(1)")
        con.commit()
        world.start()
        world.poll("numbered", lambda: int(world.status("a")["txid"], 16) >= 1502)
        assert int(world.status("a")["txid"], 16) == 1502
    finally:
        world.stop()
        s3b.close()
