"""walsupctl check, judged as the service will run, by a unit of the test's own (--unit FILE). The real unit under a real
systemd is in tests/systemd/checks.sh."""
import grp
import json
import os
import pathlib
import pwd
import re
import subprocess
import tempfile

import pytest

from conftest import KEY_ID, OUT, ROOT, SECRET, S3Fault, World, fields, make_db, section

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def open_world(world):
    """where everybody may enter, unlike pytest's directories"""
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o755)
        w = World(pathlib.Path(d))
        w.env = world.env
        yield w


@pytest.fixture
def svc(open_world):
    """a world with a database and a directory target, both in directories of their own"""
    world = open_world
    for d in ("data", "backup", "keys"):
        (world.path / d).mkdir()
    make_db(world.path / "data" / "a.db").close()
    world.replica = world.path / "backup"
    world.configure(world.file_target(), world.db("a", world.path / "data" / "a.db"))
    return Service(world)


@pytest.fixture
def s3(tmp_path_factory):
    s = S3Fault(tmp_path_factory.mktemp("s3") / "s3")
    yield s
    s.close()


class Service:
    def __init__(self, world):
        self.world, self.path = world, world.path
        self.unit = world.path / "walsupd.service"

    def replicate(self, target):
        """the database to that target alone"""
        self.world.configure(target, self.world.db("a", self.path / "data" / "a.db", target="s3"))

    def check(self, *lines, dropin=None, check_env=None, **env):
        self.unit.write_text("[Unit]\nUser=not-this-one\n[Service]\n" + "\n".join(map(str, lines)) + "\n[Install]\nUser=nor-this\n")
        if dropin:
            d = self.path / "walsupd.service.d"
            d.mkdir(exist_ok=True)
            for name, text in dropin.items():
                (d / name).write_text("[Service]\n" + text)
        r = self.world.ctl("check", "--unit", self.unit, "--json", check=False, **env)
        out = json.loads(r.stdout)
        assert r.returncode == (0 if out["ok"] else 1), r.stdout
        parts = [out["service"], *out.get("targets", []), *out.get("databases", [])]
        return [s for p in parts for s in p["steps"] if s["result"] == "failed"], out


def keyless(s3, **more):
    """a target without keys"""
    text = s3.target(**more).replace(f"access-key-id = {KEY_ID}\n", "")
    return text.replace(f"secret-access-key = {SECRET}\n", "")


def only(failed, step, *words):
    assert [s["step"] for s in failed] == [step], failed
    for w in words:
        assert str(w) in failed[0]["message"] + " " + failed[0]["hint"], failed[0]


def test_a_unit_that_closes_nothing_is_fine_and_named(svc):
    failed, out = svc.check("Type=notify")
    assert not failed and out["ok"]
    assert (out["service"]["unit"], out["service"]["user"]) == ("walsupd.service", "root")


@pytest.mark.parametrize("lines, words", [
    ("InaccessiblePaths={path}/data", "InaccessiblePaths={path}/data"),
    ("InaccessiblePaths=-/nowhere \\\n  # a comment between\n  -{path}", "InaccessiblePaths={path}"),
    ('InaccessiblePaths="{path}/data"\nBindPaths={path}/data', "InaccessiblePaths={path}/data"),
    ("TemporaryFileSystem={path}/data:ro", "an empty {path}/data of its own"),
    ("ReadOnlyPaths={path}/data", "may not write {path}/data (ReadOnlyPaths={path}/data)"),
    ("ReadOnlyPaths={path}/data\nReadWritePaths={path}", "may not write {path}/data"),
    ("BindReadOnlyPaths={path}/data", "may not write {path}/data"),
    ("TemporaryFileSystem={path}\nReadWritePaths={path}/data {path}/backup\nBindPaths={path}/backup {path}/keys",
     "an empty {path} of its own"),
])
def test_each_kind_of_line_that_keeps_the_database_away(svc, lines, words):
    failed, _ = svc.check(lines.format(path=svc.path))
    of_db = [s for s in failed if s["step"] == "directory"][-1:]
    only(of_db, "directory", words.format(path=svc.path))


@pytest.mark.parametrize("lines", [
    "InaccessiblePaths={path}/data\nInaccessiblePaths=",
    "InaccessiblePaths=-{path}/dat",
    "ReadOnlyPaths={path}\nReadWritePaths={path}/data {path}/backup {path}",
    "TemporaryFileSystem={path}\nBindPaths={path}/data {path}/backup {path}/walsup.ini {path}/state",
    "ReadOnlyPaths={path}/data/other-file",
])
def test_what_lets_it_through_again(svc, lines):
    (svc.path / "data" / "other-file").touch()
    (svc.path / "state").mkdir()
    text = lines.format(path=svc.path)
    failed, _ = svc.check(text)
    if text.startswith("ReadOnlyPaths") and text.endswith(str(svc.path)):
        assert failed  # of one path, the stricter line holds
        return
    assert [s["step"] for s in failed] in ([], ["socket"]), failed


def test_drop_ins_in_the_order_of_their_names(svc):
    failed, _ = svc.check("ProtectSystem=no", dropin={"20.conf": f"InaccessiblePaths={svc.path}/data\n",
                                                      "30.conf": "InaccessiblePaths=\n"})
    assert not failed
    failed, out = svc.check("ProtectSystem=no", dropin={"40.conf": f"InaccessiblePaths={svc.path}/data\n"})
    only(failed, "directory", f"InaccessiblePaths={svc.path}/data")
    assert "3 drop-ins" in out["service"]["steps"][0]["message"]


def test_a_path_that_has_to_exist_and_one_that_need_not(svc):
    assert not svc.check(f"ReadWritePaths=-{svc.path}/nothing")[0]
    failed, _ = svc.check(f"ReadWritePaths={svc.path}/nothing")
    only(failed, "unit", "226/NAMESPACE", f"mkdir -p {svc.path}/nothing", f"ReadWritePaths=-{svc.path}/nothing")


def test_the_environment_is_the_units(svc, s3):
    svc.replicate(keyless(s3))
    shell = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    failed, _ = svc.check("Type=notify", **shell)
    only(failed, "open", "AWS_* is set in the environment of your shell alone", "EnvironmentFile=/etc/walsup.env")
    # the controls: as this process they are found, and in the unit as well, in each of its ways
    assert svc.world.ctl("check", "--unit", "none", check=False, **shell).returncode == 0
    assert not svc.check(f'Environment="AWS_ACCESS_KEY_ID={KEY_ID}" AWS_SECRET_ACCESS_KEY={SECRET}')[0]
    env = svc.path / "env"
    env.write_text(f"# keys\nAWS_ACCESS_KEY_ID={KEY_ID}\nAWS_SECRET_ACCESS_KEY='{SECRET}'\n")
    assert not svc.check(f"EnvironmentFile={env}")[0]
    failed, _ = svc.check(f"EnvironmentFile={env}\nUnsetEnvironment=AWS_SECRET_ACCESS_KEY", **shell)
    only(failed, "open", "AWS_*")
    failed, out = svc.check(f"EnvironmentFile={env}\nEnvironmentFile={svc.path}/none")
    only(failed, "environment", f"EnvironmentFile={svc.path}/none", "cannot start")
    # with a '-' a file that is there and cannot be read is left out too
    for left_out in ("none", "none/*", "data"):
        assert not svc.check(f"EnvironmentFile={env}\nEnvironmentFile=-{svc.path}/{left_out}")[0]
    failed, _ = svc.check(f"EnvironmentFile={env}\nEnvironmentFile={svc.path}/dat?")
    only(failed, "environment", f"EnvironmentFile={svc.path}/dat?", "cannot start")
    failed, _ = svc.check(f"EnvironmentFile={env}\nEnvironmentFile={svc.path}/none/*")
    only(failed, "environment", f"EnvironmentFile={svc.path}/none/*", "cannot start")
    assert SECRET not in json.dumps(out)


@ROOT_ONLY
def test_credentials_of_the_unit(svc, s3):
    svc.replicate(keyless(s3))
    secret = svc.path / "keys" / "secret"
    lines = f"LoadCredential=s3-secret-access-key:{secret}\nSetCredential=s3-access-key-id:{KEY_ID}"
    failed, _ = svc.check(lines)
    assert failed[0]["step"] == "credentials" and f"create {secret}" in failed[0]["hint"]
    secret.write_text(SECRET)
    before = set(pathlib.Path("/run").glob("walsup-check-*"))
    assert not svc.check(lines)[0]
    assert set(pathlib.Path("/run").glob("walsup-check-*")) == before, "it is left there"


@ROOT_ONLY
def test_encrypted_credentials_are_decrypted_and_named_when_they_cannot_be(svc, s3):
    """by a systemd-creds of the test's own, which knows what it is given and by which name"""
    svc.replicate(keyless(s3))
    bin_dir = svc.path / "bin"
    bin_dir.mkdir()
    creds = bin_dir / "systemd-creds"
    creds.write_text('#!/bin/sh\n[ "$1 $2" = "decrypt --name=s3-secret-access-key" ] && '
                     'grep -q sealed "$3" && '
                     f"printf %s {SECRET} >$4\n")
    creds.chmod(0o755)
    sealed = svc.path / "keys" / "secret.cred"
    sealed.write_text("sealed")
    load = f"LoadCredentialEncrypted=s3-secret-access-key:{sealed}"
    lines = f"SetCredential=s3-access-key-id:{KEY_ID}\n{load}"
    path = f"{bin_dir}:{os.environ['PATH']}"
    assert not svc.check(lines, PATH=path)[0]
    sealed.write_text("broken")
    failed, _ = svc.check(lines, PATH=path)
    assert failed[0]["step"] == "credentials", failed
    assert f"cannot decrypt {load}" in failed[0]["message"]
    assert f"systemd-creds decrypt --name=s3-secret-access-key {sealed}" in failed[0]["hint"]


@ROOT_ONLY
def test_groups_of_the_unit_and_of_its_user(svc):
    """Neither is that of the shell that calls."""
    gid = grp.getgrnam("daemon").gr_gid
    svc.world.ini.chmod(0o640)
    os.chown(svc.world.ini, 0, gid)
    for d in ("data", "backup"):
        os.chown(svc.path / d, 0, gid)
        (svc.path / d).chmod(0o770)
    for p in (svc.path / "data").iterdir():
        os.chown(p, 0, gid)
        p.chmod(0o660)
    only(svc.check("User=nobody")[0], "configuration", "user nobody cannot read")
    failed, _ = svc.check("User=nobody\nGroup=adm\nSupplementaryGroups=sys")
    only(failed, "configuration", "user nobody cannot read")
    assert not svc.check("User=nobody\nGroup=daemon")[0]
    assert not svc.check(f"User=nobody\nGroup={gid}")[0]
    assert not svc.check("User=nobody\nSupplementaryGroups=adm daemon")[0]
    failed, _ = svc.check("User=nobody\nGroup=nosuchgroup")
    assert failed[0]["step"] == "user", failed
    assert "runs as group nosuchgroup, which does not exist" in failed[0]["message"]
    assert "correct Group= in the unit" in failed[0]["hint"]


def test_keys_in_a_file_of_the_shells_home(svc, s3):
    svc.replicate(keyless(s3, profile="default"))
    home = svc.path / "home"
    (home / ".aws").mkdir(parents=True)
    keys = home / ".aws" / "credentials"
    keys.write_text(f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n")
    r = svc.world.ctl("check", "--unit", "none", check=False, HOME=home)  # the control
    assert r.returncode == 0, r.stdout
    failed, _ = svc.check("Type=notify", HOME=home)
    only(failed, "open", f"those of {keys} are for your shell alone",
         "credentials-file = /etc/walsup/credentials")
    failed, _ = svc.check("Type=notify", AWS_SHARED_CREDENTIALS_FILE=keys)
    only(failed, "open", "those of AWS_SHARED_CREDENTIALS_FILE are for your shell alone",
         "/etc/walsup/credentials")
    assert not svc.check(f"Environment=AWS_SHARED_CREDENTIALS_FILE={keys}")[0]
    env = svc.path / "env"
    env.write_text("")
    shell = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
    failed, _ = svc.check(f"EnvironmentFile=-{env}", **shell)
    only(failed, "open", f"write them as lines NAME=VALUE to {env} (chmod 600)")


def test_state_directory_and_socket_that_the_unit_closes(svc):
    for d in ("state", "run"):
        (svc.path / d).mkdir()
    svc.world.configure(svc.world.file_target(), svc.world.db("a", svc.path / "data" / "a.db"),
                        **{"state-dir": svc.path / "state", "socket": svc.path / "run" / "sock"})
    assert not svc.check("Type=notify")[0]
    for d, step in (("state", "state-dir"), ("run", "socket")):
        failed, _ = svc.check(f"ReadOnlyPaths={svc.path}/{d}")
        only(failed, step, f"may not write {svc.path}/{d}", "sandbox --install")


def test_what_is_only_read_may_be_read_only(svc):
    hook = svc.path / "keys" / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    svc.world.configure(svc.world.file_target(), svc.world.db("a", svc.path / "data" / "a.db"),
                        **{"on-state-change": hook, "include": svc.path / "none" / "*.ini"})
    assert not svc.check(f"ReadOnlyPaths={svc.path}/keys")[0]
    failed, _ = svc.check(f"TemporaryFileSystem={svc.path}/keys")
    only(failed, "on-state-change", f"an empty {svc.path}/keys of its own")


def test_all_of_a_hidden_directory_is_not_what_a_hint_opens(svc):
    svc.world.configure(svc.world.file_target(path=svc.path / "backup"))
    failed, _ = svc.check(f"InaccessiblePaths={svc.path}/backup")
    only(failed, "directory", "move it to a directory of its own",
         f"opening all of {svc.path}/backup is not a good idea")


def test_a_port_that_the_unit_may_not_listen_on(svc):
    svc.world.ini.chmod(0o644)
    bind = "User=daemon\nAmbientCapabilities=CAP_NET_BIND_SERVICE"
    for port, lines, ok in ((1023, "User=daemon", False), (1024, "User=daemon", True),
                            (1023, "Type=notify", True), (1023, bind, True),
                            (1023, f"{bind}\nCapabilityBoundingSet=CAP_CHOWN", False)):
        svc.world.configure(svc.world.file_target(), **{"metrics-listen": f"127.0.0.1:{port}"})
        svc.world.ini.chmod(0o644)
        failed = [s for s in svc.check(lines)[0] if s["step"] == "metrics"]
        assert bool(failed) != ok, (port, lines, failed)
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE" in failed[0]["hint"]


def test_a_disk_image_as_root_is_not_judged_which_is_said(svc):
    _, out = svc.check("RootImage=/srv/image.raw")
    step = next(s for s in out["service"]["steps"] if s["step"] == "root")
    assert step["result"] == "warning" and "RootImage=" in step["message"]
    assert "--unit none" in step["hint"]


@ROOT_ONLY
@pytest.mark.parametrize("servers, lines, denied", [
    ("nameserver 192.0.2.53", "IPAddressDeny=any\nIPAddressAllow=127.0.0.1", "192.0.2.53"),
    ("# nameserver 192.0.2.9\nnameserver 127.0.0.1\nnameserver\t192.0.2.54  # second",
     "IPAddressDeny=192.0.2.0/24", "192.0.2.54"),
    ("nameserver 2001:db8::53", "IPAddressDeny=2001:db8::/32", "2001:db8::53"),
    ("nameserver 127.0.0.53", "IPAddressDeny=any\nIPAddressAllow=localhost", None),
    ("nameservers 192.0.2.53", "IPAddressDeny=192.0.2.0/24", None),
])
def test_a_name_server_that_the_unit_keeps_away(svc, s3, servers, lines, denied):
    if subprocess.run(["unshare", "-m", "true"]).returncode != 0:
        pytest.skip("no namespace of mounts")
    resolv = svc.path / "resolv.conf"
    resolv.write_text(servers + "\n")
    svc.world.configure(s3.target(endpoint=s3.endpoint.replace("127.0.0.1", "localhost")))
    svc.unit.write_text(f"[Service]\n{lines}\n")
    bound = 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"'
    run = ["unshare", "-m", "sh", "-c", bound, resolv,
           OUT / "walsupctl", "-c", svc.world.ini, "check", "--unit", svc.unit, "--json"]
    r = subprocess.run(run, env=svc.world.env, capture_output=True, text=True, timeout=60)
    steps = [s for t in json.loads(r.stdout)["targets"] for s in t["steps"]]
    warned = [s for s in steps if s["step"] == "network"]
    assert [s["result"] for s in warned] == (["warning"] if denied else []), steps
    if denied:
        assert f"may not ask the name server {denied} " in warned[0]["message"]
        assert "localhost" in warned[0]["message"]
        assert f"IPAddressAllow={denied}" in warned[0]["hint"]


@ROOT_ONLY
def test_a_user_that_does_not_exist_and_one_who_may_not(svc):
    only(svc.check("User=nosuchuser")[0], "user", "runs as user nosuchuser, which does not exist", "217/USER")
    # the configuration is 0600 of root's
    only(svc.check("User=nobody")[0], "configuration", "user nobody cannot read", "chgrp nobody")
    svc.world.ini.chmod(0o644)
    failed, out = svc.check("User=nobody")
    assert out["service"]["user"] == "nobody"
    assert [s["step"] for s in failed] == ["write", "directory", "file"], failed
    assert f"setfacl -m u:nobody:rwx {svc.path}/backup" in failed[0]["hint"]
    assert "setfacl -m u:nobody:rwx" in failed[1]["hint"]
    # with the capability it may, and without it in the bounding set it may not
    cap = "User=nobody\nAmbientCapabilities=CAP_DAC_OVERRIDE CAP_CHOWN\n"
    assert not svc.check(cap)[0]
    owner = {p.stat().st_uid for p in (svc.path / "backup").rglob("*")}
    assert owner <= {pwd.getpwnam("nobody").pw_uid}, "what the check left is not root's"
    assert svc.check(cap + "CapabilityBoundingSet=")[0]
    assert svc.check(cap + "CapabilityBoundingSet=~CAP_DAC_OVERRIDE")[0]


def test_a_dynamic_user_is_read_only_and_not_taken_for_root(svc):
    failed, out = svc.check("DynamicUser=yes")
    assert out["service"]["user"] == "dynamic"
    of_db = [s for s in failed if s["step"] == "directory"][-1:]
    only(of_db, "directory", "DynamicUser=yes", "sandbox --install")
    user = next(s for s in out["service"]["steps"] if s["step"] == "user")
    assert user["result"] == "warning" and "exists only while it runs" in user["message"], user


def test_files_of_a_target_and_of_the_daemon(svc, s3):
    hook = svc.path / "keys" / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    names = ["ca-file", "client-certificate", "client-key", "credentials-file", "sse-customer-key-file"]
    keys = {n: svc.path / "keys" / n for n in names}
    for p in keys.values():
        p.write_text("x")
        p.chmod(0o600)
    (svc.path / "keys" / "inc").mkdir()
    (svc.path / "keys" / "inc" / "more.ini").write_text("")
    svc.world.configure(section("target s3", {"type": "s3", "endpoint": "https://127.0.0.1:1", "bucket": "abc", "sse": "C",
                                              **keys, "ca-path": svc.path / "keys"}),
                        **{"on-state-change": hook, "include": svc.path / "keys" / "inc" / "*.ini"})
    failed, _ = svc.check(f"InaccessiblePaths={svc.path}/keys")
    assert sorted(s["step"] for s in failed) == sorted([*names, "ca-path", "on-state-change", "include", "include"]), failed
    failed, _ = svc.check("Type=notify")  # the control
    assert not {s["step"] for s in failed} & {*names, "on-state-change", "include"}


@pytest.mark.parametrize("line, step, word", [
    ("PrivateNetwork=yes", "network", "PrivateNetwork=yes"),
    ("IPAddressDeny=any", "network", "IPAddressAllow="),
    ("RestrictAddressFamilies=AF_UNIX", "network", "AF_INET"),
    ("RestrictAddressFamilies=~AF_INET AF_INET6 AF_PACKET", "network", "AF_INET"),
    ("RestrictAddressFamilies=AF_INET AF_INET6\nRestrictAddressFamilies=~AF_INET6 AF_INET",
     "network", "AF_INET"),
])
def test_a_unit_without_a_network(svc, s3, line, step, word):
    svc.world.configure(s3.target())
    failed, _ = svc.check(line)
    only(failed, step, word)
    svc.world.configure(svc.world.file_target())
    assert not svc.check(line)[0]


@pytest.mark.parametrize("line, host, result", [
    ("RestrictAddressFamilies=AF_UNIX AF_INET", "127.0.0.1", None),
    ("RestrictAddressFamilies=~AF_INET6", "127.0.0.1", None),
    ("RestrictAddressFamilies=AF_UNIX AF_INET6", "127.0.0.1", "failed"),
    ("RestrictAddressFamilies=~AF_INET", "127.0.0.1", "failed"),
    ("RestrictAddressFamilies=AF_UNIX AF_INET6", "localhost", "warning"),  # it may have ::1 too
])
def test_one_family_of_addresses_is_enough_if_the_server_has_one(svc, s3, line, host, result):
    svc.world.configure(s3.target(endpoint=s3.endpoint.replace("127.0.0.1", host)))
    failed, out = svc.check(line)
    steps = [s for t in out["targets"] for s in t["steps"] if s["step"] == "network"]
    assert [s["result"] for s in steps] == ([result] if result else []), steps
    assert bool(failed) == (result == "failed"), failed
    if result:
        assert "lacks AF_INET, by which 127.0.0.1:" in steps[0]["message"]
        tried = [s["step"] for t in out["targets"] for s in t["steps"]]
        assert (tried[-1] == "network") == (result == "failed"), tried
        assert steps[0]["hint"] == "add RestrictAddressFamilies=AF_INET"


@pytest.mark.parametrize("lines, denied", [
    ("IPAddressDeny=any\nIPAddressAllow=192.0.2.0/24 2001:db8::/32", "IPAddressDeny=any"),
    ("IPAddressDeny=10.0.0.0/8 127.0.0.0/25", "IPAddressDeny=10.0.0.0/8 127.0.0.0/25"),
    ("IPAddressDeny=localhost", "IPAddressDeny=localhost"),
    ("IPAddressDeny=127.0.0.1", "IPAddressDeny=127.0.0.1"),
    ("IPAddressDeny=any\nIPAddressAllow=localhost", None),
    ("IPAddressDeny=any\nIPAddressAllow=192.0.2.1 127.0.0.1", None),
    ("IPAddressDeny=any\nIPAddressAllow=127.0.0.0/29", None),
    ("IPAddressDeny=any\nIPAddressAllow=any\nIPAddressAllow=", "IPAddressDeny=any"),
    ("IPAddressDeny=127.0.0.8/29 10.0.0.0/8 ::/0 link-local multicast", None),
    ("IPAddressDeny=any\nIPAddressDeny=", None),
])
def test_addresses_that_the_unit_lets_through_or_not(svc, s3, lines, denied):
    svc.replicate(s3.target())
    failed, _ = svc.check("Type=notify", dropin={"net.conf": lines})
    if denied:
        only(failed, "network", "may not talk to 127.0.0.1", denied, "net.conf", "IPAddressAllow=127.0.0.1,")
    else:
        assert not failed


def test_a_unit_with_a_root_directory_of_its_own(svc):
    root = svc.path / "root"
    root.mkdir()
    program = svc.path / "bin" / "walsupd"
    program.parent.mkdir()
    program.touch()
    unit = f"ExecStart={program} -c {svc.world.ini}"
    bind = f"BindPaths={svc.world.ini} {program.parent} {svc.path}/state"
    (svc.path / "state").mkdir()
    # nothing of it is there, each is named
    failed, _ = svc.check(unit, dropin={"root.conf": f"RootDirectory={root}"})
    assert {"root", "--config", "directory"} <= {s["step"] for s in failed}, failed
    assert f"no {program} in RootDirectory={root}" in failed[0]["message"] and "203/EXEC" in failed[0]["message"]
    # the database and the target alone are missing
    failed, _ = svc.check(unit, dropin={"root.conf": f"RootDirectory={root}\n{bind}"})
    assert [s["step"] for s in failed if s["step"] != "socket"] == ["directory", "directory"], failed
    assert all(f"(RootDirectory={root})" in s["message"] and "sandbox --install" in s["hint"] for s in failed), failed
    # brought there, they are seen; and one that is there by itself is not judged, which is said
    bind += f" {svc.path}/data {svc.path}/backup"
    failed, out = svc.check(unit, dropin={"root.conf": f"RootDirectory={root}\n{bind}"})
    assert not [s for s in failed if s["step"] != "socket"], failed
    assert {"step": "root", "result": "ok", "message": str(root), "hint": ""} in out["service"]["steps"]
    inner = root / str(svc.world.ini)[1:]
    inner.parent.mkdir(parents=True)
    inner.touch()
    _, out = svc.check(unit, dropin={"root.conf": f"RootDirectory={root}\n{bind.replace(str(svc.world.ini), '')}"})
    step = next(s for s in out["service"]["steps"] if s["step"] == "root")
    assert step["result"] == "warning" and str(inner) in step["message"] and f"chroot {root}" in step["hint"], step
    failed, _ = svc.check(unit, dropin={"root.conf": f"RootDirectory={root}-none"})
    assert failed[0]["step"] == "root" and "does not exist" in failed[0]["message"]
    assert not svc.check(unit, dropin={"root.conf": f"RootDirectory={root}\nRootDirectory="})[0]


def test_every_field_of_the_json_is_documented_and_the_other_way_round(svc, s3):
    text = (ROOT / "man" / "walsupctl.1").read_text().partition(".Sh CHECK AS JSON\n")[2].partition("\n.Sh ")[0]
    said = re.findall(r"^\.It Li (\S+)$", text, re.M)
    svc.replicate(s3.target())
    svc.world.ini.chmod(0o644)  # a finding about the configuration as a whole
    _, out = svc.check("Type=notify")
    assert len(said) == len(set(said)) > 20
    assert set(fields(out)) == set(said)


def test_a_readable_secret_is_one_finding_among_others(world, s3):
    world.configure(s3.target(**{"secret-access-key": "wrong"}))
    world.ini.chmod(0o644)
    r = world.ctl("check", check=False)
    assert r.returncode == 1 and "2 problems" in r.stdout
    flat = " ".join(r.stdout.split())
    assert "everybody on this machine can read it" in flat and f"does not belong to key id {KEY_ID}" in flat
    r = world.ctl("list", check=False)  # nobody else takes it
    assert r.returncode == 78 and "everybody" in r.stderr


def test_a_link_out_of_a_pattern_that_landlock_closes(world, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "deep"
    outside.mkdir()
    tenants = world.path / "t" / "tenants"
    tenants.mkdir(parents=True)
    make_db(outside / "x.db").close()
    (tenants / "acme").symlink_to(outside)
    target = world.path / "far" / "away"
    target.mkdir(parents=True)
    world.replica = target
    for landlock, code in (("auto", 1), ("off", 0)):
        world.configure(world.file_target(), world.db("t", f"{tenants}/*/x.db"), landlock=landlock)
        r = world.ctl("check", check=False)
        assert r.returncode == code, r.stdout
        assert ("acme is a link to" in " ".join(r.stdout.split())) == bool(code)
    def lost():
        return "acme is a link to" in " ".join(world.ctl("check", check=False).stdout.split())
    # nor to what lies beside the database of another section, but to what lies beside a target
    pattern = world.db("t", f"{tenants}/*/x.db")
    world.configure(world.file_target(), pattern, world.db("o", outside.parent / "own" / "o.db"))
    assert not lost()
    away = tmp_path_factory.mktemp("away")
    beside = away / "deep"
    beside.mkdir()
    world.replica = away / "replica"
    world.replica.mkdir()
    (tenants / "acme").unlink()
    (tenants / "acme").symlink_to(beside)
    world.configure(world.file_target(), pattern)
    assert lost()
    # a program of the configuration needs more than Landlock could be told, so nothing is given up
    hook = world.path / "hook"
    hook.write_text("#!/bin/sh\n")
    hook.chmod(0o755)
    world.configure(world.file_target(), pattern, **{"on-state-change": hook})
    assert not lost()
    # one that lies within is followed, by both
    make_db(tenants.parent / "x.db").close()
    (tenants / "acme").unlink()
    (tenants / "acme").symlink_to(world.path / "t" / "own")
    (world.path / "t" / "own").mkdir()
    make_db(world.path / "t" / "own" / "x.db").close()
    world.configure(world.file_target(), world.db("t", f"{tenants}/*/x.db"))
    assert "1 database matches now, 1 of them" in world.ctl("check").stdout


def test_a_unit_that_is_not_there(world):
    world.configure(world.file_target())
    r = world.ctl("check", "--unit", "walsup-nosuch", check=False)
    assert r.returncode == 66 and "there is no unit walsup-nosuch.service" in r.stderr
