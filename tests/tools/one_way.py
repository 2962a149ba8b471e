#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lists the conditions of include/ that programs saw one way only: always true, or never.

    one_way.py PROFILE PROGRAM...      built by clang with -fcoverage-mapping; fails where there are any

A condition is what stands in an if, a loop, before ? or around && and ||. It may have been true in one
instance of a template and false in another. Not asked for are selections of vectors, in *.inc, nor
conditions on a line with GCOV_EXCL_BR_LINE or GCOV_EXCL_LINE and a reason, or between START and STOP.
"""
import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2] / "include"


def excused_lines(text):
    lines, inside = set(), False
    for number, line in enumerate(text.splitlines(), 1):
        inside = inside or re.search(r"GCOV_EXCL(_BR)?_START", line) is not None
        if inside or re.search(r"GCOV_EXCL(_BR)?_LINE", line):
            lines.add(number)
        inside = inside and re.search(r"GCOV_EXCL(_BR)?_STOP", line) is None
    return lines


def conditions(profile, programs):
    """{(header, line, column, end column): [times true, times false]}, of all instances."""
    command = ["llvm-cov", "export", "-skip-expansions", "-instr-profile", profile, programs[0]]
    for program in programs[1:]:
        command += ["-object", program]
    exported = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    seen = collections.defaultdict(lambda: [0, 0])
    for function in exported["data"][0]["functions"]:
        for line, column, _, end, times_true, times_false, file, *_ in function["branches"]:
            header = pathlib.Path(function["filenames"][file])
            if header.suffix == ".hpp" and ROOT in header.parents:
                counts = seen[header, line, column, end]
                counts[0] += times_true
                counts[1] += times_false
    return seen


def main():
    seen = conditions(sys.argv[1], sys.argv[2:])
    texts = {header: header.read_text() for header, *_ in seen}
    excused = {header: excused_lines(text) for header, text in texts.items()}
    # Neither way was seen of what is settled while compiling; what is never reached is no line of gcovr's.
    one_way = [(*place, counts[0] > 0) for place, counts in sorted(seen.items())
               if (counts[0] > 0) != (counts[1] > 0)]
    without_reason = [place for place in one_way if place[1] not in excused[place[0]]]
    for header, line, column, end, is_true in without_reason:
        condition = texts[header].splitlines()[line - 1][column - 1:end - 1]
        print(f"{header.relative_to(ROOT)}:{line}: {'always' if is_true else 'never'}: {condition}")
    print(f"{len(seen)} conditions, {len(one_way) - len(without_reason)} one way for a reason, "
          f"{len(without_reason)} without")
    sys.exit(bool(without_reason))


if __name__ == "__main__":
    main()
