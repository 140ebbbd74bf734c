"""A state directory, its replica and its databases as some version of walsup left them. They are
kept in tests/vectors/walsup-<version>/; make_golden.py made them, test_golden.py continues.

  shop          levels 1 and 2, a snapshot, a commit that nobody has captured yet
  tenants/a.db  found by a pattern
  still         paused, with a reason, and commits that came later
  lost          another writer has its replica: fenced

walsup remembers paths, so all of it lives in one fixed place, BASE, whose user holds here().
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess

from conftest import World
from ltx_check import crc64
from programs import OUT, call

BASE = pathlib.Path("/tmp/walsup-golden")
DATABASES = ("lost", "shop", "still", "tenants/a.db")
PAGE_SIZE = 1024
PARTS = ("dbs", "replica", "state")


@contextlib.contextmanager
def here():
    """BASE, empty, for one at a time; the kernel gives it back whatever becomes of the holder"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as turn:
        name = f"\0walsup-golden-{os.stat('/tmp').st_ino}"
        while True:
            try:
                turn.bind(name)
                break
            except OSError:  # wait until the holder's end closes this connection
                with contextlib.suppress(OSError), socket.socket(
                    socket.AF_UNIX, socket.SOCK_STREAM
                ) as s:
                    s.settimeout(300)
                    s.connect(name)
                    s.recv(1)
        turn.listen(16)
        shutil.rmtree(BASE, ignore_errors=True)
        BASE.mkdir(mode=0o700)
        try:
            yield BASE
        finally:
            shutil.rmtree(BASE, ignore_errors=True)


class GoldenWorld(World):
    """Nothing is due, however old the files are by now. The daemon ends with the block."""

    def __init__(self, path=BASE):
        super().__init__(path)
        self.replica = BASE / "replica"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc is not None:
            self.stop(signal.SIGKILL)

    def path_of(self, name):
        return self.path / "dbs" / (name if "/" in name else f"{name}.db")

    def configure(self, *only, **more):
        paths = {n: self.path_of(n) for n in ("lost", "shop", "still")}
        paths["tenants"] = self.path / "dbs/tenants/*.db"
        super().configure(
            self.file_target("disk"),
            *(
                self.db(n, p, target="disk", sync_interval="50ms")
                for n, p in paths.items()
                if not only or n in only
            ),
            **{"snapshot-interval": "0s", "retention": "0s", "level1-interval": "0s", **more},
        )

    def commit(self, name, n=1):
        con = sqlite3.connect(self.path_of(name))
        for _ in range(n):
            con.execute("insert into t(b) values(randomblob(300))")
            con.commit()
        con.close()


# What a record of where a database stood says of the file: its identity, which a copy cannot have.
INO, BIRTH, MTIME, CTIME, WAL_INO = 9, 10, 13, 14, 15


def identity(path):
    """(inode, birth, change), as the file system has them"""
    text = subprocess.run(
        ["stat", "-c", "%i %.9W %.9Z", path], capture_output=True, text=True, check=True
    ).stdout
    return tuple(int(x.replace(".", "")) if x != "-" else 0 for x in text.split())


def same_file(record, before, path):
    """the record, rewritten for the copy at path, which keeps its time of modification"""
    word = record.split()[:-1]
    ino, birth, ctime = identity(path)
    if int(word[INO]) == before["ino"]:
        word[INO], word[BIRTH] = str(ino), str(birth)
    if int(word[CTIME]) == before["ctime_ns"]:
        word[CTIME] = str(ctime)
    assert word[WAL_INO] == "0", "the databases are kept without a -wal"
    text = " ".join(word)
    return f"{text} {crc64(text.encode()):016x}\n"


def pack(source, to):
    """copies the three parts; returns what a copy in git does not keep"""
    kept = {}
    for part in PARTS:
        for p in sorted((source / part).rglob("*")):
            name = str(p.relative_to(source))
            st = p.lstat()
            kept[name] = {"mode": st.st_mode & 0o777, "mtime_ns": st.st_mtime_ns}
            if p.is_dir():
                kept[name]["directory"] = True
                continue
            if part == "dbs":
                kept[name].update(ino=st.st_ino, ctime_ns=st.st_ctime_ns)
            attributes = {
                a: os.getxattr(p, a).hex() for a in os.listxattr(p) if a.startswith("user.")
            }
            kept[name].update({"attributes": attributes} if attributes else {})
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(p, to / name)
    return kept


def unpack(vector):
    """everything at BASE as it was"""
    facts = json.loads((vector / "golden.json").read_text())
    for name, f in facts["files"].items():
        p = BASE / name
        if f.get("directory"):
            p.mkdir(parents=True, exist_ok=True)
            continue
        p.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(vector / "tree" / name, p)
        for a, v in f.get("attributes", {}).items():
            os.setxattr(p, a, bytes.fromhex(v))
    for name, f in reversed(facts["files"].items()):
        os.chmod(BASE / name, f["mode"])
        os.utime(BASE / name, ns=(f["mtime_ns"], f["mtime_ns"]))
    for db in DATABASES:
        name = f"dbs/{db}" if "/" in db else f"dbs/{db}.db"
        record = BASE / "state" / "db" / db.replace("/", "%2F") / "position"
        record.write_text(same_file(record.read_text(), facts["files"][name], BASE / name))
    return facts


def contents(path):
    """what is in a database, which is not opened for it"""
    con = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        rows = con.execute("select a, b from t order by a").fetchall()
        return [len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()]
    finally:
        con.close()


TYPES = {
    dict: "object",
    list: "array",
    str: "string",
    bool: "boolean",
    int: "number",
    float: "number",
    type(None): "null",
}
NAMES = ("counts", "level_bytes", "levels")  # objects whose keys are no fields


def shape(value, at="", found=None):
    """{path: types that were seen there}"""
    found = {} if found is None else found
    found.setdefault(at, set()).add(TYPES[type(value)])
    if isinstance(value, list):
        for v in value:
            shape(v, f"{at}[]", found)
    elif isinstance(value, dict):
        for k, v in value.items():
            shape(v, f"{at}.{'NAME' if at.split('.')[-1] in NAMES else k}".lstrip("."), found)
    return found


def words(shape):
    return {path: "|".join(sorted(types)) for path, types in shape.items()}


def answers(w):
    """What tools and programs are told: the shape of --json of each verb that does no harm and of
    the control socket's answers; the lines of its interface; the metrics."""
    said = {}

    def verb(name, *args):
        r = subprocess.run(
            [OUT / "walsupctl", "-c", w.ini, *map(str, args), "--json"],
            capture_output=True,
            text=True,
            timeout=120,
            env=w.env,
            stdin=subprocess.DEVNULL,
        )
        said[name] = words(shape(json.loads(r.stdout)))

    verb("status", "status")
    verb("list", "list")
    verb("points", "points", "shop")
    verb("sync", "sync", "shop", "--wait")
    verb("verify", "verify", "shop", "--target", "disk")
    verb("snapshot", "snapshot", "shop")
    verb("reconcile", "reconcile", "shop")
    verb("check", "check")
    verb("config", "config")
    verb("restore", "restore", "shop", "-o", w.path / "answer.db")
    verb("restore of what is there already", "restore", "shop", "-o", w.path / "answer.db")
    verb("resume", "resume", "still")
    verb("pause", "pause", "still", "--reason", "again")
    verb("takeover", "takeover", "lost")
    verb("reload", "reload")
    verb("version", "version")
    for method, parameters in (
        ("Status", {}),
        ("List", {}),
        ("Metrics", {}),
        ("Sync", {"db": "shop"}),
        ("Sync of a stranger", {"db": "stranger"}),
    ):
        said[f"socket: {method}"] = words(
            shape(json.loads(call(w.socket, method.split()[0], **parameters)))
        )
    lines = description(w.socket).splitlines()
    text = w.ctl("metrics").stdout
    return {
        "answers": said,
        "interface": [x for x in lines if x and not x.startswith("#")],
        "metrics": dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)),
    }


def description(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        s.sendall(
            b'{"method":"org.varlink.service.GetInterfaceDescription",'
            b'"parameters":{"interface":"io.walsup"}}\0'
        )
        reply = b""
        while not reply.endswith(b"\0"):
            reply += s.recv(1 << 16)
    return json.loads(reply[:-1])["parameters"]["description"]
