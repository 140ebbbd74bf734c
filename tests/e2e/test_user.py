"""What a person meets: the owner's story word for word, bad configurations, restore's refusals."""
import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import threading
import time

import pytest

from conftest import KEY_ID, OUT, SECRET, integrity, make_db, pages_equal, section, sha


def check_fails(world, *parts, verb="check"):
    """walsupctl check finds it, in words that name everything; nothing leaks"""
    r = world.ctl(verb, check=False)
    text = re.sub(r"\s+", " ", r.stdout + r.stderr)
    assert r.returncode != 0, text
    for p in parts:
        assert p in text, f"{p!r} is missing in: {text}"
    assert SECRET not in text
    return text


def bad_s3(**keys):
    base = {"type": "s3", "endpoint": "http://127.0.0.1:1", "bucket": "litestream",
            "path": "backups", "access-key-id": KEY_ID, "secret-access-key": SECRET}
    return section("target s3", {k.replace("_", "-"): v for k, v in {**base, **keys}.items()
                                 if v is not None})


# ---- the owner's story ---------------------------------------------------------------------------

def test_story_the_host_taken_for_the_bucket(world):
    make_db(world.path / "qt.db").close()
    world.configure("[target s3]\ntype = s3\nurl = s3://s3.example.com/litestream/qt.db\n\n",
                    world.db("qt", target="s3"))
    text = check_fails(world, "s3.example.com", "endpoint = https://s3.example.com",
                       "bucket = litestream", "path = qt.db", "walsup.ini:8")
    assert "AWS" in text
    r = subprocess.run([OUT / "walsupd", "-c", world.ini], capture_output=True, text=True)
    assert r.returncode == 78 and "endpoint = https://s3.example.com" in r.stderr


def test_story_a_wrong_key(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(**{"secret-access-key": "wrong"}), world.db("a", target="s3"))
    check_fails(world, s3.endpoint, "bucket litestream", "backups/", KEY_ID, "hint:", "secret")
    world.configure(s3.target(**{"access-key-id": "AKIANOBODY"}), world.db("a", target="s3"))
    check_fails(world, s3.endpoint, "bucket litestream", "AKIANOBODY", "hint:")


def test_story_a_missing_bucket(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(bucket="litestraem"), world.db("a", target="s3"))
    check_fails(world, s3.endpoint, "litestraem", KEY_ID, "hint:", "bucket =")


def test_story_an_endpoint_without_scheme_means_https(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(bad_s3(endpoint=f"127.0.0.1:{s3.port}"), world.db("a", target="s3"))
    check_fails(world, f"https://127.0.0.1:{s3.port}", "bucket litestream", KEY_ID, "hint:",
                "endpoint = http://")


def test_story_a_port_with_nothing_behind_it(world):
    make_db(world.path / "a.db").close()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        world.configure(bad_s3(endpoint=f"http://127.0.0.1:{port}"), world.db("a", target="s3"))
        check_fails(world, f"http://127.0.0.1:{port}", "nothing listens", "bucket litestream",
                    "backups/", KEY_ID, "hint:")


def test_story_a_host_that_does_not_resolve(world):
    make_db(world.path / "a.db").close()
    world.configure(bad_s3(endpoint="https://s3.nowhere.invalid"), world.db("a", target="s3"))
    check_fails(world, "https://s3.nowhere.invalid", "does not resolve", "bucket litestream", KEY_ID,
                "hint:")


def test_story_check_is_content_with_what_is_right(world, s3fault):
    make_db(world.path / "a.db").close()
    world.configure(s3fault.target(), world.file_target(), world.db("a", target="s3, local"))
    r = world.ctl("check")
    assert "everything is fine" in r.stdout
    assert not [e for e in s3fault.ledger() if e["verb"] == "PUT" and "walsup-check" not in e["key"]]
    left = [e["key"] for e in s3fault.ledger() if e["verb"] == "DELETE"]
    assert left, "the check left its object behind"


# ---- bad configurations --------------------------------------------------------------------------

def test_every_mistake_is_reported_at_once_and_nothing_starts(world):
    make_db(world.path / "a.db").close()
    world.ini.write_text(f"""[walsup]
state-dir = {world.state}
socket = {world.socket}
colour = blue

[target local]
type = file
path = {world.replica}

[db a]
path = {world.path}/a.db
target = local

[db a]
path = {world.path}/b.db
target = nowhere

[db c]
path = {world.path}/c.db
target = local
sync-interval = 5

[replica c@local]
path = a
""")
    world.ini.chmod(0o600)
    r = subprocess.run([OUT / "walsupd", "-c", world.ini], capture_output=True, text=True,
                       timeout=20)
    assert r.returncode == 78
    for part in ("walsup.ini:4", "colour", "walsup.ini:14", "duplicate section", "nowhere",
                 "sync-interval = 5"):
        assert part in r.stderr, r.stderr
    assert not world.state.exists() and not world.socket.exists(), "something was half started"


def test_two_databases_on_one_replica_path_are_refused(world):
    world.configure(world.file_target(), world.db("a"), world.db("b"),
                    "[replica b@local]\npath = a\n")
    text = check_fails(world, "replica")
    assert "a" in text


def test_values_that_the_ini_library_would_cut_are_refused(world):
    world.configure(world.file_target(), section("db " + "x" * 60, {
        "path": "/x.db", "target": "local"}))
    check_fails(world, "x" * 41)
    world.configure(bad_s3(secret_access_key="abc #def"), world.db("a", target="s3"))
    r = subprocess.run([OUT / "walsupd", "-c", world.ini, "--check"], capture_output=True, text=True)
    assert r.returncode == 78 and "secret-access-key contains ' #'" in r.stderr, r.stderr
    assert "abc" not in r.stderr
    # the library's own limit is 199 bytes a line: a longer value arrives whole
    long = "/" + "/".join("d" * 100 for _ in range(8)) + "/a.db"
    world.configure(world.file_target(), world.db("a", path=long))
    assert world.ctl("list").stdout.split()[-1] == long


def test_broken_databases_are_named_and_the_healthy_one_runs(world):
    make_db(world.path / "good.db").close()
    (world.path / "dir.db").mkdir()
    (world.path / "text.db").write_text("this is not a database, however long it may be " * 20)
    con = sqlite3.connect(world.path / "journal.db")
    con.execute("create table t(a)")
    con.commit()
    names = ("good", "dir", "text", "journal", "missing")
    world.configure(world.file_target(), *[world.db(n) for n in names])
    world.start()
    st = {d["name"]: d for d in world.status()["databases"]}
    assert st["good"]["state"] == "replicating"
    assert st["dir"]["state"] == "failed" and "not a regular file" in st["dir"]["error"]["message"]
    assert st["text"]["state"] == "failed" and "not an SQLite" in st["text"]["error"]["message"]
    assert st["journal"]["state"] == "not-wal" and st["missing"]["state"] == "waiting"
    r = world.ctl("status", check=False)
    assert r.returncode == 2 and all(n in r.stdout for n in names)
    # a path is not broken up: it is there to be copied
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in r.stdout.splitlines()), r.stdout
    world.sync("good")
    world.ctl("restore", "good", "-o", world.path / "out.db")
    check_fails(world, "dir.db", "text.db", "journal.db")


# ---- restore -------------------------------------------------------------------------------------

@pytest.fixture
def replicated(world):
    con = make_db(world.path / "a.db", rows=300)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    assert world.stop() == 0
    con.close()
    return world


def test_restore_works_with_the_daemon_down_by_name_by_path_and_by_url(replicated):
    w = replicated
    w.ctl("restore", "a", "-o", w.path / "1.db")
    w.ctl("restore", w.path / "a.db", "-o", w.path / "2.db")
    empty = w.path / "none.ini"
    r = subprocess.run([OUT / "walsupctl", "-c", empty, "restore", "--url",
                        f"file://{w.replica}/a", "-o", w.path / "3.db"], capture_output=True,
                       text=True)
    assert r.returncode == 0, r.stderr
    assert sha(w.path / "1.db") == sha(w.path / "2.db") == sha(w.path / "3.db")
    pages_equal(w.path / "a.db", w.path / "1.db", 4096)


def test_restore_from_s3_without_configuration_takes_the_keys_from_the_environment(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    world.sync()
    url = f"s3://litestream/backups/a?endpoint={s3.endpoint}"
    out = world.path / "out.db"
    r = subprocess.run([OUT / "walsupctl", "-c", world.path / "none.ini", "restore", "--url", url,
                        "-o", out], capture_output=True, text=True,
                       env={**world.env, "AWS_ACCESS_KEY_ID": KEY_ID,
                            "AWS_SECRET_ACCESS_KEY": SECRET})
    assert r.returncode == 0, r.stderr
    pages_equal(world.path / "a.db", out, 4096)


def test_restore_never_overwrites_and_refuses_leftover_side_files(replicated):
    w = replicated
    out = w.path / "out.db"
    for name in ("out.db", "out.db-wal", "out.db-shm", "out.db-journal"):
        f = w.path / name
        f.write_text("precious")
        r = w.ctl("restore", "a", "-o", out, check=False)
        assert r.returncode != 0 and name in r.stderr and "hint:" in r.stderr, r.stderr
        assert f.read_text() == "precious"
        f.unlink()
    assert not list(w.path.glob("out.db*"))
    w.ctl("restore", "a", "-o", out)
    r = w.ctl("restore", "a", "-o", out, "--if-db-not-exists")
    assert r.returncode == 0
    out.write_text("old")
    w.ctl("restore", "a", "-o", out, "--force")
    pages_equal(w.path / "a.db", out, 4096)


def test_restore_dry_run_and_json_and_an_empty_replica(replicated):
    w = replicated
    r = w.ctl("restore", "a", "-o", w.path / "out.db", "--dry-run")
    assert not (w.path / "out.db").exists() and "0000000000000001" in r.stdout
    r = w.ctl("restore", "a", "-o", w.path / "out.db", "--json")
    d = json.loads(r.stdout)
    assert int(str(d["txid"]), 16) == 1
    r = subprocess.run([OUT / "walsupctl", "restore", "--url", f"file://{w.path}/nothing", "-o",
                        w.path / "x.db"], capture_output=True, text=True)
    assert r.returncode != 0 and "nothing" in r.stderr
    r = subprocess.run([OUT / "walsupctl", "restore", "--url", f"file://{w.path}/nothing", "-o",
                        w.path / "x.db", "--if-replica-exists"], capture_output=True, text=True)
    assert r.returncode == 0 and not (w.path / "x.db").exists()


def test_restore_refuses_a_damaged_replica_and_names_the_object(replicated):
    w = replicated
    obj = next(w.replica.glob("a/ltx/0/*.ltx"))
    raw = bytearray(obj.read_bytes())
    raw[len(raw) // 2] ^= 1
    obj.write_bytes(raw)
    r = w.ctl("restore", "a", "-o", w.path / "out.db", check=False)
    assert r.returncode != 0 and obj.name in r.stderr, r.stderr
    assert not list(w.path.glob("out.db*")), "something was left behind"


def test_restore_is_all_or_nothing_on_a_full_disk(replicated):
    w = replicated
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    small = w.path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small]).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        r = w.ctl("restore", "a", "-o", small / "out.db", check=False)
        assert r.returncode == 73 and "No space left" in r.stderr, (r.returncode, r.stderr)
        assert not list(small.iterdir()), "something was left behind"
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.outside
def test_restore_is_all_or_nothing_on_kill_9(world):
    con = make_db(world.path / "a.db", 512)
    for _ in range(20):
        con.execute("insert into t(b) values(randomblob(300000))")
    con.commit()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    for syscall in ("pwrite64", "fsync", "renameat,renameat2", "rename", "linkat"):
        for when in (1, 2, 7, 40):
            out = world.path / f"out-{syscall}-{when}.db"
            r = subprocess.run(["strace", "-f", "-o", "/dev/null", "-e", f"trace={syscall}", "-e",
                                f"inject={syscall}:signal=KILL:when={when}", OUT / "walsupctl",
                                "-c", world.ini, "restore", "a", "-o", out], capture_output=True)
            if out.exists():
                pages_equal(world.path / "a.db", out, 512)
            else:
                assert r.returncode != 0
    assert (world.path / "out-linkat-40.db").exists(), "the control that is not killed failed"


# ---- the daemon's socket -------------------------------------------------------------------------

def call(world, raw, timeout=5):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout)
    s.connect(str(world.socket))
    s.sendall(raw)
    got = b""
    try:
        while not got.endswith(b"\0"):
            part = s.recv(65536)
            if not part:
                break
            got += part
    except socket.timeout:
        got = None
    s.close()
    return got


def test_malformed_input_costs_that_client_and_nothing_else(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    good = b'{"method":"io.walsup.Status"}\0'
    for raw in (b"\0", b"{}\0", b"[]\0", b'{"method":1}\0', b'{"method":"io.walsup.Nope"}\0',
                b'{"method":"io.walsup.Status","parameters":{"x":1}}\0', b"{" * 5000 + b"\0",
                b'{"method":"io.walsup.Status","method":"x"}\0', b"\xff\xfe\0",
                b'{"method":"io.walsup.Sync","parameters":{"timeout_ms":"x"}}\0', b"x" * 200000):
        try:
            got = call(world, raw)
        except (BrokenPipeError, ConnectionResetError):
            got = b""
        assert got is not None, f"no answer to {raw[:40]}"
        assert b'"parameters": {"version"' not in got
        assert b"databases" in call(world, good)
    info = json.loads(call(world, b'{"method":"org.varlink.service.GetInfo"}\0')[:-1])
    assert "io.walsup" in info["parameters"]["interfaces"]
    two = call(world, good + good)
    assert two is not None and b"databases" in two
    assert world.proc.poll() is None


def test_many_clients_and_vanishing_ones(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    socks = []
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(world.socket))
        socks.append(s)
    for s in socks:
        s.close()
    for _ in range(20):  # gone in the middle of a sync
        s = socket.socket(socket.AF_UNIX)
        s.connect(str(world.socket))
        s.sendall(b'{"method":"io.walsup.Sync","parameters":{"wait":true}}\0')
        s.close()
    world.sync()
    assert world.status()["state"] == "healthy"


def test_the_socket_has_its_mode_and_a_stale_one_is_replaced(world):
    world.configure(world.file_target())
    world.start()
    assert stat.S_IMODE(os.stat(world.socket).st_mode) == 0o660
    world.proc.send_signal(signal.SIGKILL)
    world.proc.wait()
    assert world.socket.exists()
    world.start()
    assert world.ctl("status").returncode == 0
    assert world.stop() == 0 and not world.socket.exists()


@pytest.mark.outside
def test_secrets_appear_nowhere(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), log_level="debug")
    world.start()
    s3.faults({"verb": "PUT", "action": "status", "status": 403, "code": "SignatureDoesNotMatch"})
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync("--timeout", "300ms", check=False)
    seen = world.log.read_text() + json.dumps(world.status())
    seen += world.ctl("status", check=False).stdout + world.ctl("config").stdout
    pid = world.proc.pid
    seen += open(f"/proc/{pid}/cmdline").read() + open(f"/proc/{pid}/environ").read()
    for p in world.state.rglob("*"):
        if p.is_file():
            seen += p.read_bytes().decode("latin1")
    assert SECRET not in seen and KEY_ID in seen
