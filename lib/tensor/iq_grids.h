// The codebooks of the IQ weight types (blocks.h): constants of the GGUF file format.
//
// An entry is the ranks of a group's values among its levels, the first element lowest: 2 bits each
// for groups of eight, 3 bits each for groups of four.
#pragma once

#include <cstdint>

namespace ponder {

inline constexpr int8_t kIQ1Levels[4] = {-1, 0, 1, 0};  // three levels, as in the next
inline constexpr uint8_t kIQ2Levels[4] = {8, 25, 43, 0};
inline constexpr uint8_t kIQ3_XXSLevels[8] = {4, 12, 20, 28, 36, 44, 52, 62};
inline constexpr uint8_t kIQ3_SLevels[8] = {1, 3, 5, 7, 9, 11, 13, 15};

// Added to every element of an IQ1 group, or taken away.
inline constexpr float kIQ1Delta = 0.125f;

extern const uint16_t kIQ1Grid[2048];  // iq1_s and iq1_m
extern const uint16_t kIQ2_XXSGrid[256];
extern const uint16_t kIQ2_XSGrid[512];
extern const uint16_t kIQ2_SGrid[1024];
extern const uint16_t kIQ3_XXSGrid[256];
extern const uint16_t kIQ3_SGrid[512];

}  // namespace ponder
