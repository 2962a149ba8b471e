#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs tests on each mutant of mutants.txt until one fails.

A mutant is killed by a test that fails, crashes or does not end. One that does not compile is
invalid and counts for nothing; one listed as equivalent counts as a survivor without being run.

Compiling takes longest. So each test is compiled once, with all mutants in it, and an environment
variable says which one to be. The few that stand alone, as in constants that the compiler needs, are
compiled one by one.
"""
import concurrent.futures
import hashlib
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import switches

ROOT = pathlib.Path(__file__).resolve().parents[3]
TESTS = ROOT / "tests"
BUILD = ROOT / "build/mutations"  # programs are kept as long as nothing that is in them changes
CXX = os.environ.get("CXX", "clang++")
ENOUGH = 0.95
MOST_MEMORY = 8 << 30  # of a mutant run wild

# The tests in the order they are tried, after those that a section of the list names. Mutants of
# headers that batchnorm.hpp does not include are tried on named ones alone.
CORE = ["hand_computed", "errors", "arguments", "golden", "extremes", "extremes_eval",
        "non_finite", "gradient", "laws", "channel_affine", "infer", "instantiate", "threads",
        "allocations", "accuracy", "large", "thorough/exactness", "thorough/determinism",
        "thorough/random_calls", "thorough/accuracy_search"]
QUICK = ["hand_computed", "errors"]
OF_THREADS = ["infer", "threads", "crew", "thorough/determinism", "opt_in/fused", "opt_in/sync"]
RANKS = 3  # processes of a program in mpi/, which has a main of its own

# What no mutant changes, compiled once, and what tells them apart.
COMMON = """#define EIGEN_USE_THREADS
#include "support/catch.hpp"
#include <Eigen/Core>
#include <unsupported/Eigen/CXX11/Tensor>
#include <cstdlib>
inline const int batchnorm_mutant_number = [] {
  const char* number = std::getenv("BATCHNORM_MUTANT");
  return number ? std::atoi(number) : 0;
}();
inline bool batchnorm_mutant(int number) { return number == batchnorm_mutant_number; }
"""


def is_of_mpi(test):
    return test.startswith("mpi/")


def source(test):
    return TESTS / (f"{test}.cpp" if is_of_mpi(test) else f"{test}_test.cpp")


class Mutant:
    def __init__(self, number, header, tests, change, reason):
        self.number, self.header, self.tests, self.reason = number, header, tests, reason
        self.is_alone = change.startswith("alone: ")
        change = change[len("alone: "):] if self.is_alone else change
        self.original, self.arrow, self.mutated = (s.strip() for s in change.partition("==>"))

    def __str__(self):
        return f"{self.header}: {self.original}  ==>  {self.mutated or 'nothing'}"

    def tests_in_order(self, quick):
        if any("/" in test and not test.startswith("thorough/") for test in self.tests):
            return self.tests
        return list(dict.fromkeys(self.tests + (QUICK if quick else CORE)))


def read_list():
    """Exits with every entry that no longer fits the code."""
    mutants, mistakes, header = [], [], None
    lines = pathlib.Path(__file__).with_name("mutants.txt").read_text().splitlines()
    for line_number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        section = re.fullmatch(r"\[(.+)\](.*)", line)
        if section:
            header, tests = section[1], section[2].split()
            text = (ROOT / "include/batchnorm" / header).read_text()
            continue
        change, _, reason = line.partition(" !! ")
        mutant = Mutant(len(mutants) + 1, header, tests, change, reason.strip())
        count = text.count(mutant.original) if mutant.original else 0
        if not mutant.arrow or count != 1:
            mistakes.append(f"mutants.txt:{line_number}: expected 'original ==> mutated', the "
                            f"original once in {header}, got it {count} times: {line}")
        mutants.append(mutant)
    if mistakes:
        sys.exit("\n".join(mistakes))
    return mutants


def write_switches(mutants, include):
    """The library with all mutants in it."""
    shutil.copytree(ROOT / "include", include)
    changes = {}
    for mutant in mutants:
        if not mutant.is_alone and not mutant.reason:
            changes.setdefault(mutant.header, []).append(
                (mutant.number, mutant.original, mutant.mutated))
    for name, of_header in changes.items():
        header = include / "batchnorm" / name
        try:
            header.write_text(switches.with_switches(header.read_text(), of_header))
        except ValueError as error:
            sys.exit(f"{name}: {error}: expected it to be marked 'alone: '")


def digest(*parts):
    value = hashlib.sha256()
    for part in parts:
        is_folder = isinstance(part, pathlib.Path) and part.is_dir()
        for file in sorted(part.rglob("*")) if is_folder else [part]:
            if isinstance(file, str) or file.is_file():
                value.update(file.encode() if isinstance(file, str) else file.read_bytes())
    return value.hexdigest()[:16]


class Bench:
    """Compiles tests against some include folder, and runs them."""

    def __init__(self, mutants, folder):
        self.folder, self.include = folder, folder / "include"
        write_switches(mutants, self.include)
        eigen = subprocess.run(["pkg-config", "--cflags-only-I", "eigen3"], capture_output=True,
                               text=True).stdout.split()
        self.flags = ["-std=c++17", "-O1", "-march=native", "-pthread", "-w", "-I", str(TESTS),
                      f'-DGOLDEN_FOLDER="{TESTS}/golden"']
        for system in [flag[2:] for flag in eigen] or ["/usr/include/eigen3"]:
            self.flags += ["-isystem", system]
        is_clang = "clang" in CXX
        if is_clang:  # gcc takes it for granted
            self.flags.append("-Wno-invalid-constexpr")
        version = subprocess.run([CXX, "--version"], capture_output=True, text=True).stdout
        self.key = digest(self.include, TESTS / "support", TESTS / "golden", COMMON, version,
                          " ".join(self.flags))
        common = BUILD / "common.hpp"
        if not common.exists() or common.read_text() != COMMON:
            common.write_text(COMMON)
        out = BUILD / ("common-" + digest(COMMON, TESTS / "support/catch.hpp", version,
                                          " ".join(self.flags)) + ".hpp")
        if is_clang:
            out = out.with_suffix(".pch")
            self.common = ["-include-pch", out]
        else:
            shutil.copy(common, out)
            self.common = ["-include", out]
            out = out.with_suffix(".hpp.gch")
        if not out.exists():
            extra = ["-Xclang", "-fpch-instantiate-templates"] if is_clang else []
            self.must([CXX, *self.flags, *extra, "-x", "c++-header", common, "-o", out])
        main = BUILD / f"main-{digest(version, TESTS / 'support/catch_main.cpp')}.o"
        self.main = [main]
        if self.has("<catch2/catch_all.hpp>"):  # Catch2 3 is a library
            self.main = ["-lCatch2Main", "-lCatch2"]
        elif not main.exists():
            self.must([CXX, *self.flags, "-c", TESTS / "support/catch_main.cpp", "-o", main])
        self.tests, self.lock = {}, threading.Lock()

    @staticmethod
    def has(header):
        probe = f"#if __has_include({header})\nyes\n#endif\n"
        return "yes" in subprocess.run([CXX, "-E", "-x", "c++", "-"], input=probe, text=True,
                                       capture_output=True).stdout.split()

    @staticmethod
    def must(command):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            told = [line for line in done.stderr.splitlines() if re.search(r"error: |mutant\(", line)]
            sys.exit("\n".join(dict.fromkeys(told)) +
                     "\nExpected this to compile: " + " ".join(map(str, command)))

    def command(self, test, include, program):
        more = self.main
        if is_of_mpi(test):
            more = ["-lCatch2"] if "-lCatch2" in self.main else []
            for what in ["compile", "link"]:
                more += subprocess.run(["mpicxx", f"--showme:{what}"], capture_output=True, text=True,
                                       check=True).stdout.split()
        return [CXX, *self.common, *self.flags, "-I", include, source(test), *more, "-o", program]

    @staticmethod
    def killer(test, program, number=0, limit=None):
        """'' where a test's program passes, else the test's name, to which is added that it hangs.
        A test of threads, which a busy machine may disturb, must fail twice."""
        def forbid_much():
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        command, environment = [program, "--abort"], {"BATCHNORM_MUTANT": str(number)}
        if is_of_mpi(test):  # on any machine, as in mpi/CMakeLists.txt
            command = ["mpirun", "-n", str(RANKS), program]
            environment.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                               OMPI_MCA_rmaps_base_oversubscribe="1",
                               OMPI_MCA_mpi_yield_when_idle="1")
        try:
            for _ in range(2 if test in OF_THREADS else 1):
                done = subprocess.run(command, capture_output=True, timeout=limit,
                                      env={**os.environ, **environment}, preexec_fn=forbid_much)
                if done.returncode == 0:
                    return ""
            return test
        except subprocess.TimeoutExpired:
            return test + ": no end"

    def program(self, test):
        """A test's program with all mutants in it, and how long it may take: by what it takes where
        none is switched on, where it must pass."""
        with self.lock:
            lock = self.tests.setdefault(test, [threading.Lock(), None])
        with lock[0]:
            if lock[1] is None:
                name = test.replace("/", "-")
                key = digest(self.key, source(test).read_text())
                program = BUILD / f"{name}-{key}"
                if not program.exists():
                    part = program.with_suffix(".part")
                    self.must(self.command(test, self.include, part))
                    for old in set(BUILD.glob(f"{name}-*")) - {part}:
                        old.unlink()
                    part.rename(program)
                start = time.monotonic()
                if self.killer(test, program):
                    sys.exit(f"Expected {source(test).stem} to pass before anything is changed")
                lock[1] = (program, 10 + 5 * (time.monotonic() - start))
        return lock[1]

    def judge(self, mutant, quick):
        """'invalid', 'equivalent', '' for another survivor, or the test that killed it."""
        if mutant.reason:
            return "equivalent"
        if mutant.is_alone:
            return self.judge_alone(mutant, quick)
        for test in mutant.tests_in_order(quick):
            program, limit = self.program(test)
            killer = self.killer(test, program, mutant.number, limit)
            if killer:
                return killer
        return ""

    def judge_alone(self, mutant, quick):
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            include = pathlib.Path(folder) / "include"
            shutil.copytree(ROOT / "include", include)
            header = include / "batchnorm" / mutant.header
            header.write_text(header.read_text().replace(mutant.original, mutant.mutated))
            for test in mutant.tests_in_order(quick):
                program = pathlib.Path(folder) / "program"
                command = self.command(test, include, program)
                if subprocess.run(command, capture_output=True).returncode != 0:
                    return "invalid"
                killer = self.killer(test, program, 0, self.program(test)[1])
                if killer:
                    return killer
        return ""


def main():
    options = {"first": 1, "last": 10**6, "quick": 0}
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        if name not in options or not value.isdigit():
            sys.exit(f"Expected first=N, last=N or quick=1, got {argument}")
        options[name] = int(value)
    jobs = int(os.environ.get("JOBS") or os.cpu_count() or 1)
    mutants = read_list()
    chosen = [m for m in mutants if options["first"] <= m.number <= options["last"]]
    killed, invalid, survivors = 0, [], []
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mutations") as folder, \
            concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        bench = Bench(mutants, pathlib.Path(folder))
        # First what is needed for certain, each on a processor of its own.
        list(pool.map(bench.program, dict.fromkeys(m.tests[0] for m in chosen if not m.reason)))
        under_way = {pool.submit(bench.judge, mutant, options["quick"]): mutant
                     for mutant in chosen}
        for done in concurrent.futures.as_completed(under_way):
            mutant = under_way[done]
            if done.exception():
                pool.shutdown(wait=False, cancel_futures=True)
            verdict = done.result()
            text = {"": "SURVIVED", "invalid": "DOES NOT COMPILE", "equivalent": "equivalent"}
            print(f"{mutant.number:3} {text.get(verdict, 'killed by ' + verdict):28} {mutant}",
                  flush=True)
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
