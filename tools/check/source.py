"""What the checks share: the tree's source files, and source text without comments and strings."""
import os
import pathlib
import re

SUFFIXES = {".h", ".hpp", ".c", ".cc", ".cu", ".cuh", ".inc"}

_TOKENS = re.compile(
    r"""//(?:\\\n|[^\n])*                        # line comment
      | /\*.*?\*/                                # block comment
      | R"(?P<d>[^()\s\\]{0,16})\(.*?\)(?P=d)"   # raw string
      | (?<![0-9a-zA-Z_])'(?:\\.|[^'\\\n])+'     # character, but not a digit separator
      | "(?:\\.|[^"\\\n])*"                      # string
    """,
    re.S | re.X,
)


def _blank(match):
    text = match[0]
    # Lines keep their numbers; include paths and string delimiters keep their place.
    inner = "" if text.startswith("/") else text[0] + text[-1]
    return inner + "\n" * text.count("\n")


def code_of(text):
    """The text with comments gone and the contents of strings and characters emptied."""
    return _TOKENS.sub(_blank, text)


def files(root, folders, suffixes=SUFFIXES):
    """Every source file below the folders, as paths relative to root, sorted."""
    found = []
    for folder in folders:
        for here, dirs, names in os.walk(root / folder):
            dirs[:] = [d for d in dirs if not d.startswith((".", "build"))]
            for name in names:
                path = pathlib.Path(here, name)
                if path.suffix in suffixes:
                    found.append(path.relative_to(root))
    return sorted(found)


def report(name, bad, summary):
    """Prints the findings or one line of good news; the exit status follows."""
    print("\n".join(bad) if bad else f"{name}: ok, {summary}")
    return 1 if bad else 0
