#!/usr/bin/env python3
"""Writes the GGUF form of a Qwen2 checkpoint in the Hugging Face layout, for comparisons.

    hf_to_gguf.py FOLDER OUT.gguf

The same weights, bit for bit: matrices stay in their stored type (BF16, F16 or F32), vectors become
F32, as llama.cpp wants them. No tokenizer is written ("no_vocab"): benchmarks feed token ids.
Standard library only. Not a converter for use: it knows one architecture and no tokenizer.
"""
import array
import json
import os
import struct
import sys

ALIGNMENT = 32
GGUF_VERSION = 3
KV_U32, KV_F32, KV_STRING = 4, 6, 8
# Stored type -> (GGUF tensor type, bytes per element, general.file_type of a model made of it).
TYPES = {"F32": (0, 4, 0), "F16": (1, 2, 1), "BF16": (30, 2, 32)}

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name):
    stem, _, kind = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{kind}"
    prefix = "model.layers."
    if stem.startswith(prefix):
        layer, _, part = stem[len(prefix):].partition(".")
        if part in LAYER_NAMES:
            return f"blk.{layer}.{LAYER_NAMES[part]}.{kind}"
    raise SystemExit(f"hf_to_gguf: tensor '{name}' is not part of the Qwen2 architecture")


def read_tensors(folder):
    """Yields (name, type, shape, file, offset, size) of all tensors in all shards."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index, encoding="utf-8") as f:
            shards = sorted(set(json.load(f)["weight_map"].values()))
    else:
        shards = ["model.safetensors"]
    for shard in shards:
        path = os.path.join(folder, shard)
        with open(path, "rb") as f:
            (header_size,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(header_size))
        for name, t in header.items():
            if name == "__metadata__":
                continue
            begin, end = t["data_offsets"]
            yield name, t["dtype"], t["shape"], path, 8 + header_size + begin, end - begin


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def key_value(key, kind, value):
    head = string(key) + struct.pack("<I", kind)
    if kind == KV_STRING:
        return head + string(value)
    return head + struct.pack("<I" if kind == KV_U32 else "<f", value)


def to_f32(data, dtype):
    if dtype == "F32":
        return data
    if dtype == "F16":
        values = struct.unpack(f"<{len(data) // 2}e", data)
        return struct.pack(f"<{len(values)}f", *values)
    halves = array.array("H", data)
    if sys.byteorder == "big":
        halves.byteswap()
    return b"".join(struct.pack("<I", h << 16) for h in halves)


def copy(source, offset, size, out):
    with open(source, "rb") as f:
        f.seek(offset)
        while size:
            chunk = f.read(min(size, 16 << 20))
            if not chunk:
                raise SystemExit(f"hf_to_gguf: {source} is cut short")
            out.write(chunk)
            size -= len(chunk)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__.strip())
    folder, out_path = sys.argv[1:]
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    if config.get("model_type") != "qwen2":
        raise SystemExit(f"hf_to_gguf: model_type is {config.get('model_type')!r}, only 'qwen2' is known")

    tensors, infos, offset = [], b"", 0
    for name, dtype, shape, path, at, size in read_tensors(folder):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        if dtype not in TYPES:
            raise SystemExit(f"hf_to_gguf: tensor '{name}' is {dtype}; known are {', '.join(TYPES)}")
        widen = len(shape) == 1
        kind, width, _ = TYPES["F32" if widen else dtype]
        bytes_out = size // TYPES[dtype][1] * width
        infos += string(gguf_name(name)) + struct.pack("<I", len(shape))
        infos += b"".join(struct.pack("<Q", n) for n in reversed(shape))
        infos += struct.pack("<IQ", kind, offset)
        tensors.append((path, at, size, dtype, widen, bytes_out))
        offset += -(-bytes_out // ALIGNMENT) * ALIGNMENT

    matrix_type = next(t[3] for t in tensors if not t[4])
    rope_theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    metadata = [
        ("general.architecture", KV_STRING, "qwen2"),
        ("general.name", KV_STRING, os.path.basename(os.path.abspath(folder))),
        ("general.file_type", KV_U32, TYPES[matrix_type][2]),
        ("general.alignment", KV_U32, ALIGNMENT),
        ("qwen2.block_count", KV_U32, config["num_hidden_layers"]),
        ("qwen2.context_length", KV_U32, config["max_position_embeddings"]),
        ("qwen2.embedding_length", KV_U32, config["hidden_size"]),
        ("qwen2.feed_forward_length", KV_U32, config["intermediate_size"]),
        ("qwen2.attention.head_count", KV_U32, config["num_attention_heads"]),
        ("qwen2.attention.head_count_kv", KV_U32, config["num_key_value_heads"]),
        ("qwen2.attention.layer_norm_rms_epsilon", KV_F32, config["rms_norm_eps"]),
        ("qwen2.rope.freq_base", KV_F32, rope_theta),
        ("qwen2.vocab_size", KV_U32, config["vocab_size"]),
        ("tokenizer.ggml.model", KV_STRING, "no_vocab"),
    ]
    head = b"GGUF" + struct.pack("<IQQ", GGUF_VERSION, len(tensors), len(metadata))
    head += b"".join(key_value(*kv) for kv in metadata) + infos
    head += b"\0" * (-len(head) % ALIGNMENT)

    with open(out_path, "wb") as out:
        out.write(head)
        for path, at, size, dtype, widen, bytes_out in tensors:
            if widen:
                with open(path, "rb") as f:
                    f.seek(at)
                    out.write(to_f32(f.read(size), dtype))
            else:
                copy(path, at, size, out)
            out.write(b"\0" * (-bytes_out % ALIGNMENT))


if __name__ == "__main__":
    main()
