#include <cstring>

#include "backends/cuda/quant_layout.h"
#include "lib/tensor/blocks.h"

namespace ponder::cuda {
namespace {

// A record under way.
struct Record {
  RecordLayout layout;
  uint8_t* bytes;

  uint8_t* at(int field, int piece) const {
    return bytes + layout.offset(field) + piece * layout.fields[field].bytes;
  }
  template <typename T>
  void put(int field, int byte, T value) const {
    std::memcpy(at(field, 0) + byte, &value, sizeof(value));
  }
  void put_bytes(int field, int byte, const void* from, size_t n) const {
    std::memcpy(at(field, 0) + byte, from, n);
  }
};

// Codes of 32 inputs in the forms of quant_layout.h; code(i) is input i's.
template <typename Code>
void put_nibbles(const Record& r, int field, int sub, const Code& code) {
  for (int i = 0; i < 16; ++i) {
    r.at(field, sub)[i] = static_cast<uint8_t>((code(i) & 15) | (code(16 + i) & 15) << 4);
  }
}
template <typename Code>
void put_pairs(const Record& r, int field, int sub, const Code& code) {
  for (int i = 0; i < 16; ++i) {
    r.at(field, sub)[i] = static_cast<uint8_t>((code(2 * i) & 15) | (code(2 * i + 1) & 15) << 4);
  }
}
template <typename Code>
void put_crumbs(const Record& r, int field, int sub, const Code& code) {
  for (int i = 0; i < 32; ++i) {
    r.at(field, sub)[i / 16 * 4 + i % 4] |=
        static_cast<uint8_t>((code(i) & 3) << (2 * (i % 16 / 4)));
  }
}
template <typename Code>
void put_bits(const Record& r, int field, int sub, const Code& code) {
  uint32_t word = 0;
  for (int i = 0; i < 32; ++i) word |= static_cast<uint32_t>(code(i) & 1) << i;
  r.put(field, 4 * sub, word);
}

int half_byte(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }
int bit_of(const uint8_t* bytes, int i) { return bytes[i / 8] >> (i % 8) & 1; }
int two_bits(const uint8_t* qs, int i) {
  return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}
int k_nibble(const uint8_t* qs, int i) {
  const int byte = qs[i / 64 * 32 + i % 32];
  return i / 32 % 2 == 0 ? byte & 15 : byte >> 4;
}

// The simple types: block `sub` of the record.
void put(const Record& r, int sub, const BlockQ4_0& x) {
  put_nibbles(r, 0, sub, [&](int i) { return half_byte(x.qs, i); });
  r.put(1, 2 * sub, x.d);
}
void put(const Record& r, int sub, const BlockQ4_1& x) {
  put_nibbles(r, 0, sub, [&](int i) { return half_byte(x.qs, i); });
  r.put(1, 2 * sub, x.d);
  r.put(1, 16 + 2 * sub, x.m);
}
void put(const Record& r, int sub, const BlockQ5_0& x) {
  put_nibbles(r, 0, sub, [&](int i) { return half_byte(x.qs, i); });
  r.put(1, 2 * sub, x.d);
  put_bits(r, 2, sub, [&](int i) { return bit_of(x.qh, i); });
}
void put(const Record& r, int sub, const BlockQ5_1& x) {
  put_nibbles(r, 0, sub, [&](int i) { return half_byte(x.qs, i); });
  r.put(1, 2 * sub, x.d);
  r.put(1, 16 + 2 * sub, x.m);
  put_bits(r, 2, sub, [&](int i) { return bit_of(x.qh, i); });
}
void put(const Record& r, int sub, const BlockQ8_0& x) {
  r.put_bytes(0, 32 * sub, x.qs, 32);
  r.put(1, 2 * sub, x.d);
}
void put(const Record& r, int sub, const BlockIQ4_NL& x) {
  put_pairs(r, 0, sub, [&](int i) { return half_byte(x.qs, i); });
  r.put(1, 2 * sub, x.d);
}
void put(const Record& r, int sub, const BlockMXFP4& x) {
  put_pairs(r, 0, sub, [&](int i) { return half_byte(x.qs, i); });
  r.put(1, sub, x.e);
}

// The super-blocks: all of the record.
void put_d(const Record& r, int field, uint16_t d) { r.put(field, 0, d); }
void put_d(const Record& r, int field, uint16_t d, uint16_t dmin) {
  r.put(field, 0, d);
  r.put(field, 2, dmin);
}
void put(const Record& r, int, const BlockQ2_K& x) {
  r.put_bytes(0, 0, x.scales, 16);
  for (int j = 0; j < 8; ++j) {
    put_crumbs(r, 1, j, [&](int i) { return two_bits(x.qs, 32 * j + i); });
  }
  put_d(r, 2, x.d, x.dmin);
}
void put(const Record& r, int, const BlockQ3_K& x) {
  for (int b = 0; b < 16; ++b) r.put(0, b, static_cast<int8_t>(q3_k_scale(x.scales, b) - 32));
  for (int j = 0; j < 8; ++j) {
    put_crumbs(r, 1, j, [&](int i) { return two_bits(x.qs, 32 * j + i); });
    put_bits(r, 2, j, [&](int i) { return x.hmask[i] >> j; });
  }
  put_d(r, 3, x.d);
}
void put_k_scales(const Record& r, int field, const uint8_t (&scales)[12]) {
  for (int b = 0; b < 8; ++b) {
    const ScaleMin s = k_scale_min(scales, b);
    r.put(field, b, s.scale);
    r.put(field, 8 + b, s.min);
  }
}
void put(const Record& r, int, const BlockQ4_K& x) {
  for (int j = 0; j < 8; ++j) {
    put_nibbles(r, 0, j, [&](int i) { return k_nibble(x.qs, 32 * j + i); });
  }
  put_k_scales(r, 1, x.scales);
  put_d(r, 2, x.d, x.dmin);
}
void put(const Record& r, int, const BlockQ5_K& x) {
  for (int j = 0; j < 8; ++j) {
    put_nibbles(r, 0, j, [&](int i) { return k_nibble(x.qs, 32 * j + i); });
    put_bits(r, 2, j, [&](int i) { return x.qh[i] >> j; });
  }
  put_k_scales(r, 1, x.scales);
  put_d(r, 3, x.d, x.dmin);
}
void put(const Record& r, int, const BlockQ6_K& x) {
  for (int j = 0; j < 8; ++j) {
    const int half = j / 4, quarter = j % 4;
    put_nibbles(r, 0, j, [&](int i) {
      const int byte = x.ql[64 * half + 32 * (quarter % 2) + i];
      return quarter < 2 ? byte & 15 : byte >> 4;
    });
    put_crumbs(r, 2, j, [&](int i) { return x.qh[32 * half + i] >> (2 * quarter); });
  }
  r.put_bytes(1, 0, x.scales, 16);
  put_d(r, 3, x.d);
}
void put(const Record& r, int, const BlockIQ4_XS& x) {
  for (int j = 0; j < 8; ++j) {
    put_pairs(r, 0, j, [&](int i) { return half_byte(x.qs + 16 * j, i); });
    const int low = x.scales_l[j / 2];
    const int scale = (j % 2 == 0 ? low & 15 : low >> 4) + 16 * (x.scales_h >> (2 * j) & 3) - 32;
    r.put(1, j, static_cast<int8_t>(scale));
  }
  put_d(r, 2, x.d);
}
void put(const Record& r, int, const BlockIQ1_S& x) {
  r.put_bytes(0, 0, x.qs, sizeof(x.qs));
  r.put_bytes(1, 0, x.qh, sizeof(x.qh));
  put_d(r, 2, x.d);
}
void put(const Record& r, int, const BlockIQ1_M& x) {
  r.put_bytes(0, 0, x.scales, sizeof(x.scales));
  r.put_bytes(1, 0, x.qs, sizeof(x.qs));
  r.put_bytes(2, 0, x.qh, sizeof(x.qh));
}
void put(const Record& r, int, const BlockIQ2_XXS& x) {
  r.put_bytes(0, 0, x.qs, sizeof(x.qs));
  put_d(r, 1, x.d);
}
void put(const Record& r, int, const BlockIQ2_XS& x) {
  r.put_bytes(0, 0, x.qs, sizeof(x.qs));
  r.put_bytes(0, sizeof(x.qs), x.scales, sizeof(x.scales));
  put_d(r, 1, x.d);
}
void put(const Record& r, int, const BlockIQ2_S& x) {
  for (int j = 0; j < 8; ++j) {
    r.put_bytes(0, 8 * j, x.qs + 4 * j, 4);
    r.put_bytes(0, 8 * j + 4, x.signs + 4 * j, 4);
  }
  r.put_bytes(0, 64, x.scales, sizeof(x.scales));
  r.put_bytes(1, 0, x.qh, sizeof(x.qh));
  put_d(r, 2, x.d);
}
void put(const Record& r, int, const BlockIQ3_XXS& x) {
  r.put_bytes(0, 0, x.qs, sizeof(x.qs));
  r.put_bytes(1, 0, x.scales, sizeof(x.scales));
  put_d(r, 2, x.d);
}
void put(const Record& r, int, const BlockIQ3_S& x) {
  r.put_bytes(0, 0, x.qs, sizeof(x.qs));
  r.put_bytes(0, sizeof(x.qs), x.qh, sizeof(x.qh));
  r.put_bytes(1, 0, x.signs, sizeof(x.signs));
  r.put_bytes(1, sizeof(x.signs), x.scales, sizeof(x.scales));
  put_d(r, 2, x.d);
}
void put(const Record& r, int, const BlockTQ1_0& x) {
  constexpr uint8_t kPowers[5] = {1, 3, 9, 27, 81};
  const auto digit = [&](int i) {
    const int byte = i < 160 ? x.qs[i % 32] : i < 240 ? x.qs[32 + i % 16] : x.qh[i % 4];
    const int n = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
    return (byte * kPowers[n] & 255) * 3 >> 8;
  };
  for (int j = 0; j < 8; ++j) put_crumbs(r, 0, j, [&](int i) { return digit(32 * j + i); });
  put_d(r, 1, x.d);
}
void put(const Record& r, int, const BlockTQ2_0& x) {
  for (int j = 0; j < 8; ++j) {
    put_crumbs(r, 0, j, [&](int i) { return two_bits(x.qs, 32 * j + i); });
  }
  put_d(r, 1, x.d);
}

template <typename Block>
void put_all(const Record& r, const uint8_t* data, int count) {
  for (int i = 0; i < count; ++i) {
    Block block;
    std::memcpy(&block, data + static_cast<size_t>(i) * sizeof(Block), sizeof(Block));
    put(r, i, block);
  }
}

}  // namespace

void make_record(DType dtype, const uint8_t* data, int inputs, uint8_t* record) {
  const Record r{record_layout(dtype), record};
  const int blocks = inputs / static_cast<int>(dtype_info(dtype).block);
  switch (dtype) {
    case DType::kQ4_0:
      return put_all<BlockQ4_0>(r, data, blocks);
    case DType::kQ4_1:
      return put_all<BlockQ4_1>(r, data, blocks);
    case DType::kQ5_0:
      return put_all<BlockQ5_0>(r, data, blocks);
    case DType::kQ5_1:
      return put_all<BlockQ5_1>(r, data, blocks);
    case DType::kQ8_0:
      return put_all<BlockQ8_0>(r, data, blocks);
    case DType::kQ2_K:
      return put_all<BlockQ2_K>(r, data, blocks);
    case DType::kQ3_K:
      return put_all<BlockQ3_K>(r, data, blocks);
    case DType::kQ4_K:
      return put_all<BlockQ4_K>(r, data, blocks);
    case DType::kQ5_K:
      return put_all<BlockQ5_K>(r, data, blocks);
    case DType::kQ6_K:
      return put_all<BlockQ6_K>(r, data, blocks);
    case DType::kIQ4_NL:
      return put_all<BlockIQ4_NL>(r, data, blocks);
    case DType::kIQ4_XS:
      return put_all<BlockIQ4_XS>(r, data, blocks);
    case DType::kIQ1_S:
      return put_all<BlockIQ1_S>(r, data, blocks);
    case DType::kIQ1_M:
      return put_all<BlockIQ1_M>(r, data, blocks);
    case DType::kIQ2_XXS:
      return put_all<BlockIQ2_XXS>(r, data, blocks);
    case DType::kIQ2_XS:
      return put_all<BlockIQ2_XS>(r, data, blocks);
    case DType::kIQ2_S:
      return put_all<BlockIQ2_S>(r, data, blocks);
    case DType::kIQ3_XXS:
      return put_all<BlockIQ3_XXS>(r, data, blocks);
    case DType::kIQ3_S:
      return put_all<BlockIQ3_S>(r, data, blocks);
    case DType::kTQ1_0:
      return put_all<BlockTQ1_0>(r, data, blocks);
    case DType::kTQ2_0:
      return put_all<BlockTQ2_0>(r, data, blocks);
    case DType::kMXFP4:
      return put_all<BlockMXFP4>(r, data, blocks);
    default:
      return;
  }
}

}  // namespace ponder::cuda
