"""Where keys come from, that new ones are taken up without a restart, and that none is ever shown."""
import http.server
import json
import os
import pathlib
import re
import threading
import time

import pytest

from conftest import KEY_ID, SECRET, S3Fault, make_db, section

TOKEN = "canary/token+4711="
NEW_ID, NEW_SECRET = "AKIANEWKEY", "canary+new/secret"


@pytest.fixture
def s3t(tmp_path):
    """a server that wants a token with the key"""
    s = S3Fault(tmp_path / "s3t")
    s.control("/_keys", [f"{KEY_ID}:{SECRET}:{TOKEN}"])
    yield s
    s.close()


def bare(s3, **more):
    return section("target s3", {"type": "s3", "endpoint": s3.endpoint, "bucket": "litestream", "path": "backups",
                                 **more})


def answer(seconds=3600, key_id=KEY_ID, secret=SECRET, token=TOKEN):
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    return json.dumps({"Version": 1, "Code": "Success", "AccessKeyId": key_id, "SecretAccessKey": secret,
                       "SessionToken": token, "Token": token, "Expiration": when})


def script(world, body, name="keys.sh"):
    p = world.path / name
    p.write_text("#!/bin/sh\n" + body)
    p.chmod(0o700)
    return p


def check(world, *sections, **env):
    world.configure(*sections)
    r = world.ctl("check", "--json", check=False, **env)
    assert SECRET not in r.stdout + r.stderr and TOKEN not in r.stdout + r.stderr
    return {s["step"]: s for t in json.loads(r.stdout)["targets"] for s in t["steps"]}


class Service:
    """the two services that hand out keys: a container's and, version 2 only, an instance's"""

    def __init__(self):
        outer = self
        self.asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def say(self, status, text):
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def do_PUT(self):
                outer.asked.append("PUT " + self.path)
                ok = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
                self.say(200 if ok else 400, "imds-token" if ok else "")

            def do_GET(self):
                outer.asked.append("GET " + self.path)
                base = "/latest/meta-data/iam/security-credentials/"
                if self.path == "/container" and self.headers["Authorization"] == "task token":
                    self.say(200, answer())
                elif self.headers["X-aws-ec2-metadata-token"] != "imds-token":
                    self.say(401, "no token")
                elif self.path == base:
                    self.say(200, "the-role\n")
                else:
                    self.say(200 if self.path == base + "the-role" else 404, answer())

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def service():
    s = Service()
    yield s
    s.close()


# ---- sources -------------------------------------------------------------------------------------

def test_a_program_prints_them(world, s3t):
    (world.path / "its answer.json").write_text(answer())
    p = script(world, 'test "$1" = "two words" && exec cat "$2"\n')
    steps = check(world, bare(s3t, credential_process=f"{p} 'two words' \"{world.path}/its answer.json\""))
    assert steps["delete"]["result"] == "ok", steps
    assert steps["credentials"]["message"] == f"key id {KEY_ID} from credential-process"


def test_a_program_of_a_profile(world, s3t):
    (world.path / "answer.json").write_text(answer())
    aws = world.path / "aws"
    aws.write_text(f"[backups]\ncredential_process = {script(world, 'cat $1')} {world.path}/answer.json\n")
    aws.chmod(0o600)
    steps = check(world, bare(s3t, credentials_file=aws, profile="backups"))
    assert steps["delete"]["result"] == "ok", steps


@pytest.mark.parametrize("body, said", [
    ("exit 3\n", "ended with status 3"),
    ("echo no json " + SECRET + "\n", "not JSON with AccessKeyId"),
    ("echo '{\"Version\": 1, \"AccessKeyId\": \"x\"}'\n", "not JSON with AccessKeyId"),
    ("exec sleep 60\n", "did not end within 300 ms"),
    ("yes " + SECRET + "\n", "more than 65536 bytes"),
])
def test_a_program_that_does_not_work(world, s3t, body, said):
    steps = check(world, bare(s3t, credential_process=script(world, body)), WALSUP_TEST_KEYS_MS="300"
                  if "sleep" in body else "10000")
    assert list(steps) == ["credentials"] and said in steps["credentials"]["message"], steps
    assert "keys.sh" in steps["credentials"]["message"]
    assert not s3t.ledger(), "it was asked without keys"


def test_no_shell_and_no_search_path(world, s3t):
    steps = check(world, bare(s3t, credential_process="cat /etc/hostname"))
    assert "absolute path" in steps["credentials"]["message"]
    steps = check(world, bare(s3t, credential_process=f"{script(world, 'cat $1')} /dev/null; touch {world.path}/pwned"))
    assert not (world.path / "pwned").exists()


def test_the_role_of_a_container(world, s3t, service):
    steps = check(world, bare(s3t), AWS_CONTAINER_CREDENTIALS_FULL_URI=service.url + "/container",
                  AWS_CONTAINER_AUTHORIZATION_TOKEN="task token")
    assert steps["delete"]["result"] == "ok", steps
    assert "the container's role" in steps["credentials"]["message"]
    steps = check(world, bare(s3t), AWS_CONTAINER_CREDENTIALS_FULL_URI="http://192.0.2.1/container")
    assert "neither https nor a host that such keys come from" in steps["credentials"]["message"]


def test_the_role_of_an_instance_is_asked_for_only_if_wanted_and_only_by_version_2(world, s3t, service):
    env = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": service.url}
    steps = check(world, bare(s3t), **env)
    assert "no secret access key was found" in steps["open"]["message"] and not service.asked
    steps = check(world, bare(s3t, instance_role="yes"), **env)
    assert steps["delete"]["result"] == "ok", steps
    assert service.asked[0] == "PUT /latest/api/token" and len(service.asked) == 3


def test_the_directory_of_systemd_with_files_for_each_target(world, s3t):
    d = world.path / "creds"
    d.mkdir()
    for name, text in (("s3-access-key-id", "AKIAOTHER"), ("s3-secret-access-key", "other"),
                       ("s3.access-key-id", KEY_ID), ("s3.secret-access-key", SECRET), ("s3.session-token", TOKEN)):
        (d / name).write_text(text + "\n")
    steps = check(world, bare(s3t), CREDENTIALS_DIRECTORY=str(d))
    assert steps["credentials"]["message"] == f"key id {KEY_ID} from $CREDENTIALS_DIRECTORY", steps
    # what is meant for everybody does not replace what a target names
    for name in ("s3.access-key-id", "s3.secret-access-key", "s3.session-token"):
        (d / name).unlink()
    steps = check(world, bare(s3t, access_key_id=KEY_ID, secret_access_key=SECRET, session_token=TOKEN),
                  CREDENTIALS_DIRECTORY=str(d))
    assert steps["credentials"]["message"] == f"key id {KEY_ID} from the configuration", steps


def test_the_home_directory_only_if_a_profile_is_named(world, s3t):
    (world.path / ".aws").mkdir()
    (world.path / ".aws" / "credentials").write_text(
        f"[p]\naws_access_key_id={KEY_ID}\naws_secret_access_key={SECRET}\naws_session_token={TOKEN}\n")
    steps = check(world, bare(s3t), HOME=str(world.path))
    assert "no secret access key" in steps["open"]["message"]
    steps = check(world, bare(s3t, profile="p"), HOME=str(world.path))
    assert steps["delete"]["result"] == "ok", steps


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")
def test_a_link_that_somebody_else_made_is_refused(world, s3t):
    (world.path / "secret").write_text(SECRET)
    (world.path / "secret").chmod(0o600)
    link = world.path / "link"
    link.symlink_to("secret")
    keys = {"access-key-id": KEY_ID, "secret-access-key-file": link, "session-token": TOKEN}
    assert check(world, bare(s3t, **keys))["delete"]["result"] == "ok"
    os.lchown(link, 65534, 65534)
    assert "a link that another user made" in check(world, bare(s3t, **keys))["open"]["message"]


def test_a_program_gets_nothing_of_the_daemons(world, s3t):
    (world.path / "answer.json").write_text(answer())
    seen = world.path / "seen"
    p = script(world, f"""{{ env; ls -l /proc/$$/fd; grep -E 'Cap(Amb|Eff)|NoNewPrivs' /proc/self/status; }} >{seen}
exec cat {world.path}/answer.json
""")
    make_db(world.path / "a.db").close()
    world.configure(bare(s3t, credential_process=p), world.db("a", target="s3"))
    world.start(WALSUP_SECRET_OF_ANOTHER_TARGET="other", AWS_PROFILE="mine")
    world.sync()
    text = seen.read_text()
    assert "AWS_PROFILE=mine" in text and "PATH=" in text
    assert "NOTIFY_SOCKET" not in text and "other" not in text and "LD_PRELOAD" not in text
    assert "socket:" not in text and "anon_inode" not in text and str(world.state) not in text, text
    assert re.search(r"NoNewPrivs:\s*1\n", text) and re.search(r"CapAmb:\s*0+\n", text), text


@pytest.mark.parametrize("how", ["group", "directory"])
def test_a_program_that_others_may_write_is_not_run(world, s3t, how):
    p = script(world, f"touch {world.path}/ran\n")
    if how == "group":
        p.chmod(0o770)
    else:
        (world.path / "open").mkdir()
        p = p.rename(world.path / "open" / "keys.sh")
        p.parent.chmod(0o777)
    said = check(world, bare(s3t, credential_process=p))["credentials"]
    assert "it is not run: others" in said["message"] and "chown root, chmod go-w" in said["hint"], said
    assert not (world.path / "ran").exists()


# ---- new ones ------------------------------------------------------------------------------------

def test_new_keys_are_fetched_before_the_old_ones_expire(world, s3t):
    p = script(world, f"echo x >> {world.path}/fetches\nexec cat {world.path}/answer.json\n")
    (world.path / "answer.json").write_text(answer(4))
    con = make_db(world.path / "a.db")
    world.configure(bare(s3t, credential_process=p), world.db("a", target="s3"))
    world.start()
    world.sync()
    fetches = world.path / "fetches"
    (world.path / "answer.json").write_text(answer(3600))

    def fetched_again():
        con.execute("insert into t(b) values(1)")
        con.commit()
        world.sync()
        return len(fetches.read_text()) >= 4
    world.poll("a second fetch", fetched_again)
    assert not re.search(r"403|ExpiredToken", world.log.read_text()), world.log.read_text()
    assert {e["status"] for e in s3t.ledger()} <= {200, 204, 206, 404, 412}
    con.close()
    assert world.stop() == 0


def test_keys_that_are_replaced_on_the_server_are_replaced_here_without_a_restart(world, s3t):
    p = script(world, f"exec cat {world.path}/answer.json\n")
    (world.path / "answer.json").write_text(answer())
    con = make_db(world.path / "a.db")
    world.configure(bare(s3t, credential_process=p), world.db("a", target="s3"))
    pid = world.start().pid
    world.sync()
    (world.path / "answer.json").write_text(answer(3600, NEW_ID, NEW_SECRET, TOKEN))
    s3t.control("/_keys", [f"{NEW_ID}:{NEW_SECRET}:{TOKEN}"])
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync()
    assert world.proc.pid == pid
    con.close()
    assert world.stop() == 0


# ---- the canary ----------------------------------------------------------------------------------

@pytest.mark.outside
def test_no_secret_is_ever_shown_or_left_anywhere(world, tmp_path):
    """everything that a secret could end up in, grepped: output, logs, status, state, replica, /proc"""
    secret, token = "CANARYs3cr3tCANARY", "CANARYt0kenCANARY"
    s3 = S3Fault(tmp_path / "s3")
    s3.control("/_keys", [f"{KEY_ID}:{secret}:{token}"])
    env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
    said = []

    def ctl(*args, **more):
        r = world.ctl(*args, check=False, **{**env, **more})
        said.append(r.stdout + r.stderr)
        return r

    con = make_db(world.path / "a.db")
    world.configure(bare(s3), world.file_target(), world.db("a", target="s3, local"),
                    **{"log-level": "debug", "shutdown-timeout": "1s"})
    try:
        world.start(**env)
        pid = world.proc.pid
        world.sync()
        for args in (("status",), ("status", "--json"), ("check",), ("check", "--json"), ("config",), ("list",),
                     ("restore", "a", "--target", "s3", "-o", world.path / "r.db"),
                     ("verify", "a", "--target", "s3")):
            ctl(*args)
        assert (world.path / "r.db").exists()
        proc = [pathlib.Path(f"/proc/{pid}/{f}").read_bytes() for f in ("cmdline", "environ")]
        assert KEY_ID.encode() in proc[1], "the environment was not read at all"
        s3.control("/_keys", ["AKIANOBODY:x"])
        con.execute("insert into t(b) values(1)")
        con.commit()
        world.poll("an error", lambda: world.status("a")["replicas"][0].get("error"))
        s3.faults({"action": "status", "status": 400, "code": "ExpiredToken"})
        for args in (("status",), ("status", "--json"), ("check",), ("restore", "a", "--target", "s3", "-o",
                                                                    world.path / "r2.db")):
            ctl(*args)
        assert world.stop() == 0
    finally:
        con.close()
        s3.close()
    looked_at = list(said) + [p.decode("latin-1") for p in proc]
    for d in (world.path, tmp_path / "s3"):
        looked_at += [f.read_bytes().decode("latin-1") for f in d.rglob("*") if f.is_file()]
    assert len(looked_at) > 20
    for text in looked_at:
        assert "CANARY" not in text, text[max(0, text.find("CANARY") - 300):][:600]
    assert any(KEY_ID in text for text in said), "the key id may be shown, and is how one finds a wrong key"


def memory(pid):
    """what a core dump would have, and what it would not: [(bytes, is it dumped)]"""
    areas = []
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        text = pathlib.Path(f"/proc/{pid}/smaps").read_text()
        for head, flags in re.findall(r"^([0-9a-f]+-[0-9a-f]+ .*)$(?:\n(?!VmFlags).*)*\nVmFlags: (.*)$", text, re.M):
            a, b = (int(x, 16) for x in head.split()[0].split("-"))
            if " rw" not in head:
                continue
            try:
                mem.seek(a)
                areas.append((mem.read(b - a), flags.split()))
            except OSError:
                continue
    return areas


@pytest.mark.outside
@pytest.mark.parametrize("where", ["configuration", "file", "environment", "process"])
def test_a_secret_is_only_in_memory_that_no_core_dump_has(world, tmp_path, where):
    secret, token = "CANARYs3cr3tCANARYs3cr3t", "CANARYt0kenCANARYt0ken"
    s3 = S3Fault(tmp_path / "s3")
    s3.control("/_keys", [f"{KEY_ID}:{secret}:{token}"])
    keys, env = {"access-key-id": KEY_ID}, {}
    if where == "configuration":
        keys.update({"secret-access-key": secret, "session-token": token})
    elif where == "file":
        (tmp_path / "file").write_text(secret + "\n")
        (tmp_path / "file").chmod(0o600)
        keys.update({"secret-access-key-file": tmp_path / "file", "session-token": token})
    elif where == "environment":
        keys, env = {}, {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}
    else:
        keys = {"credential-process": script(world, f"cat <<E\n{answer(3600, KEY_ID, secret, token)}\nE\n")}
    con = make_db(world.path / "a.db")
    world.configure(bare(s3, **keys), world.db("a", target="s3"))
    world.ini.chmod(0o600)
    try:
        world.start(**env)
        world.sync()
        world.ctl("reload")
        con.execute("insert into t(b) values(1)")
        con.commit()
        world.sync()
        areas = memory(world.proc.pid)
    finally:
        con.close()
        world.stop()
        s3.close()
    inside = [f for data, f in areas if secret.encode() in data and "dd" in f]
    assert inside and all({"wf", "lo"} <= set(f) for f in inside), "it was not found where it has to be: nothing was looked at"
    for data, flags in areas:
        if "dd" not in flags:
            # (a session token is part of every request, and in libcurl's buffers)
            at = data.find(secret.encode())
            assert at < 0, f"a copy: ...{data[max(0, at - 100):at + 100]!r}"
