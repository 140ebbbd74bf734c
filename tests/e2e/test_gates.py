"""tests/gates.sh, which runs the gates: what could not be looked at is never counted as passed."""
import os
import pathlib
import re
import signal
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]

# a make that does what the last word says
MAKE = """#!/bin/sh
for gate; do :; done
case $gate in
systemd) echo "all the real systemd, no namespaces can be made" >>"$WALSUP_SKIPPED" ;;
e2e) echo "part test_keys.py [2] needs root" >>"$WALSUP_SKIPPED" ;;
unit) exit 1 ;;
waits | computes) # each until it has seen the other
    echo "$gate begins"
    echo >"$MEETING/$gate"
    n=0; until [ -e "$MEETING/waits" ] && [ -e "$MEETING/computes" ]; do
        n=$((n + 1)); [ $n -lt 3000 ] || exit 1; sleep 0.01; done
    echo "$gate ends, niceness $(nice)" ;;
sleeps) echo $$ >"$MEETING/sleeps.new" && mv "$MEETING/sleeps.new" "$MEETING/sleeps"; exec sleep 1000 ;;
esac
"""


def command(tmp_path, *names):
    make = tmp_path / "make"
    make.write_text(MAKE)
    make.chmod(0o755)
    return {"args": [ROOT / "tests" / "gates.sh", *names], "text": True, "stdout": subprocess.PIPE,
            "env": {**os.environ, "MAKE": str(make), "MEETING": str(tmp_path)}}


def gates(tmp_path, *names):
    p = subprocess.run(**command(tmp_path, *names), timeout=60)
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


def test_lanes_run_side_by_side_and_what_a_gate_prints_stays_together(tmp_path):
    status, said = gates(tmp_path, "build", "--", "waits", "systemd", "--", "computes", "unit")
    assert status != 0 and said[-2:] == ["failed: unit", "gates: 3 passed, 1 failed, 1 skipped"]
    assert said[said.index("not proven here:") + 2].startswith("  systemd: skipped: ")
    assert said.index("==== build") < said.index("==== side by side: waits systemd")
    base = os.nice(0)
    for gate, nice in ("waits", base), ("computes", min(base + 5, 19)):  # what computes gives way
        at = said.index(f"==== {gate}")
        assert said[at + 1:at + 3] == [f"{gate} begins", f"{gate} ends, niceness {nice}"]
        assert re.fullmatch(rf"==== {gate}: passed in \d+ s, \d+ s of CPU", said[at + 3])


def runs(pid):
    try:
        return " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_a_run_that_is_interrupted_ends_its_lanes(tmp_path):
    with subprocess.Popen(**command(tmp_path, "build", "--", "waits", "--", "sleeps")) as run:
        end = time.monotonic() + 30
        while not (tmp_path / "sleeps").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        pid = int((tmp_path / "sleeps").read_text())
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 130
    while runs(pid):
        assert time.monotonic() < end
        time.sleep(0.01)
