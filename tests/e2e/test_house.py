"""tests/tools/house.py: each number that describes the source tree is noticed when it rises."""
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG_FUNCTION = "int f(void)\n{\n" + "    ;\n" * 60 + "}\n"


def tree(tmp_path, **files):
    """common/base with these files; a name's `_` before its ending is a dot"""
    top = tmp_path / "common" / "base"
    top.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (top / ".".join(name.rsplit("_", 1))).write_text(text)
    return top


def house(tmp_path, floor="", *options):
    path = tmp_path / "house.floor"
    path.write_text(floor)
    p = subprocess.run([sys.executable, ROOT / "tests" / "tools" / "house.py", *options, path, tmp_path],
                       text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return p.returncode, p.stdout, path.read_text()


def test_a_tree_at_its_goal_passes_without_a_floor(tmp_path):
    tree(tmp_path, a_c='#include "common/base/b.h"\nint a(void)\n{\n    return b();\n}\n',
         b_h="int b(void);\n", b_c="int b(void)\n{\n    return 0; /* a() */\n}\n")
    status, said, _ = house(tmp_path)
    assert status == 0, said
    assert said.splitlines()[-1] == "check-house: 3 files of C and the other programs"


@pytest.mark.parametrize("name, file, value, where", [
    ("files", "int x;\n" * 601, 1, "common/base/a.c has 601 lines"),
    ("wide", "int " + "x" * 117 + ";\n", 1, "common/base/a.c:1 has 122 columns"),
    ("long", "int " + "x" * 97 + ";\n", 1, "common/base/a.c:1 has 102 columns"),
    ("function", LONG_FUNCTION, 63, "common/base/a.c:1: f() has 63 lines"),
    ("over-60", LONG_FUNCTION, 1, "common/base/a.c:1: f() has 63 lines"),
])
def test_what_is_too_long_is_named_with_its_place(tmp_path, name, file, value, where):
    tree(tmp_path, a_c=file)
    status, said, _ = house(tmp_path)
    goal = 60 if name == "function" else 0
    assert status == 1
    assert f"check-house: common/base: {name} is {value}, and {goal} in " in said
    assert f"    {where}\n" in said


def test_two_files_that_call_each_other_are_a_circle(tmp_path):
    tree(tmp_path, a_c="int a(void)\n{\n    return b();\n}\n",
         b_c="int b(void)\n{\n    return a();\n}\n")
    status, said, _ = house(tmp_path)
    assert status == 1
    assert "common/base: calls is 2, and 1 in " in said and "a circle of a b\n" in said


def test_two_headers_that_include_each_other_are_a_circle(tmp_path):
    tree(tmp_path, a_h='#include "common/base/b.h"\n', b_h='#include "common/base/a.h"\n')
    status, said, _ = house(tmp_path)
    assert status == 1
    assert "common/base: includes is 2, and 1 in " in said


def test_a_name_in_a_comment_or_a_string_calls_nobody(tmp_path):
    tree(tmp_path, a_c="int a(void)\n{\n    return b();\n}\n",
         b_c='int b(void)\n{\n    /* a() */\n    return *"a()"; // a()\n}\n')
    assert house(tmp_path)[0] == 0


def test_a_number_may_be_as_it_is_written_down_and_no_higher(tmp_path):
    tree(tmp_path, a_c="int " + "x" * 97 + ";\n")
    assert house(tmp_path, "common/base long 1\n")[0] == 0
    tree(tmp_path, b_c="int " + "y" * 97 + ";\n")
    status, said, _ = house(tmp_path, "common/base long 1\n")
    assert status == 1 and "common/base: long is 2, and 1 in " in said


def test_what_fell_is_written_down_and_cannot_rise_again(tmp_path):
    tree(tmp_path, a_c="int " + "x" * 97 + ";\n")
    floor = "# why\ncommon/base long 5\ncommon/base function 80\n"
    status, said, same = house(tmp_path, floor)
    assert status == 0 and "make house-floor" in said and same == floor
    status, said, lowered = house(tmp_path, floor, "--lower")
    assert status == 0 and lowered == "# why\ncommon/base long 1\n"
    # it lowers only
    assert house(tmp_path, "common/base long 0\n", "--lower")[2] == "common/base long 0\n"


def test_two_invariants_of_one_number_are_named(tmp_path):
    tree(tmp_path, a_c="int a;\n", DESIGN_md="* **I1** one\n* **I2** two\n* **I1** three\n")
    status, said, _ = house(tmp_path)
    assert status == 1 and "check-house: common/base/DESIGN.md has two invariants I1\n" in said


def test_a_folder_that_is_not_there_any_more_is_no_excuse(tmp_path):
    tree(tmp_path, a_c="int a;\n")
    status, said, _ = house(tmp_path, "common/attic long 3\n")
    assert status == 1 and "common/attic long" in said


def test_where_there_is_nothing_to_read_nothing_passes(tmp_path):
    status, said, _ = house(tmp_path)
    assert status == 1 and "there is no source file in" in said
