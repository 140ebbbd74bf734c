"""tests/tools/check_promises.py: a promise whose proof is not there is noticed."""
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def check(tmp_path, proof):
    path = tmp_path / "PROMISES.md"
    path.write_text(f"| promise | proof |\n|---|---|\n| Nothing is lost. | {proof} |\n")
    p = subprocess.run([sys.executable, ROOT / "tests/tools/check_promises.py", path], text=True,
                       stdout=subprocess.PIPE)
    return p.returncode, p.stdout


@pytest.mark.parametrize("proof", [
    "`test_promises.py`",
    "`test_promises.py`: `test_a_proof_that_is_there_is_accepted`",
    "`test_a_proof_that_is_there_is_accepted`",
    "`make unit-test_ltx`, `make stress` (mode `hot`)",
    "`tests/systemd/checks.sh`: under the real unit",
])
def test_a_proof_that_is_there_is_accepted(tmp_path, proof):
    status, said = check(tmp_path, proof)
    assert status == 0 and said == "check-promises: 1 promises\n"


@pytest.mark.parametrize("proof, why", [
    ("", "has no proof"),
    ("we are careful, `really`", "has no proof"),
    ("`test_nowhere.py`", "names test_nowhere.py, which is not in tests/e2e"),
    ("`test_that_nobody_wrote`", "names test_that_nobody_wrote, which is not a test of tests/e2e"),
    ("`test_gates.py`: `test_a_proof_that_is_there_is_accepted`",
     "names test_a_proof_that_is_there_is_accepted, which is not a test of test_gates.py"),
    ("`make unit-test_nothing`", "names make unit-test_nothing, which is not a target"),
    ("`tests/nothing.sh`", "names tests/nothing.sh, which is not there"),
])
def test_a_proof_that_is_missing_is_named(tmp_path, proof, why):
    status, said = check(tmp_path, proof)
    assert status == 1
    assert "check-promises: PROMISES.md: Nothing is lost." in said and why in said


def test_a_page_without_promises_proves_nothing(tmp_path):
    (tmp_path / "PROMISES.md").write_text("# Promises\n")
    p = subprocess.run([sys.executable, ROOT / "tests" / "tools" / "check_promises.py",
                        tmp_path / "PROMISES.md"], text=True, stdout=subprocess.PIPE)
    assert p.returncode == 1
