// From the file's order to panels: each byte array of the stored blocks is cut into 4-byte words,
// and word w of stored block u of all 64 columns becomes 256 consecutive bytes, so that a vector
// register loads one word of many columns. With U = k / unit stored blocks per column a block holds
//
//   quants        [U][words][64][4]   qs or ql
//   further bits  [U][words][64][4]   qh, hmask; then signs
//   scales        [U][words][64][4]   scales, scales_l
//   2-byte fields [U][64] each        d; then m, dmin or scales_h; MXFP4's e is [U][64] bytes
//
// with changes that cost little here and save work at every use: q8_0's numbers have their top bit
// flipped, which makes them the unsigned q of quant.h; the fifth bits of q5_0 and q5_1 are dealt
// out so that bit j of byte b belongs to element 4 j + b; and what q5_k and q6_k multiply together
// lies together, so that a single row's product reads memory from front to back:
//
//   q5_k  for each two sub-blocks, for each half of their 8 words of qs: a word of fifth bits, of
//         which bits 2 m and 2 m + 1 of byte b belong to byte b of the m-th of four words of qs
//   q6_k  words w and w + 8 of each half of ql, then w of that half of qh
#include <cstring>

#include "backends/onednn/quant.h"
#include "lib/tensor/blocks.h"

namespace ponder::cpu {
namespace {

// What absent columns are made of. All types take zeros for small finite numbers.
constexpr std::byte kNothing[kQuantBlock / kBlock * sizeof(BlockQ8_0)] = {};

struct Source {
  const std::byte* columns[kPanel];
  int64_t blocks;  // stored blocks of a column
  int64_t bytes;   // of one

  const std::byte* at(int64_t column, int64_t block) const {
    return columns[column] + block * bytes;
  }
};

Source make_source(const std::byte* const* columns, int64_t k, QuantType type) {
  Source source;
  source.blocks = k / kQuantFormats[type].unit;
  source.bytes = kQuantFormats[type].bytes;
  for (int64_t c = 0; c < kPanel; ++c) {
    source.columns[c] = columns[c] != nullptr ? columns[c] : kNothing;
  }
  return source;
}

typedef uint32_t Words __attribute__((vector_size(16)));

Words load_words(const std::byte* p) {
  Words v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

struct InOrder {
  constexpr int operator()(int word) const { return word; }
};
// The array of kBytes bytes at `offset` of the stored blocks. `flip` is XORed into every word. Word
// w of all columns becomes row place(w).
template <int kBytes, typename Place = InOrder>
std::byte* pack_words(const Source& source, int64_t offset, std::byte* out, uint32_t flip = 0,
                      Place place = {}) {
  static_assert(kBytes % 4 == 0);
  constexpr int kWords = kBytes / 4;
  for (int64_t u = 0; u < source.blocks; ++u, out += kWords * kPanel * 4) {
    if constexpr (kWords % 4 == 0) {
      for (int64_t c = 0; c < kPanel; c += 4) {
        const std::byte* const rows[4] = {source.at(c, u) + offset, source.at(c + 1, u) + offset,
                                          source.at(c + 2, u) + offset,
                                          source.at(c + 3, u) + offset};
        for (int w = 0; w < kWords; w += 4) {  // a transposition of 4 x 4 words
          const Words a = load_words(rows[0] + w * 4), b = load_words(rows[1] + w * 4);
          const Words d = load_words(rows[2] + w * 4), e = load_words(rows[3] + w * 4);
          const Words ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
          const Words ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
          const Words de_low = __builtin_shufflevector(d, e, 0, 4, 1, 5);
          const Words de_high = __builtin_shufflevector(d, e, 2, 6, 3, 7);
          const Words result[4] = {__builtin_shufflevector(ab_low, de_low, 0, 1, 4, 5) ^ flip,
                                   __builtin_shufflevector(ab_low, de_low, 2, 3, 6, 7) ^ flip,
                                   __builtin_shufflevector(ab_high, de_high, 0, 1, 4, 5) ^ flip,
                                   __builtin_shufflevector(ab_high, de_high, 2, 3, 6, 7) ^ flip};
          for (int i = 0; i < 4; ++i) {
            std::memcpy(out + (place(w + i) * kPanel + c) * 4, &result[i], sizeof(result[i]));
          }
        }
      }
    } else {
      for (int64_t c = 0; c < kPanel; ++c) {
        for (int w = 0; w < kWords; ++w) {
          std::memcpy(out + (place(w) * kPanel + c) * 4, source.at(c, u) + offset + w * 4, 4);
        }
      }
    }
  }
  return out;
}

// Bits 4 j + b of the word to bit j of byte b.
uint32_t deal_bits(uint32_t bits) {
  uint32_t dealt = 0;
  for (int b = 0; b < 4; ++b) {
    // Every fourth bit, gathered: pairs, then fours, then eight.
    uint32_t v = bits >> b & 0x11111111u;
    v = (v | v >> 3) & 0x03030303u;
    v = (v | v >> 6) & 0x000f000fu;
    v = (v | v >> 12) & 0xffu;
    dealt |= v << (8 * b);
  }
  return dealt;
}

std::byte* pack_fifth_bits(const Source& source, int64_t offset, std::byte* out) {
  for (int64_t u = 0; u < source.blocks; ++u) {
    for (int64_t c = 0; c < kPanel; ++c, out += 4) {
      uint32_t word;
      std::memcpy(&word, source.at(c, u) + offset, sizeof(word));
      word = deal_bits(word);
      std::memcpy(out, &word, sizeof(word));
    }
  }
  return out;
}

bool non_finite_f16(uint16_t bits) { return (bits & 0x7c00u) == 0x7c00u; }

std::byte* pack_halves(const Source& source, int64_t offset, std::byte* out, bool& bad,
                       bool is_float = true) {
  uint32_t any = 0;
  for (int64_t u = 0; u < source.blocks; ++u) {
    for (int64_t c = 0; c < kPanel; ++c, out += 2) {
      uint16_t half;
      std::memcpy(&half, source.at(c, u) + offset, sizeof(half));
      any |= non_finite_f16(half) ? 1u : 0u;
      std::memcpy(out, &half, sizeof(half));
    }
  }
  bad = bad || (is_float && any != 0);
  return out;
}

template <typename Block, QuantType kType>
constexpr bool fits() {
  return kQuantFormats[kType].bytes == sizeof(Block);
}
static_assert(fits<BlockQ4_0, kQuantQ4_0>() && fits<BlockQ4_1, kQuantQ4_1>() &&
              fits<BlockQ5_0, kQuantQ5_0>() && fits<BlockQ5_1, kQuantQ5_1>() &&
              fits<BlockQ8_0, kQuantQ8_0>() && fits<BlockQ2_K, kQuantQ2_K>() &&
              fits<BlockQ3_K, kQuantQ3_K>() && fits<BlockQ4_K, kQuantQ4_K>() &&
              fits<BlockQ5_K, kQuantQ5_K>() && fits<BlockQ6_K, kQuantQ6_K>() &&
              fits<BlockIQ4_NL, kQuantIQ4_NL>() && fits<BlockIQ4_XS, kQuantIQ4_XS>() &&
              fits<BlockMXFP4, kQuantMXFP4>() && fits<BlockIQ1_S, kQuantIQ1_S>() &&
              fits<BlockIQ1_M, kQuantIQ1_M>() && fits<BlockIQ2_XXS, kQuantIQ2_XXS>() &&
              fits<BlockIQ2_XS, kQuantIQ2_XS>() && fits<BlockIQ2_S, kQuantIQ2_S>() &&
              fits<BlockIQ3_XXS, kQuantIQ3_XXS>() && fits<BlockIQ3_S, kQuantIQ3_S>() &&
              fits<BlockTQ1_0, kQuantTQ1_0>() && fits<BlockTQ2_0, kQuantTQ2_0>());

// ---- one function per type ---------------------------------------------------------------------

template <typename Block, QuantType kType>
bool pack_nibbles(const std::byte* const* columns, int64_t k, std::byte* out) {
  const Source source = make_source(columns, k, kType);
  bool bad = false;
  out = pack_words<sizeof(Block::qs)>(source, offsetof(Block, qs), out);
  if constexpr (requires { Block::qh; }) {
    out = pack_fifth_bits(source, offsetof(Block, qh), out);
  }
  out = pack_halves(source, offsetof(Block, d), out, bad);
  if constexpr (requires { Block::m; }) pack_halves(source, offsetof(Block, m), out, bad);
  return bad;
}

bool pack_q8_0(const std::byte* const* columns, int64_t k, std::byte* out) {
  using Block = BlockQ8_0;
  const Source source = make_source(columns, k, kQuantQ8_0);
  bool bad = false;
  out = pack_words<sizeof(Block::qs)>(source, offsetof(Block, qs), out, 0x80808080u);
  pack_halves(source, offsetof(Block, d), out, bad);
  return bad;
}

bool pack_mxfp4(const std::byte* const* columns, int64_t k, std::byte* out) {
  using Block = BlockMXFP4;
  const Source source = make_source(columns, k, kQuantMXFP4);
  out = pack_words<sizeof(Block::qs)>(source, offsetof(Block, qs), out);
  bool bad = false;
  for (int64_t u = 0; u < source.blocks; ++u) {
    for (int64_t c = 0; c < kPanel; ++c) {
      const std::byte e = source.at(c, u)[offsetof(Block, e)];
      // 12 * 2^(253 - 128) is no float any more.
      bad = bad || std::to_integer<int>(e) >= 253;
      *out++ = e;
    }
  }
  return bad;
}

// Whether the d that lies in quarters in the top bits of the scales is none or infinite.
bool non_finite_d(const BlockIQ1_M& block) {
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= uint32_t{block.scales[i]} >> 12 << (4 * i);
  return non_finite_f16(static_cast<uint16_t>(bits));
}

// Types of 256 elements differ in which arrays they have.
template <typename Block, QuantType kType>
bool pack_super(const std::byte* const* columns, int64_t k, std::byte* out) {
  const Source source = make_source(columns, k, kType);
  bool bad = false;
  if constexpr (requires { Block::ql; }) {
    out = pack_words<sizeof(Block::ql)>(source, offsetof(Block, ql), out);
  } else {
    out = pack_words<sizeof(Block::qs)>(source, offsetof(Block, qs), out);
  }
  if constexpr (requires { Block::qh; }) {
    out = pack_words<sizeof(Block::qh)>(source, offsetof(Block, qh), out);
  }
  if constexpr (requires { Block::hmask; }) {
    out = pack_words<sizeof(Block::hmask)>(source, offsetof(Block, hmask), out);
  }
  if constexpr (requires { Block::signs; }) {
    out = pack_words<sizeof(Block::signs)>(source, offsetof(Block, signs), out);
  }
  if constexpr (requires { Block::scales; }) {
    out = pack_words<sizeof(Block::scales)>(source, offsetof(Block, scales), out);
  }
  if constexpr (requires { Block::scales_l; }) {
    out = pack_words<sizeof(Block::scales_l)>(source, offsetof(Block, scales_l), out);
  }
  if constexpr (requires { Block::d; }) {
    out = pack_halves(source, offsetof(Block, d), out, bad);
  } else {
    for (int64_t u = 0; u < source.blocks; ++u) {
      for (int64_t c = 0; c < kPanel; ++c) {
        Block block;
        std::memcpy(&block, source.at(c, u), sizeof(block));
        bad = bad || non_finite_d(block);
      }
    }
  }
  if constexpr (requires { Block::dmin; }) {
    pack_halves(source, offsetof(Block, dmin), out, bad);
  }
  if constexpr (requires { Block::scales_h; }) {
    pack_halves(source, offsetof(Block, scales_h), out, bad, /*is_float=*/false);
  }
  return bad;
}

bool pack_q5_k(const std::byte* const* columns, int64_t k, std::byte* out) {
  using Block = BlockQ5_K;
  const Source source = make_source(columns, k, kQuantQ5_K);
  constexpr auto kPlace = [](int word) { return word / 4 * 5 + 1 + word % 4; };
  pack_words<sizeof(Block::qs)>(source, offsetof(Block, qs), out, 0, kPlace);
  uint32_t stored[8][kPanel], bits[kPanel];  // word, column
  pack_words<sizeof(Block::qh)>(source, offsetof(Block, qh), reinterpret_cast<std::byte*>(stored));
  for (int i = 0; i < 8; ++i, out += 5 * sizeof(bits)) {
    for (int64_t c = 0; c < kPanel; ++c) {
      bits[c] = 0;
      for (int m = 0; m < 4; ++m) {
        bits[c] |= (stored[i % 2 * 4 + m][c] >> (i / 2 * 2) & 0x03030303u) << (2 * m);
      }
    }
    std::memcpy(out, bits, sizeof(bits));
  }
  bool bad = false;
  out = pack_words<sizeof(Block::scales)>(source, offsetof(Block, scales), out);
  out = pack_halves(source, offsetof(Block, d), out, bad);
  pack_halves(source, offsetof(Block, dmin), out, bad);
  return bad;
}

bool pack_q6_k(const std::byte* const* columns, int64_t k, std::byte* out) {
  using Block = BlockQ6_K;
  const Source source = make_source(columns, k, kQuantQ6_K);
  constexpr auto kLow = [](int word) { return (word / 16 * 8 + word % 8) * 3 + word / 8 % 2; };
  constexpr auto kHigh = [](int word) { return word * 3 + 2; };
  pack_words<sizeof(Block::ql)>(source, offsetof(Block, ql), out, 0, kLow);
  pack_words<sizeof(Block::qh)>(source, offsetof(Block, qh), out, 0, kHigh);
  out += (sizeof(Block::ql) + sizeof(Block::qh)) * kPanel;
  bool bad = false;
  out = pack_words<sizeof(Block::scales)>(source, offsetof(Block, scales), out);
  pack_halves(source, offsetof(Block, d), out, bad);
  return bad;
}

}  // namespace

const QuantPackFn kQuantPack[kQuantTypes] = {
    pack_nibbles<BlockQ4_0, kQuantQ4_0>,
    pack_nibbles<BlockQ4_1, kQuantQ4_1>,
    pack_nibbles<BlockQ5_0, kQuantQ5_0>,
    pack_nibbles<BlockQ5_1, kQuantQ5_1>,
    pack_q8_0,
    pack_super<BlockQ2_K, kQuantQ2_K>,
    pack_super<BlockQ3_K, kQuantQ3_K>,
    pack_super<BlockQ4_K, kQuantQ4_K>,
    pack_q5_k,
    pack_q6_k,
    pack_nibbles<BlockIQ4_NL, kQuantIQ4_NL>,
    pack_super<BlockIQ4_XS, kQuantIQ4_XS>,
    pack_mxfp4,
    pack_super<BlockIQ1_S, kQuantIQ1_S>,
    pack_super<BlockIQ1_M, kQuantIQ1_M>,
    pack_super<BlockIQ2_XXS, kQuantIQ2_XXS>,
    pack_super<BlockIQ2_XS, kQuantIQ2_XS>,
    pack_super<BlockIQ2_S, kQuantIQ2_S>,
    pack_super<BlockIQ3_XXS, kQuantIQ3_XXS>,
    pack_super<BlockIQ3_S, kQuantIQ3_S>,
    pack_super<BlockTQ1_0, kQuantTQ1_0>,
    pack_super<BlockTQ2_0, kQuantTQ2_0>,
};

}  // namespace ponder::cpu
