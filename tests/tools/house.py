#!/usr/bin/env python3
"""house.py [--lower] FLOOR [ROOT] - numbers by folder of the source tree, none of which may grow.

  files     over 600 lines
  wide      lines over 120 columns
  long      lines over 100 columns, which is the goal
  function  lines of the longest function
  over-60   functions of more than 60 lines
  calls     files in the largest circle of calls between files of the folder
  includes  files in the largest circle of includes

FLOOR has a line for each number that is above its goal, `folder name value`. The goal is 0, for a
function 60 lines, for a circle one file. A number above its line, or above its goal without one, is
a failure, which names the worst places. --lower lowers the lines whose numbers fell.
"""
import ast
import collections
import pathlib
import re
import sys

ROOMS = ("os", "watch", "spool", "capture", "replica", "core", "control")
FOLDERS = ("common/base", "common/format", "common/store", *(f"daemon/{room}" for room in ROOMS),
           "daemon", "ctl", "tests")  # daemon: the circles of all its rooms together
MOST_LINES, WIDE, LONG, LONG_FUNCTION = 600, 120, 100, 60
GOAL = {"function": LONG_FUNCTION, "calls": 1, "includes": 1}
NAMES = ("files", "wide", "long", "function", "over-60", "calls", "includes")
WORST = 5
STRING_OR_COMMENT = re.compile(r'''/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*\'''',
                               re.S)
DEFINED = re.compile(r"^(?!static\b|typedef\b|extern\b)[A-Za-z_][\w \t*]*?\b(\w+)"
                     r"\([^;{}]*\)[^;{}()]*\n\{", re.M)
INCLUDED = re.compile(r'^#include "([^"]+)"', re.M)
CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")


def stem(path):
    return pathlib.Path(path).stem


def code_of(text):
    """without comments and strings"""
    return STRING_OR_COMMENT.sub(lambda m: '""' if m[0][0] == '"' else " ", text)


def c_functions(text):
    """(line, name, lines) of each function, from the line that it begins with to its brace"""
    lines = text.split("\n")
    begin = body = None
    for i, line in enumerate(lines):
        if line == "{":
            body = i
        elif line.startswith("}"):
            if None not in (begin, body) and line == "}":
                name = re.search(r"(\w+)\s*\(", " ".join(lines[begin:body]))
                if name:
                    yield begin + 1, name[1], i - begin + 1
            begin = body = None
        elif body is None and (not line or line.endswith(";")
                               or line.startswith(("#", "/*", " *"))):
            begin = None
        elif body is None and begin is None and (line[0].isalpha() or line[0] == "_"):
            begin = i


def py_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.name, node.end_lineno - node.lineno + 1


def largest_circle(edges):
    """the largest strongly connected part of {node: {nodes}}, by Tarjan"""
    index, low, on, stack, best = {}, {}, set(), [], []

    def visit(root):
        nonlocal best
        todo = [(root, iter(sorted(edges.get(root, ()))))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        while todo:
            node, rest = todo[-1]
            for to in rest:
                if to not in index:
                    index[to] = low[to] = len(index)
                    stack.append(to)
                    on.add(to)
                    todo.append((to, iter(sorted(edges.get(to, ())))))
                    break
                if to in on:
                    low[node] = min(low[node], index[to])
            else:
                todo.pop()
                if todo:
                    low[todo[-1][0]] = min(low[todo[-1][0]], low[node])
                if low[node] == index[node]:
                    circle = stack[stack.index(node):]
                    del stack[stack.index(node):]
                    on.difference_update(circle)
                    best = max(best, sorted(circle), key=len)

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return best


class House:
    def __init__(self, root):
        self.number = collections.Counter()
        self.worst = collections.defaultdict(list)  # (folder, name): [(how bad, where)]
        self.read = {}
        for folder in FOLDERS:
            top = root / folder
            found = sorted(top.rglob("*") if folder == "tests" else top.glob("*"))
            for p in found:
                if p.suffix in (".c", ".h", ".py", ".sh") and p.is_file():
                    self.file(folder, str(p.relative_to(root)), p.read_text())
        for folder in FOLDERS:
            if folder != "tests":
                self.circles(folder)

    def bad(self, folder, name, how, where, value=1):
        self.number[folder, name] += value
        self.worst[folder, name].append((how, where))

    def file(self, folder, path, text):
        if path.endswith((".c", ".h")):
            self.read[path] = folder, text
        lines = text.split("\n")
        if len(lines) - 1 > MOST_LINES:
            self.bad(folder, "files", len(lines) - 1, f"{path} has {len(lines) - 1} lines")
        for i, line in enumerate(lines, 1):
            n = len(line.expandtabs(8))
            for name, most in (("wide", WIDE), ("long", LONG)):
                if n > most:
                    self.bad(folder, name, n, f"{path}:{i} has {n} columns")
        find = {".c": c_functions, ".h": c_functions, ".py": py_functions}
        find = find.get(pathlib.Path(path).suffix, lambda _: ())
        for line, name, n in find(text):
            where = f"{path}:{line}: {name}() has {n} lines"
            self.number[folder, "function"] = max(self.number[folder, "function"], n)
            self.worst[folder, "function"].append((n, where))
            if n > LONG_FUNCTION:
                self.bad(folder, "over-60", n, where)

    def circles(self, folder):
        mine = {p: text for p, (_, text) in self.read.items() if p.startswith(folder + "/")}
        code = {p: code_of(text) for p, text in mine.items()}
        home = {name: stem(p) for p in mine if p.endswith(".c")
                for name in DEFINED.findall(code[p])}
        calls, includes = collections.defaultdict(set), collections.defaultdict(set)
        for p, text in mine.items():
            calls[stem(p)] |= {home[name] for name in CALLED.findall(code[p]) if name in home}
            includes[stem(p)] |= {stem(m) for m in INCLUDED.findall(text) if m in mine}
        for name, edges in (("calls", calls), ("includes", includes)):
            circle = largest_circle(edges)
            self.number[folder, name] = max(len(circle), 1)
            if len(circle) > 1:
                self.worst[folder, name].append((len(circle), "a circle of " + " ".join(circle)))


def invariants(root):
    """numbers of invariants that stand for two things in one DESIGN.md"""
    for folder in FOLDERS:
        p = root / folder / "DESIGN.md"
        names = re.findall(r"^\* \*\*([A-Z]+\d+)\*\*", p.read_text(), re.M) if p.exists() else []
        yield from (f"{p.relative_to(root)} has two invariants {n}" for n in sorted(set(names))
                    if names.count(n) > 1)


def read_floor(path):
    floor = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            folder, name, value = line.split()
            floor[folder, name] = int(value)
    return floor


def main():
    args = [a for a in sys.argv[1:] if a != "--lower"]
    path = pathlib.Path(args[0])
    root = pathlib.Path(args[1]) if len(args) > 1 else pathlib.Path(__file__).resolve().parents[2]
    house = House(root)
    if not house.read:
        sys.exit(f"check-house: there is no source file in {root}")
    floor = read_floor(path)
    goal = lambda key: floor.get(key, GOAL.get(key[1], 0))
    print(f"{'folder':14}" + "".join(f"{name:>14}" for name in NAMES))
    failed, lower = list(invariants(root)), {}
    for folder in FOLDERS:
        row = ""
        for name in NAMES:
            key = folder, name
            value = house.number[key]
            counted = folder != "tests" or name not in ("calls", "includes")
            row += f"{value:6} of {goal(key):4} " if counted else f"{'-':>14}"
            if value > goal(key):
                places = sorted(house.worst[key], reverse=True)[:WORST]
                failed.append(f"{folder}: {name} is {value}, and {goal(key)} in {args[0]}:\n    "
                              + "\n    ".join(where for _, where in places))
            elif key in floor and value < floor[key]:
                lower[key] = value
        print(f"{folder:14}{row}")
    failed += [f"{folder} {name} in {args[0]} is none of the numbers" for folder, name in floor
               if folder not in FOLDERS or name not in NAMES]
    for why in failed:
        print(f"check-house: {why}")
    if lower and "--lower" in sys.argv:
        text = path.read_text()
        for (folder, name), value in lower.items():
            kept = f"{folder} {name} {value}\n" if value > GOAL.get(name, 0) else ""
            text = re.sub(rf"^{re.escape(folder)} {name} \d+\n", kept, text, flags=re.M)
        path.write_text(text)
    elif lower:
        print(f"check-house: {len(lower)} numbers fell: make house-floor writes that down")
    if failed:
        return 1
    print(f"check-house: {len(house.read)} files of C and the other programs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
