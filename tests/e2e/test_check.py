"""walsupctl check against set-ups that are broken in one way each: the line that failed, and its cause in one
sentence. Read test_each_broken_set_up_is_named as the list of what is told apart."""

import json
import os
import re
import socket
import sqlite3
import ssl
import subprocess
import threading
import urllib.request

import pytest

from conftest import KEY_ID, SECRET, S3Fault, make_db, section

DENIED = {"action": "status", "status": 403, "code": "AccessDenied"}


def certificate(path, name="s", *ext, key="rsa:2048"):
    """a self-signed certificate for 127.0.0.1"""
    subprocess.run(["openssl", "req", "-x509", "-newkey", key, "-nodes", "-keyout", path / f"{name}.key",
                    "-out", path / f"{name}.pem", "-days", "30", "-subj", "/O=Test Works/CN=checker",
                    "-addext", "subjectAltName=IP:127.0.0.1", *ext], check=True, capture_output=True)
    return path / f"{name}.pem", path / f"{name}.key"


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    s = S3Fault(tmp_path_factory.mktemp("honest") / "s3")
    yield s
    s.close()


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    path = tmp_path_factory.mktemp("secure")
    cert, key = certificate(path)
    s = S3Fault(path / "s3", cert, key)
    s.cert = cert
    yield s
    s.close()


def check(world, *sections, **env):
    world.configure(*sections)
    r = world.ctl("check", "--json", check=False, WALSUP_TEST_S3_CONNECT_MS="400", WALSUP_TEST_S3_IDLE_MS="900", **env)
    assert SECRET not in r.stdout + r.stderr
    out = json.loads(r.stdout)
    steps = {s["step"]: s for t in out["targets"] for s in t["steps"]}
    assert r.returncode == (0 if out["ok"] else 1)
    return out, steps


def listener(answer=b""):
    """answers every connection with these bytes, or never"""
    s = socket.create_server(("127.0.0.1", 0))

    def serve():
        kept = []
        while True:
            try:
                c, _ = s.accept()
            except OSError:
                return
            kept.append(c)
            if answer:
                c.recv(65536)
                c.sendall(answer)
                c.close()

    threading.Thread(target=serve, daemon=True).start()
    return s


def at(host, **more):
    return section("target s3", {"type": "s3", "endpoint": host, "bucket": "litestream", "path": "backups",
                                 "access-key-id": KEY_ID, "secret-access-key": SECRET, **more})


# name: (how to break it, the step that fails, what its text and hint say)
BROKEN = {
    "the host does not resolve": (lambda w, h, s: at("https://s3.nowhere.invalid"), "resolve", "does not resolve"),
    "nothing listens at the port": (lambda w, h, s: at("http://127.0.0.1:1"), "connect", "nothing listens"),
    "the server never answers": (lambda w, h, s: at("http://127.0.0.1:%d" % w.mute.getsockname()[1]), "answer",
                                 "no answer for 900 ms"),
    "the server never answers in TLS": (lambda w, h, s: at("https://127.0.0.1:%d" % w.mute.getsockname()[1]), "TLS",
                                        "within 400 ms"),
    "https to a server that speaks http": (lambda w, h, s: h.target().replace("http://", "https://"), "TLS",
                                           "does not speak TLS", "endpoint = http://"),
    "http to a server that speaks https": (lambda w, h, s: s.target().replace("https://", "http://"), "answer",
                                           "endpoint = https://"),
    "a certificate that nobody vouches for": (lambda w, h, s: s.target(), "TLS", "not trusted", "ca-file"),
    "a certificate for another name": (lambda w, h, s: s.target(**{"ca-file": s.cert}).replace("127.0.0.1", "localhost"),
                                       "TLS", "localhost"),
    "a ca-file that is missing": (lambda w, h, s: s.target(**{"ca-file": "/nowhere/ca.pem"}), "TLS", "/nowhere/ca.pem",
                                  "has to exist"),
    "something else than S3 answers": (lambda w, h, s: at("http://127.0.0.1:%d" % w.web.getsockname()[1]), "answer",
                                       "Welcome to nginx", "no S3 server"),
    "a key id that is not known": (lambda w, h, s: h.target(**{"access-key-id": "AKIANOBODY"}), "credentials",
                                   "AKIANOBODY (it came from the configuration) is not known"),
    "a secret of another key": (lambda w, h, s: h.target(**{"secret-access-key": "wrong"}), "credentials",
                                "does not belong to key id " + KEY_ID),
    "a token that has expired": (lambda w, h, s: h.target() + rule(h, {
        "action": "status", "status": 400, "code": "ExpiredToken"}), "credentials", "get new temporary keys"),
    "a bucket that does not exist": (lambda w, h, s: h.target(bucket="litestraem"), "bucket", "NoSuchBucket",
                                     "create the bucket litestraem"),
    "the wrong region": (lambda w, h, s: h.target(region="eu-central-1"), "bucket", "region", "region = us-east-1"),
    "a redirect": (lambda w, h, s: h.target() + rule(h, {
        "action": "redirect", "status": 307, "location": "http://127.0.0.2/"}), "bucket", "never followed"),
    "no permission to list": (lambda w, h, s: h.target() + rule(h, {"verb": "LIST", **DENIED}), "list", "s3:ListBucket"),
    "no permission to write": (lambda w, h, s: h.target() + rule(h, {"verb": "PUT", **DENIED}), "write",
                               "s3:PutObject"),
    "no permission to read": (lambda w, h, s: h.target() + rule(h, {"verb": "GET", **DENIED}), "read",
                              "s3:GetObject"),
    "no permission to delete": (lambda w, h, s: h.target() + rule(h, {"verb": "DELETE", **DENIED}), "delete",
                                "s3:DeleteObject"),
    "no multipart uploads": (lambda w, h, s: h.target() + rule(h, {"verb": "CREATE", **DENIED}), "multipart",
                             "begin the upload"),
    "a quota that is used up": (lambda w, h, s: h.target() + rule(h, {
        "verb": "PUT", "action": "status", "status": 403, "code": "QuotaExceeded"}), "write", "raise its quota"),
    "a store that changes bytes": (lambda w, h, s: h.target() + rule(h, {"verb": "GET", "action": "corrupt"}), "read",
                                   "not what was stored"),
    "a proxy that ignores ranges": (lambda w, h, s: h.target() + rule(h, {"verb": "GET", "action": "ignore-range"}),
                                    "read a part", "the whole object instead of a part"),
    "a listing without what is young": (lambda w, h, s: h.target() + rule(h, {
        "verb": "LIST", "action": "stale-listing", "older_ms": 60000}), "list", "not in the listing"),
    "a secret that others may read": (lambda w, h, s: at(h.endpoint, **w.loose_secret), "open", "chmod 600"),
    "a secret file that is missing": (lambda w, h, s: at(h.endpoint, **w.no_secret), "open", "no such file"),
    "a directory that is a file": (lambda w, h, s: section("target d", {"type": "file", "path": w.ini}), "write",
                                   "walsup.ini"),
}


def rule(server, r):
    server.faults(r)
    return ""


@pytest.fixture
def traps(world):
    """a world with a server that says nothing, one that is not S3, and files with wrong modes"""
    page = b"<html><title>Welcome to nginx</title></html>"
    world.mute = listener()
    world.web = listener(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n%s" %
                         (len(page), page))
    secret = world.path / "loose"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    world.loose_secret = {"secret-access-key-file": secret}
    world.no_secret = {"secret-access-key-file": world.path / "nothing"}
    yield world
    world.mute.close()
    world.web.close()


@pytest.mark.parametrize("what", BROKEN)
def test_each_broken_set_up_is_named(traps, honest, secure, what):
    make, step, *parts = BROKEN[what]
    honest.control("/_reset", [])
    text = make(traps, honest, secure)
    if "secret-access-key-file" in text:
        text = re.sub(r"secret-access-key = .*\n", "", text)
    out, steps = check(traps, text)
    bad = [s for s in steps.values() if s["result"] == "failed"]
    assert [s["step"] for s in bad] == [step], json.dumps(out, indent=1)
    for part in parts:
        assert part.lower() in (bad[0]["message"] + " " + bad[0]["hint"]).lower(), bad[0]


def test_at_least_twenty_broken_set_ups():
    assert len(BROKEN) >= 20


def test_every_step_of_a_good_target_has_its_line(world, secure):
    out, steps = check(world, secure.target(**{"ca-file": secure.cert}))
    assert out["ok"] and out["warnings"] == 0, out
    assert list(steps) == ["resolve", "connect", "TLS", "clock", "credentials", "bucket", "write", "condition",
                           "look up", "read", "read a part", "list", "multipart", "delete"]
    assert steps["resolve"]["message"].startswith(f"127.0.0.1:{secure.port}, ")
    assert re.fullmatch(r"TLSv1\.3, certificate issued by Test Works checker, (29|30) days left", steps["TLS"]["message"])
    assert steps["credentials"]["message"] == f"key id {KEY_ID} from the configuration"
    assert steps["bucket"]["message"] == "litestream in region us-east-1"
    assert secure_objects(secure) == {}, "the check left something behind"


def secure_objects(server):
    context = ssl.create_default_context(cafile=str(server.cert))
    with urllib.request.urlopen(server.endpoint + "/_objects", context=context, timeout=10) as r:
        return {o["key"]: o for o in json.load(r)}


def test_what_works_but_should_not_stay_so_is_a_warning(world, honest, secure):
    honest.control("/_reset", [])
    out, steps = check(world, secure.target(**{"skip-verify": "yes"}))
    assert out["ok"] and steps["TLS"]["result"] == "warning" and "skip-verify is on" in steps["TLS"]["hint"]
    honest.faults({"verb": "PUT", "action": "ignore-condition"})
    out, steps = check(world, honest.target())
    assert out["ok"] and steps["condition"]["result"] == "warning"
    assert "two writers" in steps["condition"]["message"]
    honest.control("/_reset", [])
    honest.control("/_clock", {"offset_ms": 7200000})
    try:
        out, steps = check(world, honest.target())
    finally:
        honest.control("/_clock", {"offset_ms": 0})
    assert out["ok"] and steps["clock"]["result"] == "warning"
    assert re.search(r"clock is (2.0 h|120 min) behind the server's", steps["clock"]["message"]), steps["clock"]


def test_nothing_is_deleted_where_nothing_may_be(world, honest):
    honest.control("/_reset", [])
    out, steps = check(world, honest.target(delete="no"))
    assert out["ok"] and "delete = no" in steps["delete"]["message"]
    assert not [e for e in honest.ledger() if e["verb"] == "DELETE"]


def test_a_stranger_reads_it_in_a_terminal(world, secure):
    make_db(world.path / "a.db").close()
    world.configure(secure.target(**{"ca-file": secure.cert}), world.db("a", target="s3"))
    r = world.ctl("check")
    assert "  TLS          ok  TLSv1.3, certificate issued by Test Works checker" in r.stdout
    assert "everything is fine" in r.stdout and r.stderr == ""
    assert all(len(line) <= 100 for line in r.stdout.splitlines() if "/" not in line), r.stdout


# ---- what is asked for with every object ---------------------------------------------------------

@pytest.mark.parametrize("keys, headers", [
    ({}, {}),
    ({"sse": "AES256", "storage-class": "STANDARD_IA"},
     {"x-amz-server-side-encryption": "AES256", "x-amz-storage-class": "STANDARD_IA"}),
    ({"sse": "aws:kms", "sse-kms-key-id": "alias/backups"},
     {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "alias/backups"}),
])
def test_encryption_and_storage_class_go_with_every_object(world, s3, keys, headers):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(**keys), world.db("a", target="s3"))
    world.start()
    world.sync()
    assert world.stop() == 0
    stored = [json.loads(p.read_text())["headers"] for p in s3.root.rglob("*.ltx.json")]
    assert stored
    for h in stored:
        assert {k: v for k, v in h.items() if not k.startswith("x-amz-meta-")} == headers


def test_a_kms_key_without_kms_is_a_mistake(world, s3):
    world.configure(s3.target(**{"sse-kms-key-id": "x"}))
    r = world.ctl("check", check=False)
    assert r.returncode != 0 and "sse-kms-key-id is given without sse = aws:kms" in r.stdout + r.stderr


def test_a_database_that_an_application_keeps_for_itself_or_that_has_two_names(world):
    path = world.path / "a.db"
    make_db(path).close()
    world.configure(world.file_target(), world.db("a"))
    assert world.ctl("check", check=False).returncode == 0  # the control
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("pragma locking_mode=exclusive")
    con.execute("insert into t(b) values('mine')")
    r = world.ctl("check", check=False)
    said = " ".join(r.stdout.split())
    assert r.returncode == 1 and f"process {os.getpid()} holds an exclusive lock on it" in said, r.stdout
    con.close()
    os.link(path, world.path / "b.db")
    r = world.ctl("check", check=False)
    assert r.returncode == 0 and "the file has 2 names (hard links)" in " ".join(r.stdout.split()), r.stdout
