#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the mutants of mutants.txt, in that order, and runs the tests on each until one fails.

A mutant is killed by a test that fails, crashes or does not end. One that does not compile is
invalid and counts for nothing; one listed as equivalent counts as a survivor without being run.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
CXX = os.environ.get("CXX", "clang++")
ENOUGH = 0.95

# The tests in the order they are tried, after those that a section of the list names. -O0 compiles
# fastest, -O1 is for those that compute much.
QUICK = ["hand_computed", "errors", "extremes", "gradient", "arguments", "golden", "channel_affine",
         "laws"]
THOROUGH = ["threads", "accuracy", "large", "allocations", "thorough/exactness",
            "thorough/determinism", "thorough/random_calls"]

# What no mutant changes, compiled once.
COMMON = """#define EIGEN_USE_THREADS
#include "support/catch.hpp"
#include <Eigen/Core>
#include <unsupported/Eigen/CXX11/Tensor>
"""


class Mutant:
    def __init__(self, header, tests, original, mutated, reason):
        self.header, self.tests = header, tests
        self.original, self.mutated, self.reason = original, mutated, reason

    def __str__(self):
        return f"{self.header}: {self.original}  ==>  {self.mutated or 'nothing'}"


def read_list():
    """Exits with every entry that no longer fits the code."""
    mutants, mistakes, header = [], [], None
    for number, line in enumerate((TESTS / "mutations/mutants.txt").read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        section = re.fullmatch(r"\[(.+)\](.*)", line)
        if section:
            header, tests = section[1], section[2].split()
            text = (ROOT / "include/batchnorm" / header).read_text()
            continue
        change, _, reason = line.partition(" !! ")
        original, arrow, mutated = (part.strip() for part in change.partition("==>"))
        count = text.count(original) if original else 0
        if not arrow or count != 1:
            mistakes.append(f"mutants.txt:{number}: expected 'original ==> mutated', the original "
                            f"once in {header}, got it {count} times: {line}")
        mutants.append(Mutant(header, tests, original, mutated, reason.strip()))
    if mistakes:
        sys.exit("\n".join(mistakes))
    return mutants


class Bench:
    """Compiles tests against some include folder, and runs them."""

    def __init__(self, folder):
        self.folder = folder
        eigen = subprocess.run(["pkg-config", "--cflags-only-I", "eigen3"], capture_output=True,
                               text=True).stdout.split()
        systems = [flag[2:] for flag in eigen] or ["/usr/include/eigen3"]
        self.flags = ["-std=c++17", "-march=native", "-pthread", "-w", "-I", str(TESTS),
                      f'-DGOLDEN_FOLDER="{TESTS}/golden"']
        for system in systems:
            self.flags += ["-isystem", system]
        common = folder / "common.hpp"
        common.write_text(COMMON)
        self.common = {}
        for level in ("-O0", "-O1"):
            if "clang" in CXX:
                out = folder / f"common{level}.pch"
                extra = ["-Xclang", "-fpch-instantiate-templates"]
                self.common[level] = ["-include-pch", out]
            else:
                (folder / level).mkdir()
                shutil.copy(common, folder / level)
                out, extra = folder / level / "common.hpp.gch", []
                self.common[level] = ["-include", folder / level / "common.hpp"]
            self.must([CXX, *self.flags, level, *extra, "-x", "c++-header", common, "-o", out])
        self.main = ["-lCatch2Main", "-lCatch2"]
        if "<catch2/catch_all.hpp>" not in self.preprocessed_includes():
            self.main = [folder / "main.o"]
            self.must([CXX, *self.flags, "-c", TESTS / "support/catch_main.cpp", "-o", *self.main])
        self.seconds, self.lock = {}, threading.Lock()

    def preprocessed_includes(self):
        probe = "#if __has_include(<catch2/catch_all.hpp>)\n<catch2/catch_all.hpp>\n#endif\n"
        return subprocess.run([CXX, "-E", "-x", "c++", "-"], input=probe, capture_output=True,
                              text=True).stdout

    @staticmethod
    def must(command):
        if subprocess.run(command).returncode != 0:
            sys.exit("Expected this to compile: " + " ".join(map(str, command)))

    def compile(self, test, include, program):
        level = "-O0" if test in QUICK else "-O1"
        command = [CXX, *self.common[level], *self.flags, level, "-I", include,
                   TESTS / f"{test}_test.cpp", *self.main, "-o", program]
        return subprocess.run(command, capture_output=True).returncode == 0

    def passes(self, program, limit):
        try:
            done = subprocess.run([program, "--abort"], capture_output=True, timeout=limit)
            return done.returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def limit(self, test):
        """How long a test may take: by what it takes on the code as it is, where it must pass."""
        with self.lock:
            if test not in self.seconds:
                program = self.folder / test.replace("/", "-")
                if not self.compile(test, ROOT / "include", program):
                    sys.exit(f"Expected {test}_test to compile before anything is changed")
                start = time.monotonic()
                if not self.passes(program, None):
                    sys.exit(f"Expected {test}_test to pass before anything is changed")
                self.seconds[test] = time.monotonic() - start
            return 10 + 5 * self.seconds[test]

    def judge(self, mutant, quick):
        """'invalid', 'equivalent', '' for another survivor, or the test that killed it."""
        if mutant.reason:
            return "equivalent"
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            include = pathlib.Path(folder) / "include"
            shutil.copytree(ROOT / "include", include)
            header = include / "batchnorm" / mutant.header
            header.write_text(header.read_text().replace(mutant.original, mutant.mutated))
            for test in dict.fromkeys(mutant.tests + (QUICK[:2] if quick else QUICK + THOROUGH)):
                program = pathlib.Path(folder) / "program"
                limit = self.limit(test)
                if not self.compile(test, include, program):
                    return "invalid"
                if not self.passes(program, limit):
                    return test
        return ""


def main():
    options = {"jobs": os.cpu_count() or 1, "first": 1, "last": 10**6, "quick": 0}
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name not in options or not value.isdigit():
            sys.exit(f"Expected jobs=N, first=N, last=N or quick=1, got {argument}")
        options[name] = int(value)
    mutants = list(enumerate(read_list(), 1))
    mutants = [(n, m) for n, m in mutants if options["first"] <= n <= options["last"]]
    killed, invalid, survivors = 0, [], []
    with tempfile.TemporaryDirectory(prefix="mutations") as folder, \
            concurrent.futures.ThreadPoolExecutor(options["jobs"]) as pool:
        bench = Bench(pathlib.Path(folder))
        under_way = {pool.submit(bench.judge, mutant, options["quick"]): (number, mutant)
                     for number, mutant in mutants}
        for done in concurrent.futures.as_completed(under_way):
            number, mutant = under_way[done]
            if done.exception():
                pool.shutdown(wait=False, cancel_futures=True)
            verdict = done.result()
            text = {"": "SURVIVED", "invalid": "DOES NOT COMPILE", "equivalent": "equivalent"}
            print(f"{number:3} {text.get(verdict, 'killed by ' + verdict):28} {mutant}", flush=True)
            if verdict == "invalid":
                invalid.append(mutant)
            elif verdict in ("", "equivalent"):
                survivors.append(mutant)
            else:
                killed += 1
    valid = killed + len(survivors)
    print(f"\n{killed} of {valid} mutants killed, {100 * killed / max(valid, 1):.1f} %")
    for mutant in survivors:
        print(f"survived: {mutant}\n          {mutant.reason or 'no reason is known'}")
    for mutant in invalid:
        print(f"does not compile: {mutant}")
    if invalid or killed < ENOUGH * valid:
        sys.exit(f"Expected every mutant to compile and {ENOUGH:.0%} to be killed")


if __name__ == "__main__":
    main()
