#!/usr/bin/env python3
"""Writes unicode_tables.cc: the Unicode data that tokenization depends on, as the reference has it.

The ids of a tokenizer hang on which code points its reference takes for letters, digits or marks,
and that differs between the libraries inside the reference: its regular expressions know Unicode
16.0, its normaliser stopped at 9.0. So the tables are not taken from the current Unicode data but
read out of the reference, property by property. Needs the Python package `tokenizers` 0.23 and a
Python whose unicodedata is Unicode 16.0 (3.14), to check the two against each other.

    python3 unicode_tables_generate.py > unicode_tables.cc
"""
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp "
              "Cc Cf Cs Co Cn").split()
SCRIPTS = ("Arabic Armenian Bengali Bopomofo Cyrillic Devanagari Ethiopic Georgian Greek Han "
           "Hangul Hebrew Hiragana Katakana Khmer Lao Latin Myanmar Tamil Thai Tibetan").split()
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
EVERYTHING = "".join(map(chr, CODE_POINTS))
FORMS = {name: getattr(normalizers, name)() for name in ("NFC", "NFD", "NFKC", "NFKD")}


def matches(pattern):
    """The code points that a regular expression of one character matches in the reference."""
    rest = set(map(ord, normalizers.Replace(Regex(pattern), "").normalize_str(EVERYTHING)))
    return [c for c in CODE_POINTS if c not in rest]


def ranges(code_points):
    out = []
    for c in code_points:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(kind, name, values):
    print(f"const {kind} {name}[] = {{")
    line = "   "
    for v in values:
        if len(line) + len(v) + 2 > 98:
            print(line)
            line = "   "
        line += f" {v},"
    print(line)
    print("};")
    print(f"const size_t {name}Size = sizeof({name}) / sizeof({name}[0]);\n")


def emit_set(name, code_points):
    emit("CodePointRange", name, [f"{{{a:#x}, {b:#x}}}" for a, b in ranges(code_points)])


def main():
    assert unicodedata.unidata_version == "16.0.0", unicodedata.unidata_version
    category = {}
    for index, name in enumerate(CATEGORIES):
        if name == "Cs":  # never in UTF-8
            continue
        for c in matches(f"\\p{{{name}}}"):
            assert unicodedata.category(chr(c)) == name
            category[c] = index
    for c in range(0xD800, 0xE000):
        category[c] = CATEGORIES.index("Cs")

    print("// Written by unicode_tables_generate.py; do not edit.")
    print('#include "lib/text/unicode_tables.h"\n')
    print("namespace ponder::unicode_tables {\n")
    runs, last = [], None
    for c in range(0x110000):
        if category[c] != last:
            last = category[c]
            runs.append(f"{c << 8 | last:#x}")
    emit("uint32_t", "kCategoryRuns", runs)
    emit_set("kWord", matches("[[:word:]]"))
    emit_set("kAlphabetic", matches(r"\p{Alphabetic}"))
    spread = "".join("a" + chr(c) for c in CODE_POINTS)
    emit_set("kPunctuation", sorted(ord(p) for p, _ in pre_tokenizers.Punctuation()
                                    .pre_tokenize_str(spread) if len(p) == 1 and p != "a"))
    for script in SCRIPTS:
        emit_set(f"kScript{script}", matches(f"\\p{{{script}}}"))

    # Characters that match each other without regard to case: those of equal full case folding.
    classes = {}
    for c in CODE_POINTS:
        classes.setdefault(chr(c).casefold(), []).append(c)
    classes = sorted(v for v in classes.values() if len(v) > 1)
    cased = "".join(chr(c) for v in classes for c in v)
    for v in classes:
        for c in v:
            pattern = normalizers.Replace(Regex(f"(?i:\\x{{{c:x}}})"), "")
            rest = set(pattern.normalize_str(cased))
            found = sorted(ord(x) for x in cased if x not in rest)
            if found != v and len(chr(c).casefold()) == 1:  # others match sequences, too
                sys.exit(f"case of U+{c:04X}: {list(map(hex, found))} for {list(map(hex, v))}")
    assert max(map(len, classes)) <= 4
    emit("CaseClass", "kCaseClasses",
         ["{{" + ", ".join(f"{c:#x}" for c in v + [0] * (4 - len(v))) + "}}" for v in classes])
    lower = [(c, chr(c).lower()) for c in CODE_POINTS if chr(c).lower() != chr(c)]
    assert [c for c, s in lower if len(s) > 1] == [0x130]  # "i" and U+0307: a rule in unicode.cc
    emit("CodePointRange", "kLower", [f"{{{c:#x}, {ord(s[0]):#x}}}" for c, s in lower])

    classes_of = {}
    for c in CODE_POINTS:
        combining = unicodedata.combining(chr(c))
        if not combining:
            continue
        known = True
        for other in "\u0334\u0345\u0c4d":  # classes 1, 240 and 9
            for s in ("a" + other + chr(c), "a" + chr(c) + other):
                known &= FORMS["NFD"].normalize_str(s) == unicodedata.normalize("NFD", s)
        if known:
            classes_of[c] = combining
    runs, last = [], 0
    for c in range(0x110000):
        if classes_of.get(c, 0) != last:
            last = classes_of.get(c, 0)
            runs.append(f"{c << 8 | last:#x}")
    emit("uint32_t", "kCombiningRuns", ["0x0"] + runs)

    pool, canonical, compatible = [], [], []
    for c in CODE_POINTS:
        if 0xAC00 <= c < 0xD7A4:  # Hangul syllables: arithmetic
            continue
        nfd, nfkd = (FORMS[f].normalize_str(chr(c)) for f in ("NFD", "NFKD"))
        if nfd != chr(c):
            canonical.append(f"{{{c:#x}, {len(pool)}, {len(nfd)}}}")
            pool += map(ord, nfd)
        if nfkd != nfd:
            compatible.append(f"{{{c:#x}, {len(pool)}, {len(nfkd)}}}")
            pool += map(ord, nfkd)
    emit("char32_t", "kDecompositionPool", [f"{c:#x}" for c in pool])
    emit("Decomposition", "kCanonical", canonical)
    emit("Decomposition", "kCompatible", compatible)
    compositions = []
    for c in CODE_POINTS:
        parts = unicodedata.decomposition(chr(c)).split()
        if len(parts) != 2 or parts[0].startswith("<"):
            continue
        pair = "".join(chr(int(p, 16)) for p in parts)
        if FORMS["NFC"].normalize_str(pair) == chr(c):
            compositions.append((ord(pair[0]), ord(pair[1]), c))
    emit("Composition", "kCompositions",
         [f"{{{a:#x}, {b:#x}, {c:#x}}}" for a, b, c in sorted(compositions)])
    print("}  // namespace ponder::unicode_tables")


main()
