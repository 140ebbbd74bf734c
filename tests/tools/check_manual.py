#!/usr/bin/env python3
"""check_manual.py WALSUPCTL MANUAL - every verb and option of --help is in the manual page, and the
other way round. Prints how many there are, and fails if there are none."""
import re
import subprocess
import sys

ctl, manual = sys.argv[1:]
COMMON = {"json", "config", "socket", "help"}


def help_of(*args):
    return subprocess.run([ctl, *args, "--help"], capture_output=True, text=True, check=True).stdout


def options(text):
    return set(re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.M))


verbs = set(re.findall(r"^  ([a-z][\w-]*) ", help_of(), re.M))
helped = {v: options(help_of(v)) - COMMON for v in verbs}

page = open(manual).read()
_, _, body = page.partition(".Ss Verbs\n")
body = body.split("\n.Sh ")[0]
parts = re.split(r"^\.It Cm ([\w-]+)", body, flags=re.M)
manned = {}
for verb, text in zip(parts[1::2], parts[2::2]):
    head, _, rest = text.partition("\n")
    items = "\n".join([head, *re.findall(r"^\.It Fl .*", rest, re.M)])
    manned[verb] = set(re.findall(r"Fl Fl ([\w-]+)", items))

wrong = [f"--help has the verb {v}, the manual does not" for v in sorted(verbs - set(manned))]
wrong += [f"the manual has the verb {v}, --help does not" for v in sorted(set(manned) - verbs)]
for v in sorted(verbs & set(manned)):
    wrong += [f"{v} --help has --{o}, the manual does not" for o in sorted(helped[v] - manned[v])]
    wrong += [f"{v} has --{o} in the manual, not in --help" for o in sorted(manned[v] - helped[v] - COMMON)]
for w in wrong:
    print(f"check-docs: {manual}: {w}", file=sys.stderr)
n = sum(map(len, helped.values()))
print(f"check-docs: {len(verbs)} verbs, {n} options of --help against {manual}")
sys.exit(1 if wrong or not verbs or not n else 0)
