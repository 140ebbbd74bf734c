"""walsupctl sandbox: the drop-in for systemd that fits the configuration."""
import json
import shutil
import subprocess

import pytest

from conftest import ROOT


def lines(world):
    r = world.ctl("sandbox")
    return [x for x in r.stdout.splitlines() if x and not x.startswith("#")], r.stderr


def test_it_opens_what_is_configured_once_and_nothing_else(world):
    world.configure(world.file_target(path="/backup/w"), world.db("a", "/srv/app/a.db"),
                    world.db("b", "/srv/app/b.db"), world.db("c", "/srv/app/deeper/c.db"),
                    world.db("t", "/data/tenants/*/main.db"), world.db("odd", '/data/100% "x" y/o.db'),
                    **{"state-dir": "/var/lib/walsup", "socket": "/run/walsup/walsup.sock"})
    got, said = lines(world)
    assert not said
    if str(world.path).startswith("/tmp/"):  # where the configuration lies
        got.remove("PrivateTmp=no")
    assert got == ["[Service]", "ReadWritePaths=", 'ReadWritePaths="-/backup/w"',
                   'ReadWritePaths="-/data/100%% \\"x\\" y"', 'ReadWritePaths="-/data/tenants"',
                   'ReadWritePaths="-/run/lock"', 'ReadWritePaths="-/srv/app"']
    paths = json.loads(world.ctl("sandbox", "--json").stdout)["paths"]
    assert paths == ["/backup/w", '/data/100% "x" y', "/data/tenants", "/run/lock", "/srv/app"]


def test_homes_temporary_directories_hidden_ones_and_symbolic_links(world):
    real = world.path / "real"
    real.mkdir()
    (real / "l.db").touch()
    (world.path / "link.db").symlink_to(real / "l.db")
    world.configure(world.file_target(path="/home/u/backup"), world.db("h", "/home/u/app/a.db"),
                    world.db("r", "/root/r.db"), world.db("l", world.path / "link.db"),
                    **{"state-dir": "/data/state", "socket": "/data/run/s.sock"})
    got, said = lines(world)
    assert got.count("ProtectHome=tmpfs") == 1
    assert 'BindPaths="-/home/u/app"' in got and 'BindPaths="-/home/u/backup"' in got
    assert f'ReadWritePaths="-{world.path}"' in got or f'ReadWritePaths="-{real}"' in got
    assert 'ReadWritePaths="-/data/state"' in got and 'ReadWritePaths="-/data/run"' in got
    assert ("PrivateTmp=no" in got) == str(world.path).startswith("/tmp/")
    assert "walsupd.service hides /root" in said and "hint: move" in said


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze")
def test_systemd_takes_it_without_a_word(world):
    world.configure(world.file_target(path="/home/u/b ackup%"), world.db("h", "/srv/we ird%/\"a.db"))
    unit = (ROOT / "units" / "walsupd.service").read_text()
    unit = "\n".join(x for x in unit.splitlines() if not x.startswith("Exec"))
    unit = unit.replace("[Service]", "[Service]\nExecStart=/bin/true")
    path = world.path / "walsupd.service"
    path.write_text(unit.replace("[Install]", world.ctl("sandbox").stdout + "\n[Install]"))
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=30)
    assert (r.returncode, r.stdout + r.stderr) == (0, "")
    path.write_text(path.read_text().replace('ReadWritePaths="-/srv', 'ReadWritePaths="srv'))  # the control
    r = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=30)
    assert "srv" in r.stdout + r.stderr
