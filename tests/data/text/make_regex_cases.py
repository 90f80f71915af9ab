#!/usr/bin/env python3
"""Writes regex_cases.json: what Oniguruma, by way of `tokenizers` 0.23, matches.

Every pattern is tried on every text; what it matches is replaced by "¦", so empty matches show.

    python3 make_regex_cases.py > regex_cases.json
"""
import json

from tokenizers import Regex, normalizers

PATTERNS = [
    # those of real tokenizers
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r" ?[^(\s|[.,!?…。，、।۔،])]+", r"[一-龥぀-ゟ゠-ヿ]+", r"\p{N}{1,3}", r"[^\r\n]+|[\r\n]+",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", r"\s+$", r"(?:\r?\n)+(?!\r?\n)",
    # choices and repeats
    r"a|ab|abc", r"(?:a|ab)(?:c|bcd)", r"x*", r"x+?", r"x*?y", r"x??", r"(?:ab)*?c", r"x{2}",
    r"x{2,}",
    r"x{,2}", r"x{1,2}?", r"x{2}?", r"x{1,2}+", r"x++x", r"x*+", r"(?>x+)x", r"(?>a|ab)c", r"(x|)+",
    r"(x*)*y", r"(?:x?){3}y", r"(a|b|\p{L}{2})*?c", r"{", r"a{x}", r"x{1,2}{2}", r"(?:){5}x",
    # places
    r"^.", r".$", r"^", r"$", r"\Aa|c\z", r"\n\Z", r"\b", r"\B.", r"\bhe", r"(?=[A-Z])",
    r"(?![a-z]).",
    r"(?<=a|bc)d", r"(?<!\p{L})\p{L}", r"(?<=\d)(?=(?:\d{3})+(?!\d))", r"(?<!^)b", r"(?<=(?<=a)b)c",
    # sets
    r"\s", r"\S", r"\w", r"[\w]", r"\W", r"\d", r"\D", r"\h", r".", r"(?m:.)", r"\R", r"\N", r"\O",
    r"[a-c[x-z]]+", r"[^a-c[x-z]]+", r"[a-z&&[^aeiou]]+", r"[\w&&[^\d]&&\p{Ll}]+", r"[]a]",
    r"[^]a]",
    r"[a-]", r"[-a]", r"[a\-c]", r"[\]\[]", r"[[:alpha:]]+", r"[[:^alpha:]]+", r"[[:punct:]]",
    r"[^[:space:]]+", r"[[:digit:]a]", r"[[:alnum:]]+",
    r"\p{L}", r"\p{^L}", r"\P{L}", r"\P{^L}", r"\p{Lu}", r"\p{ lower case_letter }", r"\p{Greek}",
    r"\p{Cyrillic}+|\p{Hangul}+|\p{Hiragana}+", r"\p{M}", r"\p{Sc}", r"\p{Alphabetic}", r"\p{Any}",
    r"\x41", r"\x{41}", r"\u00e9", r"\t|\n|\r|\f|\v|\a|\e", r"\.", r"\012", r"\-",
    r"[\x{61}-\x{63}]",
    # case
    r"(?i)k", r"(?i)[k-s]+", r"(?i:he)L", r"a(?i)b|c", r"(?i:a(?-i)b)", r"(?i:[^s])", r"(?i)ς",
    r"(?i)é",
    r"(?i:\p{Lu})", r"(?i:[\p{Lu}1])", r"(?i:[^\p{Lu}])", r"(?i)ǆ", r"(?x) a  b # c",
    r"(?#a comment)b", r"(?<name>b)", r"(b)(c)",
]
TEXTS = ["", "abc", "abcd bcd", "xxx xxy", "xy", "it's IT'S it'ſ we'LL", "a\nb\r\nc\n",
         "  \t\n x  ",
         "he said: Hello, WORLD!", "1234567 ١٢٣ Ⅻ ½²", "漢字かなカナ한글 ελλη кир", "é e\u0301 É",
         "\u00a0\u180e\u2028\u0085\u200b\u3000x", "K k Å ſ ς σ Σ ǅ ǆ İ ı", "a]b[c-d\\e{2}",
         "$€+<>^`|~_"]


def main():
    out = []
    for pattern in PATTERNS:
        replace = normalizers.Replace(Regex(pattern), "¦")
        out.append({"pattern": pattern, "replaced": [replace.normalize_str(t) for t in TEXTS]})
    text = json.dumps({"texts": TEXTS, "patterns": out}, separators=(",", ":"))
    print(text.replace('{"pattern"', '\n{"pattern"'))


main()
