"""tests/gates.sh, which runs the gates: what could not be looked at is never counted as passed."""
import os
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]

# a make that does what the last word says
MAKE = """#!/bin/sh
for gate; do :; done
case $gate in
systemd) echo "all the real systemd, no namespaces can be made" >>"$WALSUP_SKIPPED" ;;
e2e) echo "part test_keys.py [2] needs root" >>"$WALSUP_SKIPPED" ;;
unit) exit 1 ;;
esac
"""


def gates(tmp_path, *names):
    make = tmp_path / "make"
    make.write_text(MAKE)
    make.chmod(0o755)
    p = subprocess.run([ROOT / "tests" / "gates.sh", *names], env={**os.environ, "MAKE": str(make)}, text=True,
                       stdout=subprocess.PIPE, timeout=60)
    return p.returncode, p.stdout.splitlines()


def test_a_skipped_gate_is_counted_as_skipped_and_named_at_the_end(tmp_path):
    status, said = gates(tmp_path, "build", "systemd")
    assert status == 0
    assert said[-1] == "gates: 1 passed, 0 failed, 1 skipped"
    assert "==== systemd: SKIPPED, the real systemd, no namespaces can be made" in said
    assert not any("systemd: passed" in line for line in said)
    at = said.index("not proven here:")
    assert said[at + 1].startswith("  systemd, which is: the units under a real systemd")
    assert said[at + 2] == "  systemd: skipped: the real systemd, no namespaces can be made"


def test_a_gate_that_skipped_a_part_passed_but_the_part_is_listed(tmp_path):
    status, said = gates(tmp_path, "build", "e2e")
    assert status == 0 and said[-1] == "gates: 2 passed, 0 failed, 0 skipped"
    assert said[said.index("not proven here:") + 1] == "  e2e: skipped: test_keys.py [2] needs root"


def test_where_everything_was_looked_at_nothing_is_listed(tmp_path):
    status, said = gates(tmp_path, "build")
    assert status == 0 and "not proven here:" not in said


def test_a_failure_and_a_run_that_proved_nothing_are_failures(tmp_path):
    status, said = gates(tmp_path, "unit", "build")
    assert status != 0 and said[-2:] == ["failed: unit", "gates: 1 passed, 1 failed, 0 skipped"]
    status, said = gates(tmp_path, "systemd")
    assert status != 0 and said[-1] == "gates: 0 passed, 0 failed, 1 skipped"
