#!/usr/bin/env python3
"""Writes tokenizer_cases.json: what `tokenizers` 0.23 makes of every part of a tokenizer.json.

Two small tokenizers (byte-level, and SentencePiece's kind) are changed one part at a time, and each
change is tried on a handful of texts chosen to tell the difference. Needs that Python package.

    python3 make_tokenizer_cases.py > tokenizer_cases.json
"""
import copy
import json
import sys

from tokenizers import Tokenizer


def visible():
    """GPT-2's alphabet: a visible character for each byte."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in kept]
    return {**{b: chr(b) for b in kept}, **{b: chr(256 + i) for i, b in enumerate(others)}}


def vocabulary(pieces, merges):
    vocab = {}
    for piece in pieces:
        vocab.setdefault(piece, len(vocab))
    pairs = []
    for merge in merges:
        left, right = merge.split(" ")
        vocab.setdefault(left + right, len(vocab))
        pairs.append([left, right])
    return vocab, pairs


def byte_level():
    merges = ["h e", "he l", "hel l", "hell o", "o r", "Ġ w", "l d", "Ġw or", "Ġwor ld", "Ġ Ġ",
              "ĠĠ ĠĠ", "Ċ Ċ", "1 2", "12 3", "' s", "t h", "th e", "Ġ the", "i n", "in g", "Ã ©",
              "c a", "ca f", "caf Ã©", "a b", "b c", "ab c", "a bc", "x x", "xx xx"]
    vocab, pairs = vocabulary(visible().values(), merges)
    vocab["Ġhello"] = len(vocab)  # no merge makes it: for ignore_merges
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                    "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": pairs}}


def sentence_piece():
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces += ["▁"] + [chr(c) for c in range(0x21, 0x7F)] + ["é", "漢"]
    merges = ["▁ t", "h e", "▁t he", "▁ ▁", "▁▁ ▁▁", "l l", "o r", "he ll", "hell o", "▁ hello",
              "▁ w", "▁w or", "l d", "▁wor ld"]
    vocab, pairs = vocabulary(pieces, merges)
    special = [{"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, c in enumerate(pieces[:3])]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                       {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]},
                               "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": pairs}}


BASES = {"bytes": byte_level(), "pieces": sentence_piece()}
TEXTS = ["", " ", "hello world", " hello  world", "the hello's the\n\nthing", "123 12 1a2",
         "café cafe\u0301", "漢字 é ½ ²", "\t \r\n x  \n", "abc, (x)! it'S it'ſ", "HELLO World İ",
         "\u00a0\u3000\u180e\u2028x\u0085y", "<s>hello</s> <t>  the<t>", "▁hello▁▁▁▁", "   ",
         "ﬁ Å ①"]


def added(content, **flags):
    token = {"content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return {**token, **flags}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_step(**flags):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": False, **flags}


def pre(*steps):
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}


def norm(*steps):
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
         r"\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [split(r"\p{N}{1,3}"), split(r"[一-龥぀-ゟ゠-ヿ]+"),
            split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
                  r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")]
BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]


def variants():
    yield "bytes", "as it is", {}
    yield "bytes", "prefix space", pre(byte_step(add_prefix_space=True, use_regex=True))
    yield "bytes", "no pattern", {"pre_tokenizer": byte_step()}
    yield "bytes", "ignore_merges", {"model": {"ignore_merges": True}}
    yield "bytes", "merges as strings", {"merges_as_strings": True}
    yield "bytes", "Qwen2", pre(split(QWEN2), byte_step())
    yield "bytes", "o200k", pre(split(O200K), byte_step())
    yield "bytes", "DeepSeek-V3", pre(*DEEPSEEK, byte_step())
    for behavior in BEHAVIORS:
        for invert in (False, True):
            yield ("bytes", f"Split {behavior} {'inverted' if invert else ''}",
                   pre(split(r"[lo]|\s", behavior, invert), byte_step()))
    yield "bytes", "Split at a string", pre(split("ll", "Removed", kind="String"), byte_step())
    yield "bytes", "Digits", pre({"type": "Digits", "individual_digits": True}, byte_step())
    yield ("bytes", "Digits together",
           pre({"type": "Digits", "individual_digits": False}, byte_step()))
    yield "bytes", "Whitespace", pre({"type": "Whitespace"}, byte_step())
    yield "bytes", "WhitespaceSplit", pre({"type": "WhitespaceSplit"}, byte_step())
    yield "bytes", "Punctuation", pre({"type": "Punctuation", "behavior": "Isolated"}, byte_step())
    yield "bytes", "CharDelimiterSplit", {"pre_tokenizer": {"type": "CharDelimiterSplit",
                                                            "delimiter": " "}}
    yield "bytes", "ByteLevel before a Split", pre(byte_step(), split("Ġ", "MergedWithNext"))
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase"):
        yield "bytes", form, {"normalizer": {"type": form}}
    yield "bytes", "Strip", norm({"type": "Strip", "strip_left": True, "strip_right": False})
    yield "bytes", "Replace", norm(
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "l"},
        {"type": "Prepend", "prepend": "he"})
    yield "bytes", "ByteLevel normalizer", {"normalizer": {"type": "ByteLevel"},
                                            "pre_tokenizer": None}
    for flags in ({}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True},
                  {"single_word": True}, {"normalized": True}, {"special": True},
                  {"normalized": True, "rstrip": True}):
        tokens = [added(c, **flags) for c in ("<t>", "the", "  ", "<s>", "É")]
        yield ("bytes", f"added {' '.join(flags)}",
               {"added_tokens": tokens, "normalizer": {"type": "Lowercase"}})
    yield "bytes", "longest added token", {"added_tokens": [added(c) for c in ("<", "<s", "<s>h")]}
    yield "bytes", "added token of the vocabulary", {"added_tokens": [added("hell", special=True)]}
    yield "bytes", "Roberta", {"post_processor": {
        "type": "RobertaProcessing", "sep": ["b", 65], "cls": ["a", 64], "trim_offsets": True,
        "add_prefix_space": True}}
    yield "bytes", "no decoder", {"decoder": None}

    yield "pieces", "as it is", {}
    yield "pieces", "no fallback", {"model": {"byte_fallback": False}}
    yield "pieces", "no fallback, no fusing", {"model": {"byte_fallback": False, "fuse_unk": False}}
    yield "pieces", "no unknown token", {"model": {"byte_fallback": False, "unk_token": None}}
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme,
                         "split": cut}
            yield ("pieces", f"Metaspace {scheme} {'split' if cut else ''}",
                   {"normalizer": None, "pre_tokenizer": metaspace, "decoder": metaspace})
    yield "pieces", "no Strip", {"decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}]}}
    yield "pieces", "prefix and suffix", {
        "normalizer": None, "model": {"end_of_word_suffix": "e", "byte_fallback": False}}
    yield "pieces", "normalized added token", {"more_added_tokens": [
        added("<t>", normalized=True), added(" the", normalized=True, special=True)]}


def main():
    out = {"bases": BASES, "variants": []}
    for base, name, change in variants():
        spec = copy.deepcopy(BASES[base])
        patch = {}
        for key, value in change.items():
            if key == "merges_as_strings":
                merges = [" ".join(m) for m in spec["model"]["merges"]]
                patch["model"] = {"merges": merges}
            elif key == "more_added_tokens":
                patch["added_tokens"] = spec["added_tokens"] + value
            else:
                patch[key] = value
        vocab = spec["model"]["vocab"]
        following = len(vocab)
        for token in patch.get("added_tokens", []):
            if token["content"] in vocab:
                token["id"] = vocab[token["content"]]
            else:
                token["id"], following = following, following + 1
        for key, value in patch.items():
            if key == "model":
                spec["model"].update(value)
            else:
                spec[key] = value
        tokenizer = Tokenizer.from_str(json.dumps(spec))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            case = {"text": text, "ids": ids}
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            if decoded != text:
                case["decoded"] = decoded
            cases.append(case)
        whole = tokenizer.encode(TEXTS[2], add_special_tokens=True).ids
        out["variants"].append({"base": base, "name": name, "patch": patch, "cases": cases,
                                "with_special": whole})
    text = json.dumps(out, ensure_ascii=True, separators=(",", ":"))
    print(text.replace('{"base"', '\n{"base"').replace('],"variants"', '],\n"variants"'))
    print(len(out["variants"]), "variants", file=sys.stderr)


main()
