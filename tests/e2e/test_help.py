"""--help of every verb, and the completion that is made from it."""
import json
import re
import shutil
import subprocess

import pytest

from conftest import OUT, make_db


def ctl(*args):
    return subprocess.run([OUT / "walsupctl", *args], capture_output=True, text=True, timeout=20)


def verbs():
    return [v["name"] for v in json.loads(ctl("help", "--json").stdout)["verbs"]]


def test_help_of_every_verb_fits_80_columns_and_is_the_same_both_ways():
    names = verbs()
    assert len(names) > 10
    for args in [[], *[[v] for v in names]]:
        r = ctl(*args, "--help")
        assert (r.returncode, r.stderr) == (0, ""), args
        assert r.stdout == ctl(*args, "-h").stdout
        if args:
            assert r.stdout == ctl("help", *args).stdout
        wide = [line for line in r.stdout.splitlines() if len(line) > 80]
        assert not wide, (args, wide)
        assert r.stdout.startswith("Usage: walsupctl"), args


@pytest.fixture
def bash(world):
    """what bash offers for a line that ends at the cursor"""
    bin_dir = world.path / "bin"
    bin_dir.mkdir()
    (bin_dir / "walsupctl").write_text(f'#!/bin/sh\nexec {OUT}/walsupctl -c {world.ini} "$@"\n')
    (bin_dir / "walsupctl").chmod(0o755)
    script = world.path / "completion"
    script.write_text(ctl("help", "--completion", "bash").stdout)

    def complete(line):
        words = line.split(" ")
        run = (f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _walsupctl; '
               'printf "%s\\n" "${COMPREPLY[@]}"')
        r = subprocess.run(["bash", "-uc", run, "bash", *words], capture_output=True, text=True, timeout=20,
                           cwd=world.path, env={**world.env, "PATH": f"{bin_dir}:/usr/bin:/bin"})
        assert r.returncode == 0 and not r.stderr, r.stderr
        return sorted(r.stdout.split())

    return complete


def test_bash_completes_verbs_options_databases_and_targets(world, bash):
    world.configure(world.file_target("local"), world.file_target("other", path=world.path / "o"),
                    world.db("apple"), world.db("avocado"), world.db("plum"))
    assert set(verbs()) < set(bash("walsupctl "))
    assert bash("walsupctl re") == ["reconcile", "reload", "remove", "restore", "resume"]
    assert bash("walsupctl restore a") == ["apple", "avocado"]
    assert bash("walsupctl -c x restore p") == ["plum"]
    for v in verbs():
        said = set(re.findall(r"(?<![\w-])--[\w-]+", "\n".join(
            x[:28] for x in ctl(v, "--help").stdout.splitlines() if x.startswith("  "))))
        assert said <= set(bash(f"walsupctl {v} -")), v
    assert bash("walsupctl restore apple --target ") == ["local", "other"]
    assert bash("walsupctl restore apple --integrity-check f") == ["full"]
    assert bash("walsupctl restore apple -o wals") == ["walsup.ini"]
    assert bash("walsupctl help ver") == ["verify", "version"]
    assert bash("walsupctl restore --txid ") == []
    assert bash("walsupctl add x.db --set ret") == ["retention=7d"]
    keys = {k.split("=")[0] for k in bash("walsupctl add x.db --set ")}
    assert {"sync-interval", "snapshot-interval", "verify-interval"} < keys and not {"path", "target", "workers"} & keys
    for shell in ("zsh", "fish"):
        assert "retention=7d" in ctl("help", "--completion", shell).stdout


def test_bash_offers_what_a_pattern_stands_for_and_not_the_pattern(world, bash):
    world.configure(world.file_target(), world.db("apple"), world.db("tenants", world.path / "t" / "*.db"))
    assert "[db tenants]" in world.ctl("list").stdout
    assert bash("walsupctl restore ") == ["apple"]


def test_a_name_that_is_a_command_is_not_run(world, bash):
    t = world.path / "t"
    t.mkdir()
    make_db(t / "a$(touch${IFS}ran).db").close()
    world.configure(world.file_target(), world.db("t", t / "*.db"))
    world.start()
    offered = bash("walsupctl restore t/")
    assert len(offered) == 1 and offered[0].startswith("t/a"), offered
    assert not (world.path / "ran").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_syntactically_right(world, shell):
    script = ctl("help", "--completion", shell).stdout
    assert all(v in script for v in verbs())
    path = world.path / "script"
    path.write_text(script)
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    r = subprocess.run([shell, "-n", path], capture_output=True, text=True, timeout=20)
    assert (r.returncode, r.stderr) == (0, "")
