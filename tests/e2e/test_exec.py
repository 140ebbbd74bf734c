"""walsupd --exec 'PROGRAM ARGS': restore what is missing, run the program, replicate until it ends, exit as it did."""
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import KEY_ID, OUT, SECRET, image, make_db, section

PROGRAM = """
import os, signal, sqlite3, sys, time
path, rows, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
con = sqlite3.connect(path, isolation_level=None)
con.execute("pragma journal_mode=wal")
con.execute("create table if not exists t(a integer primary key, b)")
if how == "serve":
    def end(n, frame):
        con.execute("insert into t(b) values('goodbye')")
        print("ended by", signal.Signals(n).name, flush=True)
        sys.exit(5)
    for n in (signal.SIGTERM, signal.SIGINT):
        signal.signal(n, end)
    # not by print(), which must not begin again while it is in a write
    signal.signal(signal.SIGHUP, lambda *a: os.write(1, b"hup\\n"))
    signal.signal(signal.SIGUSR1, lambda *a: os.write(1, b"usr1\\n"))
n = con.execute("select count(*) from t").fetchone()[0]
print("rows", n, "pid", os.getpid(), flush=True)
for i in range(rows) if rows >= 0 else iter(int, 1):
    con.execute("insert into t(b) values(randomblob(200))")
if how == "serve":
    while True:
        signal.pause()
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "orphan":
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    for i in range(500):
        children = open("/proc/%d/task/%d/children" % (os.getppid(), os.getppid())).read().split()
        if len(children) == 2:
            break
        time.sleep(0.01)
    print("children", children, flush=True)
sys.exit(0 if how == "orphan" else int(how))
"""


@pytest.fixture
def run(world):
    """run(rows, how) -> Popen of walsupd --exec with a program that commits `rows` times"""
    (world.path / "program.py").write_text(PROGRAM)
    started = []

    def start(rows, how, *args, command=None, **env):
        command = command or f"{sys.executable} '{world.path}/program.py' {world.path}/a.db {rows} {how}"
        p = subprocess.Popen([str(OUT / "walsupd"), *(args or ("-c", str(world.ini))), "--exec", command],
                             env={**world.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(p)
        return p

    yield start
    for p in started:
        if p.poll() is None:
            p.kill()
            p.wait()
        p.stdout.close()
        p.stderr.close()


def line(p):
    """the next one that the program prints; when it has ended instead, why"""
    text = p.stdout.readline()
    assert text, p.communicate()[1]
    return text


def ended(p, timeout=60):
    out, err = p.communicate(timeout=timeout)
    return p.returncode, out, err


def rows_of(path):
    con = sqlite3.connect(path)
    try:
        assert con.execute("pragma integrity_check").fetchone() == ("ok",)
        return con.execute("select count(*) from t").fetchone()[0]
    finally:
        con.close()


def lose(world, name="a"):
    for side in ("", "-wal", "-shm"):
        (world.path / f"{name}.db{side}").unlink(missing_ok=True)
    shutil.rmtree(world.state)


@pytest.mark.parametrize("how, status", [("0", 0), ("7", 7), ("kill", 137)])
def test_a_program_that_ends_at_once_has_all_its_commits_in_the_replica(world, run, how, status):
    """the default copy-wait, and a database that did not exist before: nothing was attached when it ended"""
    world.configure(world.file_target(), world.db("a"), copy_wait="2s")
    code, out, err = ended(run(25, how))
    assert code == status, err
    assert out.startswith("rows 0 ")
    assert "a.db is not there: restoring it" in err and "a: the replica is empty, nothing to do" in err
    assert rows_of(world.restore("a", "local")) == 25
    assert not world.socket.exists()


def test_a_missing_database_is_restored_before_the_program_starts(world, run, s3):
    world.configure(s3.target(), world.db("a", target="s3"))
    assert ended(run(10, "0"))[0] == 0
    lose(world)
    code, out, err = ended(run(5, "0"))
    assert code == 0, err
    assert out.startswith("rows 10 ")
    assert re.search(r"restored a at TXID \w+ of", err)
    assert rows_of(world.restore("a", "s3")) == 15
    # what is there is not touched
    code, out, err = ended(run(0, "0"))
    assert code == 0 and out.startswith("rows 15 ") and "restoring" not in err


TENANT = "sh -c 'mkdir -p {0}/t/acme && exec {1} {0}/program.py {0}/t/acme/x.db {2} 0'"


@pytest.mark.parametrize("of", ["file", "s3"])
def test_a_pattern_is_replicated_and_when_all_of_it_is_lost_the_program_is_not_started(world, run, s3, of):
    """which of them were lost, and which were removed on purpose, nobody knows here"""
    target = {"file": world.file_target(), "s3": s3.target()}[of]
    name = {"file": "local", "s3": "s3"}[of]
    world.configure(target, world.db("t", f"{world.path}/t/*/x.db", target=name), world.db("other", target=name))
    first = TENANT.format(world.path, sys.executable, 7)
    code, out, err = ended(run(0, "", command=first))  # nothing there, nothing in the replica: the first start
    assert code == 0 and out.startswith("rows 0 "), err
    assert "t: no file matches the pattern, and there is no replica, nothing to do" in err
    code, out, err = ended(run(0, "", command=first))  # with what is there nothing is done
    assert code == 0 and out.startswith("rows 7 "), err
    assert "t: a file matches the pattern, nothing to do" in err
    shutil.rmtree(world.path / "t")
    shutil.rmtree(world.state)
    code, out, err = ended(run(0, "", command=first))
    assert (code, out) == (66, ""), err
    assert f"no file matches {world.path}/t/*/x.db, but target {name} has replicas: t/acme/x.db" in err, err
    assert "hint: restore them, as with walsupctl restore t/acme/x.db" in err, err
    assert f"[db t]: sh is not started" in err
    assert not (world.path / "t").exists()
    (world.path / "t" / "acme").mkdir(parents=True)
    world.ctl("restore", "t/acme/x.db")
    code, out, err = ended(run(0, "", command=first))
    assert code == 0 and out.startswith("rows 14 "), err
    assert rows_of(world.restore("t/acme/x.db", name)) == 21


def test_a_pattern_whose_replicas_lie_beside_those_of_others(world, run, s3):
    """names without the section: what is not of this pattern is passed over"""
    world.configure(s3.target(), world.db("a", target="s3"),
                    section("db t", {"path": f"{world.path}/t/*/x.db", "target": "s3", "name": "{path}"}))
    assert ended(run(5, "0"))[0] == 0  # a has a replica now, t has none
    code, out, err = ended(run(5, "0"))
    assert code == 0 and "t: no file matches the pattern, and there is no replica" in err, err


def test_a_pattern_whose_store_does_not_answer(world, run, s3):
    world.configure(s3.target(endpoint="http://127.0.0.1:1"), world.db("t", f"{world.path}/t/*/x.db", target="s3"))
    code, out, err = ended(run(1, "0", command="true"))
    assert code == 69 and "target s3: " in err and "[db t]: true is not started" in err, err


def test_when_nobody_knows_whether_there_is_a_replica_the_program_is_not_started(world, run, s3):
    world.configure(s3.target(endpoint="http://127.0.0.1:1"), world.db("a", target="s3"))
    code, out, err = ended(run(1, "0"))
    assert code == 69, err
    assert out == ""
    assert "a: not restored" in err and "is not started" in err
    assert not (world.path / "a.db").exists()


def test_a_damaged_replica_is_not_taken_for_an_empty_one(world, run):
    world.configure(world.file_target(), world.db("a"))
    assert ended(run(3, "0"))[0] == 0
    lose(world)
    for f in world.replica.glob("a/ltx/*/*.ltx"):
        f.write_bytes(f.read_bytes()[:-20])
    code, out, err = ended(run(1, "0"))
    assert code == 65 and out == "", err
    assert not (world.path / "a.db").exists()


@pytest.mark.outside
def test_sigterm_in_the_midst_of_writing_goes_to_the_program_and_its_last_commit_is_replicated(world, run, s3):
    world.configure(s3.target(), world.db("a", target="s3"))
    p = run(300, "serve")
    assert line(p).startswith("rows 0 ")
    p.send_signal(signal.SIGHUP)
    assert line(p) == "hup\n"
    p.send_signal(signal.SIGUSR1)
    assert line(p) == "usr1\n"
    p.terminate()
    code, out, err = ended(p)
    assert code == 5, err
    assert out == "ended by SIGTERM\n"
    assert "ended with status 5: uploading what is left" in err
    con = sqlite3.connect(world.restore("a", "s3"))
    assert con.execute("select count(*) from t where b = 'goodbye'").fetchone() == (1,)
    con.close()
    assert image(world.path / "restored-a-s3.db") == image(world.path / "a.db")


def test_a_program_that_is_killed_while_it_writes(world, run):
    world.configure(world.file_target(), world.db("a"))
    p = run(-1, "0")
    pid = int(p.stdout.readline().split()[3])
    world.poll("it writes", lambda: rows_of(world.path / "a.db") > 50)
    os.kill(pid, signal.SIGKILL)
    code, _, err = ended(p)
    assert code == 137, err
    assert "was ended by signal 9: uploading what is left" in err
    assert image(world.restore("a", "local")) == image(world.path / "a.db")


def test_a_store_that_is_away_at_the_end_is_waited_for_no_longer_than_shutdown_timeout(world, run, s3):
    world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="3s")
    p = run(20, "serve")
    assert p.stdout.readline().startswith("rows 0 ")
    world.poll("it is replicated", lambda: world.ctl("sync", "--wait", "a", check=False).returncode == 0)
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    start = time.monotonic()
    p.terminate()
    code, _, err = ended(p)
    # the program's own status comes first
    assert code == 5, err
    assert time.monotonic() - start < 25
    assert "a: not everything is in its replicas: target s3, given up after shutdown-timeout (3.0 s)" in err, err
    # where that is 0, walsupd's
    code, _, err = ended(run(1, "0"))
    assert code in (68, 69, 72), err
    s3.faults()
    code, _, err = ended(run(0, "0"))
    assert code == 0, err
    assert image(world.restore("a", "s3")) == image(world.path / "a.db")


@pytest.mark.parametrize("command, status, text", [
    ("no-such-program x", 127, "cannot run no-such-program: No such file or directory"),
    ("/etc/passwd", 126, "cannot run /etc/passwd: Permission denied"),
    ("cd /tmp && x", 127, "no shell is involved"),
    ("app 'it", 64, "the quote before 'it' is not closed"),
    (" ", 64, "there is no program in it")])
def test_a_program_that_cannot_be_run(world, run, command, status, text):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    code, out, err = ended(run(0, "", command=command))
    assert (code, out) == (status, ""), err
    assert text in err


def test_orphans_are_buried(world, run):
    world.configure(world.file_target(), world.db("a"))
    code, out, err = ended(run(1, "orphan"))
    assert code == 0, err
    # only walsupd and the program are left: the grandchild went to process 1, or to who stands for it, and was buried
    children = re.search(r"children \[(.*)\]", out).group(1).split(",")
    assert len(children) == 2, out


@pytest.mark.outside
def test_the_program_has_the_environment_with_the_keys_and_walsupd_proper_has_not(world, run, s3):
    world.configure(section("target s3", {"type": "s3", "endpoint": s3.endpoint, "bucket": "litestream"}),
                    world.db("a", target="s3"))
    p = run(0, "", command="sh -c 'echo $AWS_SECRET_ACCESS_KEY $(ulimit -n) $$; trap : USR1; read x </dev/zero || sleep 60'",
            AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET)
    secret, files, pid = p.stdout.readline().split()
    assert secret == SECRET
    assert int(files) == __import__("resource").getrlimit(__import__("resource").RLIMIT_NOFILE)[0]
    pids = open(f"/proc/{p.pid}/task/{p.pid}/children").read().split()
    daemon = next(x for x in pids if x != pid)
    assert SECRET.encode() not in open(f"/proc/{daemon}/environ", "rb").read()
    p.terminate()
    assert ended(p)[0] == 128 + signal.SIGTERM


def test_walsupd_proper_is_started_again_when_it_dies(world, run):
    world.configure(world.file_target(), world.db("a"))
    p = run(5, "serve")
    pid = p.stdout.readline().split()[3]
    world.sync("a")
    children = f"/proc/{p.pid}/task/{p.pid}/children"
    daemon = next(x for x in open(children).read().split() if x != pid)
    os.kill(int(daemon), signal.SIGKILL)
    world.poll("there is another one", lambda: [x for x in open(children).read().split() if x not in (pid, daemon)])
    world.poll("it works", lambda: world.ctl("sync", "--wait", "a", check=False).returncode == 0)
    p.terminate()
    code, _, err = ended(p)
    assert code == 5
    assert "was ended by signal 9 while" in err and "it is started again in 1 s" in err
    assert image(world.restore("a", "local")) == image(world.path / "a.db")


def test_a_signal_before_the_program_is_there_ends_it(world, run, s3):
    s3.faults({"verb": "LIST", "action": "stall", "when": "after"})
    world.configure(s3.target(), world.db("a", target="s3"))
    p = run(1, "0")
    for line in p.stderr:
        if "restoring it" in line:
            break
    p.terminate()
    code, out, err = ended(p, timeout=30)
    assert code == 128 + signal.SIGTERM, err
    assert out == ""
    assert not (world.path / "a.db").exists()


def adhoc(world, *more, **keys):
    """the arguments of walsupd DB URL"""
    keys = {"state-dir": world.state, "socket": world.socket, **keys}
    return [*(a for k, v in keys.items() for a in ("--set", f"{k}={v}")), *map(str, more)]


def once(world, *args, **env):
    return subprocess.run([str(OUT / "walsupd"), "--once", *args], env={**world.env, **env}, capture_output=True, text=True,
                          timeout=60)


KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


@pytest.mark.parametrize("path, prefix", [("apps/one/shop", "apps/one/shop/"), ("shop", "shop/"), ("a/shop%20floor/", "a/shop floor/")])
def test_without_a_configuration_file_the_url_is_that_of_restore(world, s3, path, prefix):
    make_db(world.path / "shop.db").close()
    url = f"s3://litestream/{path}?endpoint={s3.endpoint}"
    r = once(world, *adhoc(world, world.path / "shop.db", url), **KEYS)
    assert r.returncode == 0, r.stderr
    assert s3.keys() and all(k.startswith(prefix) for k in s3.keys()), s3.keys()
    back = world.path / "back.db"
    r = subprocess.run([str(OUT / "walsupctl"), "restore", "--url", url, "-o", str(back)], env={**world.env, **KEYS},
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    assert image(back) == image(world.path / "shop.db")


def test_two_places_and_walsupctl_finds_what_the_command_line_said(world, s3):
    make_db(world.path / "shop.db").close()
    r = once(world, *adhoc(world, world.path / "shop.db", f"s3://litestream/shop?endpoint={s3.endpoint}",
                           f"file://{world.replica}/shop", retention="14d"), **KEYS)
    assert r.returncode == 0, r.stderr
    assert list(world.replica.glob("shop/ltx/*/*.ltx"))
    world.ini = world.state / "walsup.ini"
    assert oct(world.ini.stat().st_mode & 0o777) == "0o600"
    assert SECRET not in world.ini.read_text()
    assert world.ctl("list").stdout.split()[-4:-1] == ["shop", "url,", "url-2"]
    assert "retention = 14d" in world.ctl("config").stdout
    for target in ("url", "url-2"):
        out = world.path / f"{target}.db"
        world.ctl("restore", "shop", "--target", target, "-o", out, **KEYS)
        assert image(out) == image(world.path / "shop.db")


def test_hints_speak_of_the_url_where_there_is_no_section(world, s3):
    make_db(world.path / "shop.db").close()
    url = f"s3://litestream/shop?endpoint={s3.endpoint}"
    r = once(world, *adhoc(world, world.path / "shop.db", url))
    assert r.returncode == 78
    assert "walsupd: no secret access key was found\nhint: export WALSUP_ACCESS_KEY_ID" in r.stderr or (
        "no secret access key was found" in r.stderr and "export WALSUP_ACCESS_KEY_ID" in r.stderr), r.stderr
    assert "[target" not in r.stderr
    r = once(world, *adhoc(world, world.path / "shop.db", url.replace("litestream", "litestraem"),
                           **{"shutdown-timeout": "1s"}), **KEYS)
    assert r.returncode != 0
    assert f"create the bucket litestraem at {s3.endpoint}, or fix the bucket in the url" in r.stderr, r.stderr


def test_exec_without_a_configuration_file_restores_runs_and_replicates(world, run, s3):
    args = adhoc(world, world.path / "a.db", f"s3://litestream/apps/a?endpoint={s3.endpoint}")
    code, out, err = ended(run(6, "0", *args, **KEYS))
    assert code == 0 and out.startswith("rows 0 "), err
    lose(world)
    code, out, err = ended(run(6, "0", *args, **KEYS))
    assert code == 0 and out.startswith("rows 6 "), err


@pytest.mark.parametrize("operands, status, text", [
    (["a.db"], 64, "a.db has no url to replicate to"),
    (["a.db", "s3://litestream"], 78, "s3://litestream names no place in the bucket for the replica"),
    (["a.db", "s3://s3.example.com/litestream/a"], 78, "write s3://litestream/a?endpoint=https://s3.example.com"),
    (["a.db", "s3://key@litestream/a"], 78, "it contains a user name or key"),
    (["a.db", "ftp://x/y"], 78, "not a url that walsup knows"),
    (["a.db", "file:///a"], 78, "path = / cannot hold replicas"),
    (["a ;b.db", "file:///x/a"], 64, "contains ' ;', which a configuration cannot hold"),
    (["*.db", "file:///x/a"], 64, "is a pattern, which needs a configuration file"),
    (["--set", "retetion=3d", "a.db", "file:///x/a"], 78, "unknown key 'retetion' in [walsup] (did you mean retention?)"),
    (["--set", "retention", "a.db", "file:///x/a"], 64, "--set retention is not KEY=VALUE"),
    (["--set", "retention=3d"], 64, "--set is for DB URL"),
    (["-c", "x.ini", "a.db", "file:///x/a"], 64, "--config and DB URL exclude each other"),
    (["--exec", "x", "a.db", "file:///x/a"], 64, "--once and --exec exclude each other")])
def test_a_command_line_that_is_wrong(world, operands, status, text):
    r = once(world, *operands)
    assert r.returncode == status, r.stderr
    assert text in r.stderr


def test_without_a_place_for_its_state_it_says_which_to_name(world):
    r = once(world, *adhoc(world, world.path / "a.db", f"file://{world.replica}/a", **{"state-dir": "/proc/walsup"}))
    assert r.returncode in (66, 77), r.stderr
    assert "state-dir" in r.stderr and "hint: " in r.stderr
