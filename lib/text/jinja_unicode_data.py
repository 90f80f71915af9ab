"""Writes jinja_unicode_data.inc: what Python's str methods know about characters, as C++ tables.

    python3 lib/text/jinja_unicode_data.py > lib/text/jinja_unicode_data.inc
"""
import unicodedata

BITS = [
    ("alpha", str.isalpha), ("decimal", str.isdecimal), ("digit", str.isdigit),
    ("numeric", str.isnumeric), ("printable", str.isprintable), ("upper", str.isupper),
    ("lower", str.islower), ("title", lambda c: unicodedata.category(c) == "Lt"),
    ("space", str.isspace), ("ident_start", str.isidentifier),
    ("ident", lambda c: ("a" + c).isidentifier()),
]


def mask(cp):
    return sum(1 << i for i, (_, test) in enumerate(BITS) if test(chr(cp)))


def rows(items, width=100):
    line = " "
    for item in items:
        if len(line) + len(item) + 2 > width:
            print(line)
            line = " "
        line += " " + item + ","
    print(line)


def case_runs(mapping):
    """Groups cp -> cp+delta into (first, count, stride, delta)."""
    runs = []
    for cp in sorted(mapping):
        delta = mapping[cp] - cp
        if runs and runs[-1][3] == delta:
            first, count, stride, _ = runs[-1]
            if count == 1 and cp - first <= 2:
                runs[-1] = (first, 2, cp - first, delta)
                continue
            if count > 1 and cp == first + count * stride:
                runs[-1] = (first, count + 1, stride, delta)
                continue
        runs.append((cp, 1, 1, delta))
    return runs


print("// Made by jinja_unicode_data.py from Unicode %s. Do not edit." % unicodedata.unidata_version)
print()
print("// Character classes: (first code point << 11) | class bits, sorted; a row holds up to the next.")
print("constexpr uint32_t kClasses[] = {")
entries, last = [], None
for cp in range(0x110000):
    m = mask(cp)
    if m != last:
        entries.append("0x%x" % ((cp << 11) | m))
        last = m
rows(entries)
print("};")

full = {"Lower": str.lower, "Upper": str.upper, "Title": str.title, "Fold": str.casefold}
for name, fn in full.items():
    simple, special = {}, {}
    for cp in range(0x110000):
        out = fn(chr(cp))
        if name == "Title" and out == chr(cp).upper():
            continue
        if name == "Fold" and out == chr(cp).lower():
            continue
        if name not in ("Title", "Fold") and out == chr(cp):
            continue
        if len(out) == 1:
            simple[cp] = ord(out)
        else:
            special[cp] = [ord(c) for c in out] + [0] * (3 - len(out))
    print()
    note = {"Title": "; only where it differs from upper", "Fold": "; only where it differs from lower"}
    print("// Mapping to %s case%s: runs of first, count, stride, delta." % (name.lower(), note.get(name, "")))
    print("constexpr CaseRun k%sRuns[] = {" % name)
    rows(["{0x%x, %d, %d, %d}" % run for run in case_runs(simple)])
    print("};")
    print("constexpr CaseSpecial k%sSpecials[] = {" % name)
    rows(["{0x%x, {0x%x, 0x%x, 0x%x}}" % (cp, *v) for cp, v in sorted(special.items())])
    print("};")
