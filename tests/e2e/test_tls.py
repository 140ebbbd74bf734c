"""What a server on the other side of TLS can be, and that a bad one gets nothing: no byte of a request, so no key.
The servers are Python's ssl with the brakes off; they record what arrives after the handshake."""
import json
import re
import socket
import ssl
import subprocess
import threading

import pytest

from conftest import KEY_ID, SECRET, S3Fault, make_db, section


def openssl(*args, cwd):
    r = subprocess.run(["openssl", *map(str, args)], cwd=cwd, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr


class Authority:
    """A CA, and what it signs. Dates go through `openssl ca`, the only one that takes them."""

    def __init__(self, path, name):
        self.path = path / name
        self.path.mkdir()
        (self.path / "index.txt").write_text("")
        (self.path / "serial").write_text("01")
        (self.path / "ca.cnf").write_text(
            "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ncertificate=ca.pem\n"
            "private_key=ca.key\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", 30,
                "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign", cwd=self.path)
        self.ca = self.path / "ca.pem"

    def sign(self, name, san="IP:127.0.0.1", bits=2048, start=None, end=None, md="sha256", ext=""):
        openssl("req", "-newkey", f"rsa:{bits}", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj",
                f"/CN={name}", cwd=self.path)
        (self.path / f"{name}.ext").write_text(f"subjectAltName={san}\nauthorityKeyIdentifier=keyid\n{ext}")
        dates = ["-startdate", start, "-enddate", end] if start else ["-days", 20]
        openssl("ca", "-batch", "-notext", "-config", "ca.cnf", "-in", f"{name}.csr", "-out", f"{name}.pem",
                "-extfile", f"{name}.ext", "-md", md, *dates, cwd=self.path)
        return self.path / f"{name}.pem", self.path / f"{name}.key"


class Server:
    """accepts, shakes hands as far as it can, and keeps what comes after that"""

    def __init__(self, pair=None, versions=None, behave=None):
        self.seen, self.accepted, self.behave = b"", 0, behave
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if pair else None
        if pair:
            self.tls.set_ciphers("ALL:@SECLEVEL=0")
            if versions:
                self.tls.minimum_version = ssl.TLSVersion.TLSv1
                self.tls.maximum_version = versions
            self.tls.load_cert_chain(*pair)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            self.accepted += 1
            c.settimeout(5)
            try:
                if self.behave:
                    self.behave(c)
                else:
                    with self.tls.wrap_socket(c, server_side=True) as s:
                        self.seen += s.recv(65536)
                        s.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                pass
            c.close()

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join(5)


def hang_up(c):
    c.recv(5)
    c.close()


def speak_http(c):
    c.recv(65536)
    c.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def garbage(c):
    c.recv(65536)
    c.sendall(bytes(range(256)) * 4)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    path = tmp_path_factory.mktemp("pki")
    ours, theirs = Authority(path, "ours"), Authority(path, "theirs")
    good = ours.sign("good")
    pem, key = ours.path / "self.pem", ours.path / "self.key"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", pem, "-days", 9, "-subj",
            "/CN=self", "-addext", "subjectAltName=IP:127.0.0.1", cwd=path)
    leaf = ours.sign("leaf", ext="basicConstraints=critical,CA:FALSE\n")
    below = theirs.path / "below.pem"  # signed by a certificate that is no CA's
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", "below.key", "-out", "below.csr", "-subj", "/CN=below",
            cwd=theirs.path)
    (theirs.path / "below.ext").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "below.csr", "-CA", leaf[0], "-CAkey", leaf[1], "-CAcreateserial", "-days", 9,
            "-extfile", "below.ext", "-out", "below.pem", cwd=theirs.path)
    below.write_text(below.read_text() + leaf[0].read_text())
    return {
        "ca": ours.ca, "good": good, "client": ours.sign("client"), "self": (pem, key), "unknown": theirs.sign("unknown"),
        "expired": ours.sign("expired", start="20200101000000Z", end="20200201000000Z"),
        "future": ours.sign("future", start="20900101000000Z", end="20910101000000Z"),
        "host": ours.sign("host", san="DNS:other.example"),
        "no-ip": ours.sign("no-ip", san="DNS:127.0.0.1"),
        "weak": ours.sign("weak", bits=1024), "sha1": ours.sign("sha1", md="sha1"),
        "below": (below, theirs.path / "below.key"),
    }


pytestmark = pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")  # old on purpose

# what the server is: (certificate or behaviour, newest version, what has to be said)
BAD = {
    "self-signed": ("self", None, "self-signed"),
    "of an unknown CA": ("unknown", None, "CA is not known"),
    "expired": ("expired", None, "has expired"),
    "not yet valid": ("future", None, "not valid yet"),
    "for another host": ("host", None, "another name"),
    "for a name that only looks like the address": ("no-ip", None, "another name"),
    "with a weak key": ("weak", None, "too weak"),
    "signed with SHA-1": ("sha1", None, "too weak"),
    "signed by what is no CA": ("below", None, "no CA"),
    "of TLS 1.0": ("good", ssl.TLSVersion.TLSv1, "no TLS newer than 1.1"),
    "of TLS 1.1": ("good", ssl.TLSVersion.TLSv1_1, "no TLS newer than 1.1"),
    "plain HTTP": (speak_http, None, "does not speak TLS"),
    "hanging up in the handshake": (hang_up, None, "in the middle of the TLS handshake"),
    "no TLS at all": (garbage, None, "TLS"),
}


def target(port, **more):
    return section("target s3", {"type": "s3", "endpoint": f"https://127.0.0.1:{port}", "bucket": "litestream",
                                 "access-key-id": KEY_ID, "secret-access-key": SECRET, **more})


def steps_of(world, *sections):
    world.configure(*sections)
    r = world.ctl("check", "--json", check=False)
    return {s["step"]: s for t in json.loads(r.stdout)["targets"] for s in t["steps"]}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_server_is_refused_and_gets_nothing(world, pki, what):
    kind, newest, said = BAD[what]
    server = Server(behave=kind) if callable(kind) else Server(pki[kind], newest)
    try:
        steps = steps_of(world, target(server.port, **{"ca-file": pki["ca"]}))
    finally:
        server.close()
    assert server.accepted, "nobody came"
    assert server.seen == b"", server.seen
    assert steps["TLS"]["result"] == "failed" and said in steps["TLS"]["message"], steps
    assert "write" not in steps


def test_at_least_twelve_bad_servers():
    assert len(BAD) >= 12


def test_the_good_server_gets_the_request_so_the_others_would_have_shown_it(world, pki):
    server = Server(pki["good"])
    try:
        steps = steps_of(world, target(server.port, **{"ca-file": pki["ca"]}))
    finally:
        server.close()
    assert steps["TLS"]["result"] == "ok", steps
    assert b"\r\nAuthorization: AWS4-HMAC-SHA256 Credential=" + KEY_ID.encode() in server.seen


def test_without_ca_file_the_systems_store_decides(world, pki):
    server = Server(pki["good"])
    try:
        steps = steps_of(world, target(server.port))
    finally:
        server.close()
    assert "CA is not known" in steps["TLS"]["message"] and server.seen == b""


def test_a_directory_of_certificates(world, pki, tmp_path):
    (tmp_path / "ca").mkdir()
    (tmp_path / "ca" / "ours.pem").write_bytes(pki["ca"].read_bytes())
    server = Server(pki["good"])
    try:
        before = steps_of(world, target(server.port, **{"ca-path": tmp_path / "ca"}))
        assert before["TLS"]["result"] == "failed", "there is no hash yet"
        openssl("rehash", tmp_path / "ca", cwd=tmp_path)
        steps = steps_of(world, target(server.port, **{"ca-path": tmp_path / "ca"}))
    finally:
        server.close()
    assert steps["TLS"]["result"] == "ok", steps


def test_a_server_that_asks_for_a_client_certificate(world, pki):
    server = Server(pki["good"])
    server.tls.verify_mode = ssl.CERT_REQUIRED
    server.tls.load_verify_locations(pki["ca"])
    server.tls.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 it is refused after the handshake
    pem, key = pki["client"]
    try:
        without = steps_of(world, target(server.port, **{"ca-file": pki["ca"]}))
        seen = server.seen
        wrong = steps_of(world, target(server.port, **{"ca-file": pki["ca"], "client-certificate": pem,
                                                       "client-key": pki["good"][1]}))
        steps = steps_of(world, target(server.port, **{"ca-file": pki["ca"], "client-certificate": pem,
                                                       "client-key": key}))
    finally:
        server.close()
    assert "client-certificate" in without["TLS"]["hint"] and seen == b"", without
    assert "cannot be used" in wrong["TLS"]["message"] and str(pem) in wrong["TLS"]["message"], wrong
    assert steps["TLS"]["result"] == "ok" and b"Authorization" in server.seen


def test_a_daemon_without_verification_says_so_at_every_start_and_in_status(world, pki, tmp_path):
    s3 = S3Fault(tmp_path / "s3", *pki["self"])
    try:
        make_db(world.path / "a.db").close()
        world.configure(s3.target(**{"skip-verify": "yes"}), world.db("a", target="s3"))
        for start in (1, 2):
            world.start()
            world.sync()
            assert world.log.read_text().count("skip-verify is on") == start
            assert world.status("a")["replicas"][0]["skip_verify"] is True
            assert "skip-verify is on" in re.sub(r"\s+", " ", world.ctl("status").stdout)
            assert world.stop() == 0
    finally:
        s3.close()


def test_new_certificates_are_taken_up_by_a_reload(world, pki, tmp_path):
    """the CA is replaced: the daemon is told, not restarted"""
    s3 = S3Fault(tmp_path / "s3", *pki["good"])
    con = make_db(world.path / "a.db")
    try:
        ca = tmp_path / "ca.pem"
        ca.write_bytes(pki["self"][0].read_bytes())
        world.configure(s3.target(**{"ca-file": ca}), world.db("a", target="s3"))
        world.start()
        world.poll("an error that names the CA", lambda: "CA is not known" in json.dumps(world.status("a")))
        ca2 = tmp_path / "ca2.pem"
        ca2.write_bytes(pki["ca"].read_bytes())
        world.configure(s3.target(**{"ca-file": ca2}), world.db("a", target="s3"))
        world.ctl("reload")
        world.sync()
        assert world.status("a")["replicas"][0]["state"] != "failed"
    finally:
        con.close()
        world.stop()
        s3.close()
