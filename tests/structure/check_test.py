#!/usr/bin/env python3
"""Tests the checks themselves: each must find what it forbids. Usage: check_test.py tools/check"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(CHECK))
import source  # noqa: E402


class Tree(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name)
        (self.root / "tools/check").mkdir(parents=True)
        for table in ("layers.txt", "size.txt"):
            (self.root / "tools/check" / table).write_text((CHECK / table).read_text())

    def tearDown(self):
        self.folder.cleanup()

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def run_check(self, name, *args):
        run = subprocess.run([sys.executable, str(CHECK / name), *(args or [str(self.root)])],
                             capture_output=True, text=True, check=False)
        self.assertIn(run.returncode, (0, 1), run.stderr)
        return run.returncode, run.stdout


class Source(unittest.TestCase):
    def test_comments_and_strings_are_taken_out_and_lines_stay(self):
        text = 'a // abort()\nb /* exit(\n */ "getenv(\\"" R"x(puts()")x" 1\'000 \'"\' c\n'
        code = source.code_of(text)
        for word in ("abort", "exit", "getenv", "puts"):
            self.assertNotIn(word, code)
        self.assertEqual(code.count("\n"), text.count("\n"))
        self.assertIn("1'000", code)
        self.assertIn("c", code)


class Layers(Tree):
    def test_a_tree_that_obeys_passes(self):
        self.write("lib/text/a.cc", '#include "lib/base/status.h"\n#include <string>\n')
        self.assertEqual(self.run_check("layers.py")[0], 0)

    def test_the_library_may_not_include_a_backend(self):
        self.write("lib/engine/a.cc", '#include "backends/ref/ref.h"\n')
        status, out = self.run_check("layers.py")
        self.assertEqual(status, 1)
        self.assertIn("lib/engine/a.cc:1: lib/engine may not include backends", out)

    def test_a_model_may_not_reach_the_device_layer(self):
        self.write("lib/models/a.cc", '\n#include "lib/device/backend.h"\n')
        self.assertIn("lib/models/a.cc:2", self.run_check("layers.py")[1])

    def test_tools_see_the_public_header_only(self):
        self.write("tools/a.cc", "#include <ponder/ponder.h>\n")
        self.assertEqual(self.run_check("layers.py")[0], 0)
        self.write("tools/a.cc", '#include "lib/base/status.h"\n')
        self.assertEqual(self.run_check("layers.py")[0], 1)

    def test_a_package_stays_in_its_homes(self):
        self.write("lib/engine/a.cc", "#include <nlohmann/json.hpp>\n")
        self.assertIn("belongs only in", self.run_check("layers.py")[1])
        self.write("lib/engine/a.cc", "#include <oneapi/dnnl/dnnl.hpp>\n")
        self.assertIn("belongs only in", self.run_check("layers.py")[1])

    def test_quoted_includes_start_at_the_root(self):
        self.write("lib/text/a.cc", '#include "tokenizer.h"\n')
        self.assertIn("not a path from the root", self.run_check("layers.py")[1])

    def test_a_new_folder_needs_a_line(self):
        self.write("lib/newcomer/a.cc", "int x;\n")
        self.assertIn("no line of layers.txt", self.run_check("layers.py")[1])


class Banned(Tree):
    FORBIDDEN = [
        "void f() { abort(); }", "void f() { std::exit(1); }", "auto x = getenv(\"A\");", "void f() { printf(\"\"); }",
        "void f() { std::cout << 1; }", "void f() { assert(true); }", "void f() { ABSL_CHECK_EQ(1, 1); }",
        "void f() { throw std::runtime_error(\"\"); }", "#include <iostream>", "using namespace std;",
        "double d = strtod(s, nullptr);", "int s = socket(1, 2, 3);", "// TODO: later",
    ]
    ALLOWED = [
        "static_assert(true);", "// abort() ends the host", 'const char* s = "exit(1)";', "void f() { throw; }",
        "void f() { throw std::bad_alloc(); }", "int n = snprintf(b, 9, \"\");", "session.fork(1);", "stop.exit(2);",
        "// TODO(#12): later", "int aborted(int); int y = aborted(1);", "absl::PrintF x;",
    ]

    def test_each_forbidden_thing_is_found(self):
        for text in self.FORBIDDEN:
            with self.subTest(text):
                self.write("lib/base/a.cc", "\n" + text + "\n")
                status, out = self.run_check("banned.py")
                self.assertEqual(status, 1)
                self.assertIn("lib/base/a.cc:2", out)

    def test_lookalikes_are_let_through(self):
        for text in self.ALLOWED:
            with self.subTest(text):
                self.write("backends/ref/a.cc", text + "\n")
                status, out = self.run_check("banned.py")
                self.assertEqual(status, 0, out)


class Size(Tree):
    def test_over_budget_and_missing_files_are_found(self):
        (self.root / "tools/check/size.txt").write_text("2 lib/a.cc\n2 lib/b.cc\n")
        self.write("lib/a.cc", "1\n2\n3\n")
        status, out = self.run_check("size.py")
        self.assertEqual(status, 1)
        self.assertIn("lib/a.cc: 3 lines, the budget is 2", out)
        self.assertIn("lib/b.cc: has a budget", out)
        self.write("lib/a.cc", "1\n2\n")
        self.write("lib/b.cc", "1\n")
        self.assertEqual(self.run_check("size.py")[0], 0)


class Headers(Tree):
    def test_a_header_that_leans_on_its_includer_is_found(self):
        self.write("lib/base/a.cc", "#include <cstdint>\n\n#include \"lib/base/a.h\"\n")
        command = {"directory": str(self.root), "file": str(self.root / "lib/base/a.cc"),
                   "command": f"c++ -I{self.root} -o a.o -c {self.root}/lib/base/a.cc"}
        self.write("build/compile_commands.json", json.dumps([command]))
        args = (str(self.root), str(self.root / "build"))
        self.write("lib/base/a.h", "#pragma once\n#include <cstdint>\nstd::int64_t f();\n")
        self.assertEqual(self.run_check("headers.py", *args)[0], 0)
        self.write("lib/base/a.h", "#pragma once\nstd::int64_t f();\n")
        status, out = self.run_check("headers.py", *args)
        self.assertEqual(status, 1)
        self.assertIn("lib/base/a.h: does not compile alone", out)
        self.write("lib/base/a.h", "#include <cstdint>\nstruct Twice {};\n")
        self.assertEqual(self.run_check("headers.py", *args)[0], 1)


class Api(Tree):
    GOOD = """
typedef struct ponder_stats { uint64_t tokens; } ponder_stats;
PONDER_API(ANY) int32_t ponder_model_get_stats(const ponder_model *m, ponder_stats *stats, size_t stats_size,
                                               ponder_error **err);
"""
    BAD = [
        ("PONDER_API(SOME) int32_t ponder_model_x(void);", "unknown thread class"),
        ("PONDER_API(ANY) int ponder_model_x(void);", "fixed width"),
        ("PONDER_API(ANY) int32_t model_x(void);", "not ponder_noun_verb"),
        ("PONDER_API(ANY) int32_t ponder_model_x();", "not a prototype"),
        ("PONDER_API(ANY) int32_t ponder_model_x(const char *f, ...);", "varargs"),
        ("PONDER_API(ANY) int32_t ponder_model_x(ponder_stats stats);", "struct by value"),
        ("PONDER_API(ANY) int32_t ponder_model_x(ponder_stats *stats);", "needs size_t stats_size"),
        ("PONDER_API(ANY) int32_t ponder_model_x(ponder_error **err, int32_t n);", "must come last"),
        ("PONDER_EXPORT int32_t ponder_model_x(void);", "without PONDER_API"),
        ("PONDER_API(ANY) int32_t ponder_model_get_stats(void);", "declared twice"),
    ]

    def test_rules(self):
        self.write("ponder.h", self.GOOD)
        status, out = self.run_check("api.py", str(self.root / "ponder.h"))
        self.assertEqual(status, 0, out)
        for text, expected in self.BAD:
            with self.subTest(text):
                self.write("ponder.h", self.GOOD + text + "\n")
                status, out = self.run_check("api.py", str(self.root / "ponder.h"))
                self.assertEqual(status, 1)
                self.assertIn(expected, out)


if __name__ == "__main__":
    unittest.main()
