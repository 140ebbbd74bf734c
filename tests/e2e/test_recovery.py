"""walsup-recovery(7): every command that stands in the page is run, in its order, against a real S3."""
import re
import shlex
import shutil
import subprocess
import time

import pytest

from conftest import KEY_ID, OUT, ROOT, SECRET, integrity, make_db, pages_equal

PAGE = ROOT / "man" / "walsup-recovery.7"


def sections():
    """(heading, commands) as a reader finds them"""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith(".Sh "):
            found.append((line[4:], []))
        elif line.startswith(".Dl "):
            found[-1][1].append(line[4:].replace("\\e", "\\").replace("\\(dq", '"'))
    return {head: commands for head, commands in found if commands}


class Shell:
    """root's shell on the machine of the page; what differs is the place of things"""

    def __init__(self, world, s3):
        self.world, self.s3 = world, s3
        self.exports = ""
        self.ran = []
        self.since = None
        bin_dir = world.path / "bin"
        bin_dir.mkdir()
        # of the configuration nothing is needed where the page says so
        (bin_dir / "walsupctl").write_text(
            f'#!/bin/sh\ncase "$*" in *--url*) exec {OUT}/walsupctl "$@" ;; esac\n'
            f'exec {OUT}/walsupctl -c {world.ini} "$@"\n')
        (bin_dir / "walsupctl").chmod(0o755)
        self.env = {**world.env, "PATH": f"{bin_dir}:/usr/sbin:/usr/bin:/sbin:/bin"}

    def here(self, command):
        for there, here in [("/srv/app", str(self.world.path / "app")), ("app:app", "daemon:daemon"),
                            ("s3://bucket/", "s3://litestream/"), ("https://s3.example.com", self.s3.endpoint),
                            ("AKIAEXAMPLE", KEY_ID), ("=secret", f"={shlex.quote(SECRET)}"),
                            ("'yesterday 18:00'", shlex.quote(self.since or ""))]:
            command = command.replace(there, here)
        return command

    def run(self, command):
        self.ran.append(command)
        if command.startswith("systemctl "):
            assert command == "systemctl enable --now walsupd"
            self.world.start()
            return ""
        if command.startswith("export "):
            self.exports = self.here(command) + "; "
            return ""
        r = subprocess.run(["bash", "-c", self.exports + self.here(command)], capture_output=True, text=True,
                           timeout=60, env=self.env)
        assert r.returncode == 0, f"{command}\n{r.stdout}{r.stderr}"
        return r.stdout + r.stderr


def rows(path):
    return int(subprocess.run(["sqlite3", path, "select count(*) from t"], capture_output=True, text=True,
                              check=True).stdout)


@pytest.mark.outside
def test_each_command_of_the_page(world, s3fault):
    page = sections()
    shell = Shell(world, s3fault)
    app = world.path / "app"
    app.mkdir()
    db = app / "app.db"
    con = make_db(db, rows=200)
    world.configure(s3fault.target(), world.db("app", db, "s3"))
    world.start()
    for text in ("one", "two", "last"):
        con.execute("insert into t(b) values(?)", (text,))
        con.commit()
        world.sync()
    con.close()
    for c in page.pop("BEFORE THE BAD DAY"):
        said = shell.run(c)
    assert "proven" in said
    world.poll("folded in", lambda: not db.with_name(db.name + "-wal").exists())
    shutil.copy(db, world.path / "truth.db")

    # the server is gone, with its disks
    world.proc.kill()
    world.proc.wait()
    world.proc = None
    shutil.rmtree(app)
    shutil.rmtree(world.state)
    for c in page.pop("THE SERVER IS GONE"):
        said = shell.run(c)
        if "--dry-run" in c:
            assert not db.exists()
        if c.startswith("walsupctl restore") and "--dry-run" not in c:
            pages_equal(world.path / "truth.db", db, 4096)
            assert "integrity_check ok" in said and "verified" in said, said
    assert "proven" in said
    assert db.owner() == "daemon"
    assert world.status("app")["state"] in ("replicating", "idle")
    shell.since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() + 1))

    # half of the file is overwritten
    db.write_bytes(db.read_bytes()[:8192] + b"\xde\xad" * 2048)
    for c in page.pop("A DATABASE IS DAMAGED OR WAS DELETED"):
        shell.run(c)
    integrity(db)
    pages_equal(world.path / "truth.db", db, 4096)
    assert (app / "broken" / "app.db").exists()

    # somebody deletes rows
    world.poll("the moment is over", lambda: time.strftime("%Y-%m-%d %H:%M:%S") > shell.since)
    subprocess.run(["sqlite3", db, "delete from t where a > 2"], check=True)
    world.sync()
    assert rows(db) == 2
    for c in page.pop("SOMEBODY DELETED THE WRONG ROWS"):
        shell.run(c)
    assert rows(db) == rows(world.path / "truth.db") == rows(app / "before.db") == 203
    assert 200 <= rows(app / "then.db") < 203
    world.sync()

    # only the bucket is left
    for c in page.pop("ONLY THE BUCKET IS LEFT"):
        shell.run(c)
    shell.exports = ""
    pages_equal(db, app / "found.db", 4096)

    for c in page.pop("A REPLICA IS DAMAGED OR LACKS FILES"):
        said = shell.run(c)
    assert "proven" in said
    assert not page, f"sections that nobody has run: {list(page)}"
    assert len(shell.ran) >= 25, shell.ran
    left = " ".join(map(shell.here, shell.ran))
    assert not re.search(r"/srv/|example", left), "it would have touched the real one"
