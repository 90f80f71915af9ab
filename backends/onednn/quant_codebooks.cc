#include "backends/onednn/quant_codebooks.h"

#include <cstddef>

#include "lib/tensor/iq_grids.h"

namespace ponder::cpu {
namespace {

// Entries of kElements ranks, each of kBits bits, as bytes.
template <int kElements, int kBits, typename Entry, size_t kEntries, typename Level>
void look_up(const uint16_t (&grid)[kEntries], const Level& level, Entry (&out)[kEntries]) {
  for (size_t i = 0; i < kEntries; ++i) {
    out[i] = 0;
    for (int e = 0; e < kElements; ++e) {
      const int rank = grid[i] >> (kBits * e) & ((1 << kBits) - 1);
      out[i] |= static_cast<Entry>(static_cast<uint8_t>(level(rank))) << (8 * e);
    }
  }
}

Codebooks make_codebooks() {
  Codebooks books;
  const auto iq2 = [](int rank) { return kIQ2Levels[rank]; };
  look_up<8, 2>(kIQ1Grid, [](int rank) { return 8 * kIQ1Levels[rank] + 8; }, books.iq1);
  look_up<8, 2>(kIQ2_XXSGrid, iq2, books.iq2_xxs);
  look_up<8, 2>(kIQ2_XSGrid, iq2, books.iq2_xs);
  look_up<8, 2>(kIQ2_SGrid, iq2, books.iq2_s);
  look_up<4, 3>(kIQ3_XXSGrid, [](int rank) { return kIQ3_XXSLevels[rank]; }, books.iq3_xxs);
  look_up<4, 3>(kIQ3_SGrid, [](int rank) { return kIQ3_SLevels[rank]; }, books.iq3_s);
  return books;
}

}  // namespace

const Codebooks& codebooks() {
  static const Codebooks books = make_codebooks();  // plain data, nothing to destroy
  return books;
}

}  // namespace ponder::cpu
