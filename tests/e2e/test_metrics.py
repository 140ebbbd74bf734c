"""Metrics, each by its value: something is done whose figures are known from elsewhere (the files of a replica, the
server's ledger, SQLite), then the number is read. A metric without such a check fails the last test."""
import http.client
import json
import pathlib
import re
import socket
import subprocess
import time

import pytest

from conftest import OUT, ROOT, make_db, txids
from ports import free_ports

PROMTOOL = ROOT / "build" / "tools" / "promtool"
LINE = re.compile(r'^(\w+)(?:\{(.*)\})? (-?[\d.]+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    def __init__(self, text):
        self.text, self.value = text, {}
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            name, labels, value = LINE.match(line).groups()
            key = name, tuple(sorted((k, v.replace('\\"', '"').replace("\\\\", "\\"))
                                     for k, v in LABEL.findall(labels or "")))
            assert key not in self.value, f"twice: {line}"
            self.value[key] = float(value)

    def get(self, name, **labels):
        """None: there is no such sample"""
        return self.value.get((name, tuple(sorted(labels.items()))))


def read(world):
    return Metrics(world.ctl("metrics").stdout)


def fetch(world, method="GET", path="/metrics"):
    c = http.client.HTTPConnection("127.0.0.1", world.port, timeout=20)
    c.request(method, path)
    r = c.getresponse()
    body = r.read().decode()
    c.close()
    return r, body


def listed():
    return {m["name"]: m for m in json.loads(
        subprocess.run([OUT / "walsupctl", "metrics", "--list", "--json"], capture_output=True, check=True).stdout)["metrics"]}


@pytest.fixture
def served(world, s3):
    """two databases, one with two replicas; every request is counted by the server as well"""
    world.port = free_ports(1)
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), s3.target(), world.db("a", target="local, s3"),
                    world.db("later"), metrics_listen=f"127.0.0.1:{world.port}", level1_interval="0s",
                    snapshot_interval="0s", retention="0s", checkpoint_pages=100000)
    world.con, world.began = con, time.time()
    world.start()
    for i in range(5):
        con.execute("insert into t(b) values(randomblob(?))", (3000,))
        con.commit()
        world.sync("a")
    yield world
    con.close()


def test_what_was_captured_and_stored_is_counted(served, s3):
    world = served
    m = read(world)
    mine = {"database": "a", "target": "local"}
    names, now = txids(world), time.time()
    files = list(world.replica.glob("a/ltx/0/*.ltx"))
    assert m.get("walsup_build_info", version=world.status()["version"], sqlite=world.status()["sqlite_version"]) == 1
    assert world.began - 1 < m.get("walsup_start_time_seconds") <= now
    assert m.get("walsup_databases", state="replicating") == 1
    assert m.get("walsup_databases", state="waiting") == 1 and m.get("walsup_databases", state="failed") == 0
    assert m.get("walsup_sessions_attached") == 1
    assert m.get("walsup_patterns_lost") == 0
    assert m.get("walsup_database_health", database="a") == 0
    assert m.get("walsup_database_health", database="later") == 1
    assert m.get("walsup_database_error", database="a") == 0
    assert m.get("walsup_database_txid", database="a") == names[-1] == 6
    pages, size = (world.con.execute(f"pragma {p}").fetchone()[0] for p in ("page_count", "page_size"))
    assert m.get("walsup_database_size_bytes", database="a") == pages * size
    assert m.get("walsup_database_wal_bytes", database="a") == (world.path / "a.db-wal").stat().st_size - 32 > 0
    assert m.get("walsup_database_captures_total", database="a") == 6
    assert m.get("walsup_database_spool_files", database="a") == 0
    assert m.get("walsup_database_merges_total", database="a") == 0
    assert now - 60 < m.get("walsup_database_last_commit_timestamp_seconds", database="a") <= now
    for target in ("local", "s3"):
        its = {"database": "a", "target": target}
        assert m.get("walsup_replica_txid", **its) == 6 and m.get("walsup_replica_uploads_total", **its) == 6
        assert m.get("walsup_replica_lag_seconds", **its) == 0 == m.get("walsup_replica_lag_bytes", **its)
        assert m.get("walsup_replica_error", **its) == 0 == m.get("walsup_replica_failures", **its)
        assert m.get("walsup_replica_history_error", **its) == 0 == m.get("walsup_replica_deleted_files_total", **its)
        assert now - 60 < m.get("walsup_replica_last_success_timestamp_seconds", **its) <= now
        assert world.began - 1 < m.get("walsup_replica_snapshot_timestamp_seconds", **its) <= now
    stored = sum(f.stat().st_size for f in files)
    assert m.get("walsup_replica_uploaded_bytes_total", **mine) == stored
    assert m.get("walsup_target_requests_total", target="local", operation="put", outcome="ok") == len(files) == 6
    assert m.get("walsup_target_bytes_total", target="local", operation="put") == stored
    puts = [x for x in s3.ledger() if x["verb"] == "PUT" and x["status"] == 200]
    assert m.get("walsup_target_requests_total", target="s3", operation="put", outcome="ok") == len(puts) >= 6
    # what never happened is not there
    assert m.get("walsup_target_requests_total", target="s3", operation="put", outcome="error") is None
    assert m.get("walsup_database_last_verified_timestamp_seconds", database="a") is None
    assert m.get("walsup_database_verify_result", database="a") is None
    assert m.get("walsup_replica_txid", database="later", target="local") == 0


def test_by_http_it_is_what_the_control_socket_says_and_promtool_accepts_it(served):
    world = served
    r, body = fetch(world)
    assert r.status == 200 and r.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    ours = Metrics(world.ctl("metrics").stdout)
    assert set(Metrics(body).value) == set(ours.value)
    assert json.loads(world.ctl("metrics", "--json").stdout)["text"].startswith("# HELP walsup_build_info ")
    heads = re.findall(r"^# TYPE (\w+) (\w+)$", body, re.M)
    assert heads == [(n, m["type"]) for n, m in listed().items()]
    for (name, labels) in ours.value:
        assert sorted(listed()[name]["labels"]) == [k for k, _ in labels], name
    assert PROMTOOL.exists(), f"{PROMTOOL} is missing: make deps-test"
    judged = subprocess.run([PROMTOOL, "check", "metrics"], input=body, capture_output=True, text=True)
    assert judged.returncode == 0 and judged.stdout + judged.stderr == ""
    judged = subprocess.run([PROMTOOL, "check", "metrics"], input=body.replace(" gauge", " rubbish"),
                            capture_output=True, text=True)
    assert judged.returncode != 0


def test_only_the_metrics_are_served(served):
    world = served
    assert fetch(world, path="/")[1] == "walsupd: /metrics\n"
    assert fetch(world, path="/etc/walsup.ini")[0].status == 404
    r, _ = fetch(world, method="DELETE")
    assert r.status == 405 and r.headers["Allow"] == "GET, HEAD"
    r, body = fetch(world, method="HEAD")
    assert r.status == 200 and not body


@pytest.mark.outside
def test_strangers_that_say_nothing_or_rubbish_hold_nobody_up(served):
    """more connections than are served, silent; then whoever scrapes from elsewhere, and the control socket"""
    world = served
    idle = [socket.create_connection(("127.0.0.1", world.port)) for _ in range(40)]
    for s in idle[:4]:
        s.sendall(b"\0\xff rubbish\r\n" * 10)
    assert world.ctl("status", timeout=5, check=False).returncode == 1
    world.sync("a", timeout=10)
    fds = len(list(pathlib.Path(f"/proc/{world.proc.pid}/fd").iterdir()))
    assert fds < 60
    for s in idle:
        s.close()

    def again():
        try:
            return fetch(world)[0]
        except OSError:  # the queue was full of those that are gone
            return None

    assert world.poll("answered again", again).status == 200


def test_a_reader_that_takes_nothing_costs_no_memory_and_the_daemon_stops(served):
    world = served
    s = socket.create_connection(("127.0.0.1", world.port))
    s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    world.sync("a", timeout=10)
    assert world.stop() == 0
    s.close()


def test_a_replica_that_is_away_shows_in_every_figure_about_it(world, s3):
    con = make_db(world.path / "a.db")
    (world.path / "rubbish.db").write_bytes(b"this is no database" * 1000)
    world.configure(world.file_target(), s3.target(bucket="litestraem"), world.db("a", target="local, s3"),
                    world.db("rubbish"), retention="0s")
    world.start()
    con.execute("insert into t(b) values(randomblob(3000))")
    con.commit()
    world.ctl("sync", "a")  # captured; that the bucket gets it nobody can wait for
    world.poll("two failures", lambda: any((r["error"] or {}).get("failures", 0) > 1
                                           for r in world.status("a")["replicas"]))
    world.poll("the directory has it", lambda: len(txids(world)) == 2)
    m, its = read(world), {"database": "a", "target": "s3"}
    assert m.get("walsup_replica_error", **its) == 1 and m.get("walsup_replica_failures", **its) >= 2
    assert m.get("walsup_replica_lag_seconds", **its) > 0
    pending = sum(f.stat().st_size for f in world.replica.glob("a/ltx/0/*.ltx"))
    assert m.get("walsup_replica_lag_bytes", **its) == pending > 0
    assert m.get("walsup_database_spool_files", database="a") == len(txids(world)) > 0
    assert m.get("walsup_database_spool_bytes", database="a") >= pending
    assert m.get("walsup_replica_error", database="a", target="local") == 0
    assert m.get("walsup_replica_last_success_timestamp_seconds", **its) is None
    failed = [v for (n, labels), v in m.value.items() if n == "walsup_target_requests_total" and
              dict(labels)["target"] == "s3" and dict(labels)["outcome"] == "error"]
    assert sum(failed) >= 2
    world.poll("the rubbish is noticed", lambda: world.status("rubbish")["state"] == "failed")
    m = read(world)
    assert m.get("walsup_database_error", database="rubbish") == 1
    assert m.get("walsup_database_health", database="rubbish") == 2
    assert m.get("walsup_databases", state="failed") == 1 and m.get("walsup_databases", state="behind") == 1


def test_merges_deletions_snapshots_and_how_far_back(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), sync_interval="10ms", level1_interval="200ms",
                    level2_interval="1s", level3_interval="3s", snapshot_interval="2s", retention="3s",
                    delete_delay="0s")
    world.start()
    its = {"database": "a", "target": "local"}

    def gone():
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        world.sync("a")
        return read(world).get("walsup_replica_deleted_files_total", **its)

    world.poll("something is deleted", gone)
    # quiet: nothing is captured any more, and what is merged or deleted follows from files that are there
    known = [(f, int(f.name[:16], 16), int(f.name[17:33], 16)) for f in world.replica.glob("a/ltx/*/*.ltx")]
    m, d = read(world), world.status("a")
    r = d["replicas"][0]
    assert m.get("walsup_database_merges_total", database="a") >= sum(f.parent.name in "123" for f, _, _ in known) > 0
    assert 0 < m.get("walsup_replica_deleted_files_total", **its) <= m.get("walsup_replica_uploads_total", **its)
    assert 1 not in txids(world)
    snapshot = m.get("walsup_replica_snapshot_timestamp_seconds", **its)
    assert time.time() - 20 < snapshot <= time.time() and snapshot * 1000 <= r["snapshot_ms"] + 0.5
    oldest = m.get("walsup_replica_oldest_restorable_timestamp_seconds", **its)
    assert oldest is not None and time.time() - 60 < oldest <= time.time()


def test_what_a_verification_found(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a", verify_interval="1s"))
    world.start()
    con.execute("insert into t(b) values(randomblob(3000))")
    con.commit()
    world.sync("a")
    world.poll("proven", lambda: read(world).get("walsup_database_verify_result", database="a") == 0)
    at = read(world).get("walsup_database_last_verified_timestamp_seconds", database="a")
    assert time.time() - 30 < at <= time.time()
    newest = max(world.replica.glob("a/ltx/0/*.ltx"))
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    world.poll("unsafe", lambda: read(world).get("walsup_database_verify_result", database="a") == 2)
    assert read(world).get("walsup_database_last_verified_timestamp_seconds", database="a") > at


def test_deletions_that_are_refused_are_a_history_error(world, s3):
    """commits get through, snapshots do not"""
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), level1_interval="200ms")
    world.start()
    s3.faults({"verb": "PUT", "key_regex": "/0001/", "action": "status", "status": 403, "code": "AccessDenied"})
    its = {"database": "a", "target": "s3"}

    def refused():
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        world.sync("a")
        return read(world).get("walsup_replica_history_error", **its) == 1

    world.poll("noticed", refused)
    m = read(world)
    assert m.get("walsup_replica_error", **its) == 0
    assert m.get("walsup_target_requests_total", target="s3", operation="put", outcome="denied") >= 1


def test_the_loop_that_was_held_up_says_so(world):
    """a stop of the process while the loop works cannot be told apart from the loop being busy"""
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync("a")
    m = read(world)
    busy, longest = m.get("walsup_loop_busy_seconds_total"), m.get("walsup_loop_delay_max_seconds")
    assert 0 <= longest <= busy + 0.002 < 30
    for _ in range(200):
        read_status = world.ctl("status")
    assert read_status.returncode == 0
    assert read(world).get("walsup_loop_busy_seconds_total") > busy


def test_an_address_that_is_none_is_refused_and_one_that_is_taken_is_said(world):
    make_db(world.path / "a.db").close()
    for wrong in ("9629", ":9629", "localhost:9629", "127.0.0.1:0", "127.0.0.1:99999", "::1:9629"):
        world.configure(world.file_target(), world.db("a"), metrics_listen=wrong)
        r = subprocess.run([OUT / "walsupd", "-c", world.ini, "--check"], capture_output=True, text=True)
        assert r.returncode == 78 and "no address in digits with a port" in r.stderr, (wrong, r.stderr)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        world.configure(world.file_target(), world.db("a"), metrics_listen=f"127.0.0.1:{s.getsockname()[1]}")
        world.start()
        world.sync("a")  # it replicates all the same
        assert "no metrics: listen for metrics at 127.0.0.1" in world.log.read_text()
        assert "another program may have the port" in world.log.read_text()


@pytest.mark.outside
def test_without_the_key_nobody_listens_and_the_verb_works(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    tcp = subprocess.run(["ls", "-l", f"/proc/{world.proc.pid}/fd"], capture_output=True, text=True).stdout
    inodes = set(re.findall(r"socket:\[(\d+)\]", tcp))
    listening = {line.split()[9] for f in ("tcp", "tcp6")
                 for line in open(f"/proc/{world.proc.pid}/net/{f}") if line.split()[3] == "0A"}
    assert inodes and not inodes & listening
    assert read(world).get("walsup_databases", state="starting") is not None


def test_every_metric_has_a_test_of_its_value():
    """in this file: a metric whose sample nobody asks for is missing here"""
    asked = set(re.findall(r'\bget\("(walsup_\w+)"', pathlib.Path(__file__).read_text()))
    assert len(asked) > 20 and set(listed()) == asked
