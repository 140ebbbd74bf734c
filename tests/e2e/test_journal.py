"""What the journal gets: fields, ids that the catalog explains, one line for each change, no line that waits."""
import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

from conftest import OUT, ROOT, SECRET, make_db

IDS = dict(re.findall(r'^ID\((LOG_\w+), "([0-9a-f]{32})"\)', (ROOT / "common" / "base" / "log_ids.def").read_text(), re.M))
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")


class Journal:
    """a socket where the journal's would be, in a mount namespace of the daemon's own"""

    def __init__(self, path):
        self.dir = path / "journal"
        self.dir.mkdir()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(self.dir / "socket"))
        self.got = []
        self.lock = threading.Event()
        self.listening = True

    def listen(self):
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        self.sock.settimeout(0.1)
        while self.listening:
            try:
                data = self.sock.recv(65536)
            except socket.timeout:
                continue
            self.got.append(dict(x.split("=", 1) for x in data.decode().splitlines()))

    def waiting(self):
        """bytes that were sent and not read"""
        return struct.unpack("i", fcntl.ioctl(self.sock, termios.FIONREAD, b"\0" * 4))[0]

    def wrap(self, log):
        """walsupd with the journal for standard error, as systemd starts it"""
        st = os.stat(log)
        return ["unshare", "-m", "sh", "-c",
                "mount -t tmpfs none /run && mkdir -p /run/lock /run/systemd/journal && "
                f"mount --bind {self.dir} /run/systemd/journal && exec \"$0\" \"$@\""], {"JOURNAL_STREAM": f"{st.st_dev}:{st.st_ino}"}

    def about(self, name):
        return [x for x in self.got if x.get("MESSAGE_ID") == IDS[name]]

    def close(self):
        self.listening = False


@pytest.fixture
def journal(world):
    j = Journal(world.path)
    world.log.touch()
    yield j
    j.close()


def begin(world, journal, listen=True):
    if listen:
        journal.listen()
    wrap, env = journal.wrap(world.log)
    world.start(wrap=wrap, **env)


@NEEDS_ROOT
@pytest.mark.outside
def test_messages_have_fields_and_nothing_goes_to_standard_error(world, s3, journal):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.file_target(), world.db("a", target="s3, local"))
    begin(world, journal)
    world.sync()
    world.ctl("pause", "a", "--reason", "lunch")
    world.ctl("resume", "a")
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    con.execute("insert into t(b) values (1)")
    con.commit()
    world.poll("the target fails", lambda: journal.about("LOG_NOT_UPLOADED"))
    s3.faults()
    world.poll("and works", lambda: journal.about("LOG_UPLOADED_AGAIN"), timeout=60)
    world.ctl("reload")
    world.stop()
    world.proc = None
    world.poll("the last line", lambda: any(m["MESSAGE"] == "stopped" for m in journal.got))
    assert world.log.read_bytes() == b""
    for m in journal.got:
        assert set(m) <= {"MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "MESSAGE_ID", "WALSUP_DATABASE", "WALSUP_TARGET", "WALSUP_STATE"}
        assert m["SYSLOG_IDENTIFIER"] == "walsupd" and m["PRIORITY"] in "34567" and m["MESSAGE"]
    for name in ("LOG_READY", "LOG_STOPPING", "LOG_RELOADED", "LOG_ATTACHED", "LOG_PAUSED", "LOG_RESUMED", "LOG_CONTROL"):
        assert journal.about(name), name
    (failed,), (again,) = journal.about("LOG_NOT_UPLOADED"), journal.about("LOG_UPLOADED_AGAIN")
    assert (failed["WALSUP_DATABASE"], failed["WALSUP_TARGET"], failed["WALSUP_STATE"], failed["PRIORITY"]) == ("a", "s3", "error", "4")
    assert (again["WALSUP_DATABASE"], again["WALSUP_TARGET"], again["WALSUP_STATE"], again["PRIORITY"]) == ("a", "s3", "ok", "5")
    assert journal.about("LOG_PAUSED")[0]["MESSAGE"] == "a: paused by root: lunch"
    assert "WALSUP_DATABASE" not in journal.about("LOG_READY")[0], "fields of one line must not stick to the next"
    con.close()


@NEEDS_ROOT
@pytest.mark.outside
def test_a_journal_that_does_not_read_holds_nobody_up_and_loses_only_lines(world, journal):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), log_level="debug")
    begin(world, journal, listen=False)
    for i in range(300):  # each is a line
        world_line(world)
    con.execute("insert into t(b) values (1)")
    con.commit()
    t0 = time.monotonic()
    world.sync("a", timeout=10)
    assert time.monotonic() - t0 < 5
    journal.listen()
    world.poll("the queue is read", lambda: journal.got and not journal.waiting())
    world.ctl("reload")
    lost = world.poll("the loss is told", lambda: [x for x in journal.got if "log lines are missing here" in x["MESSAGE"]])
    assert int(lost[0]["MESSAGE"].split()[0]) > 0
    con.close()


def world_line(world):
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(world.socket))
    s.sendall(json.dumps({"method": "io.walsup.PageMap", "parameters": {"db": "nobody"}}).encode() + b"\0")
    assert s.recv(65536)
    s.close()


def test_a_pipe_that_nobody_reads_holds_nobody_up(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    r, w = os.pipe()
    os.set_blocking(w, False)
    os.write(w, b"x" * 65536)  # no room left
    os.set_blocking(w, True)
    world.start(wrap=["sh", "-c", f'exec "$0" "$@" 2>/proc/{os.getpid()}/fd/{w}'])
    con.execute("insert into t(b) values (1)")
    con.commit()
    world.sync("a", timeout=20)
    os.set_blocking(r, False)
    with contextlib.suppress(BlockingIOError):
        while os.read(r, 65536):
            pass
    world.ctl("reload")
    said = world.poll("it speaks again", lambda: select.select([r], [], [], 0)[0] and os.read(r, 65536).decode())
    assert "log lines are missing here: nobody took them" in said.splitlines()[0] and "configuration reloaded" in said
    os.close(r)
    os.close(w)
    con.close()


def test_without_the_journal_lines_are_as_ever_and_a_stale_variable_does_not_matter(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start(JOURNAL_STREAM="1:1")
    world.stop()
    lines = world.log.read_text().splitlines()
    assert lines[0].startswith("walsupd ") and lines[-1] == "stopped" and not any(x.startswith("<") for x in lines)


def test_an_outage_is_one_line_and_its_end_another(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    world.sync()
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    begin_at = len(world.log.read_text().splitlines())
    for i in range(20):
        con.execute("insert into t(b) values (?)", (i,))
        con.commit()
        world.ctl("sync", "a")
        time.sleep(0.05)
    tried = world.poll("tried several times", lambda: (n := world.status("a")["replicas"][0]["error"]["failures"]) >= 3 and n)
    s3.faults()
    world.ctl("sync", "--wait", timeout=90)
    lines = world.log.read_text().splitlines()[begin_at:]
    assert len(lines) == 2, lines
    assert "a -> s3: not uploaded" in lines[0] and f"works again after" in lines[1] and tried >= 3
    con.close()


def test_each_id_is_explained_and_nothing_else_is(tmp_path):
    text = (ROOT / "units" / "walsup.catalog").read_text()
    explained = re.findall(r"^-- ([0-9a-f]{32})$", text, re.M)
    assert sorted(explained) == sorted(IDS.values()) and len(set(explained)) == len(explained) > 10
    source = "\n".join(p.read_text() for d in ("daemon", "common") for p in (ROOT / d).rglob("*.c"))
    for name in IDS:  # and each is used
        assert re.search(rf"\b{name}\b", source), name
    for entry in text.split("\n-- ")[1:]:
        head, _, body = entry.partition("\n\n")
        assert "Subject: " in head and "Documentation: man:walsupd(8)" in head and len(body.strip()) > 5
        assert set(re.findall(r"@(\w+)@", entry)) <= {"WALSUP_DATABASE", "WALSUP_TARGET", "WALSUP_STATE", "MESSAGE"}
    if not shutil.which("journalctl"):
        pytest.skip("there is no journalctl to read it")
    where = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    where.mkdir(parents=True)
    shutil.copy(ROOT / "units" / "walsup.catalog", where)
    r = subprocess.run(["journalctl", "--update-catalog", f"--root={tmp_path}"], capture_output=True, text=True, timeout=30,
                       env={**os.environ, "SYSTEMD_LOG_LEVEL": "debug"})
    assert r.returncode == 0 and (tmp_path / "var" / "lib" / "systemd" / "catalog" / "database").stat().st_size > 1000, r
    assert f"{len(IDS)} items" in r.stderr or "items in catalog" in r.stderr or not r.stderr, r.stderr


def test_requests_are_logged_on_demand_and_hold_no_secret(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    world.sync()
    assert "request:" not in world.log.read_text()
    world.configure(s3.target(), world.db("a", target="s3"), log_requests="yes")
    world.ctl("reload")
    con.execute("insert into t(b) values (1)")
    con.commit()
    world.sync()
    s3.faults({"verb": "PUT", "action": "status", "status": 503, "count": 1})
    con.execute("insert into t(b) values (2)")
    con.commit()
    world.ctl("sync", "--wait", timeout=60)
    lines = [x for x in world.log.read_text().splitlines() if x.startswith("request:")]
    assert len(lines) >= 3
    for x in lines:
        assert re.fullmatch(r'request: [A-Z]+ "backups/a/\S*" in litestream at http://127\.0\.0\.1:\d+: (\d{3}|no answer), \d+ ms', x), x
    assert any(": 503, " in x for x in lines) and any(x.startswith("request: PUT") and ": 200, " in x for x in lines)
    assert SECRET not in world.log.read_text() and "Signature" not in world.log.read_text()
    world.configure(s3.target(), world.db("a", target="s3"))
    world.ctl("reload")
    n = world.log.read_text().count("request:")
    con.execute("insert into t(b) values (3)")
    con.commit()
    world.sync()
    assert world.log.read_text().count("request:") == n
    con.close()
