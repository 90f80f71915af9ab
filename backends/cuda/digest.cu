// Rows of logits, reduced for the host: the largest ones, and sums of exponentials that are those
// of lib/tensor/rows.h bit for bit. Three launches: parts of rows, the sums of blocks, whole rows.
//
// The largest are found without sorting: a threshold is put together bit by bit, each by counting
// how many keys would reach it; then what reaches it is written in order. So the result is the same
// whatever the order of the threads, and among equals the lower ids come first.

#include "backends/cuda/launch_digest.h"
#include "backends/cuda/simt.cuh"

namespace ponder::cuda {
namespace {

constexpr int kBlock = kDigestBlock;
constexpr int kPartThreads = 256, kPartItems = kDigestPart / kPartThreads;
constexpr int kRowThreads = 512;  // with 1024 the keys do not fit sm_100's registers
constexpr int kRowItems = static_cast<int>(kMostDigestParts) * kDigestLogits / kRowThreads;
constexpr int kSumThreads = 256, kSumLanes = 4, kSumBlocks = kSumThreads / kSumLanes;

// Ascends as the numbers do, equal for both zeros, above 0.
__device__ inline uint32_t key_of(float x) {
  const uint32_t u = __float_as_uint(x + 0.0f);
  const uint32_t key = u >> 31 != 0 ? ~u : u | 0x80000000u;
  return key > 0 ? key : 1;
}

__device__ inline int warp_count(int v) {
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}

// Of the block's keys, thread t holding those of places t + i * kThreads, writes the `wanted`
// largest, of equals those of lower places, in the order of their places: write(n, i) is called by
// the thread that holds the n-th of them as its i-th. At least `wanted` keys are not 0.
template <int kThreads, int kItems, typename Write>
__device__ inline void write_largest(const uint32_t (&keys)[kItems], int wanted, Write write) {
  constexpr int kWarps = kThreads / 32;
  __shared__ int counts[2][kWarps];
  __shared__ int before[kItems][kWarps];  // those above the threshold, and from bit 16 on equals
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;

  // The largest threshold that `wanted` keys reach, and how many are above it.
  uint32_t threshold = 0;
  int above = 0;
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t higher = threshold | 1u << bit;
    int reach = 0;
    PONDER_UNROLL for (int i = 0; i < kItems; ++i) reach += keys[i] >= higher ? 1 : 0;
    reach = warp_count(reach);
    if (lane == 0) counts[bit % 2][warp] = reach;
    __syncthreads();  // one is enough: the other half is written next
    reach = 0;
    for (int w = 0; w < kWarps; ++w) reach += counts[bit % 2][w];
    if (reach >= wanted) {
      threshold = higher;
    } else {
      above = reach;
    }
  }

  PONDER_UNROLL for (int i = 0; i < kItems; ++i) {
    const int mine = (keys[i] > threshold ? 1 : 0) | (keys[i] == threshold ? 1 << 16 : 0);
    const int all = warp_count(mine);
    if (lane == 0) before[i][warp] = all;
  }
  __syncthreads();
  if (warp == 0) {  // sums of what comes before; a run of the list for each lane
    constexpr int kRun = (kItems * kWarps + 31) / 32;
    int* const list = &before[0][0];
    int run = 0;
    for (int i = 0; i < kRun; ++i) {
      const int at = lane * kRun + i;
      if (at < kItems * kWarps) run += list[at];
    }
    int earlier = 0;
    for (int other = 0; other < 32; ++other) {
      const int theirs = __shfl_sync(~0u, run, other);
      if (other < lane) earlier += theirs;
    }
    for (int i = 0; i < kRun; ++i) {
      const int at = lane * kRun + i;
      if (at >= kItems * kWarps) continue;
      const int own = list[at];
      list[at] = earlier;
      earlier += own;
    }
  }
  __syncthreads();
  const int equals_wanted = wanted - above;
  PONDER_UNROLL for (int i = 0; i < kItems; ++i) {
    const bool is_above = keys[i] > threshold, is_equal = keys[i] == threshold;
    int earlier = (is_above ? 1 : 0) | (is_equal ? 1 << 16 : 0);
    // Lanes before this one: an inclusive sum without what is its own.
    const int own = earlier;
    for (int step = 1; step < 32; step *= 2) {
      const int theirs = __shfl_sync(~0u, earlier, lane - step < 0 ? lane : lane - step);
      if (lane >= step) earlier += theirs;
    }
    earlier += before[i][warp] - own;
    const int equals = earlier >> 16;
    if (is_above || (is_equal && equals < equals_wanted)) {
      write((earlier & 0xffff) + (equals < equals_wanted ? equals : equals_wanted), i);
    }
  }
}

// A part's candidates, its blocks' largest logits, and how many are damaged.
__global__ void __launch_bounds__(kPartThreads)
    digest_part(Rows logits, int vocabulary, DigestScratch scratch) {
  constexpr int kWarps = kPartThreads / 32;
  __shared__ int damaged[kWarps];
  const int part = static_cast<int>(blockIdx.x), parts = static_cast<int>(gridDim.x);
  const int64_t row = blockIdx.y;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first = part * kDigestPart;
  const int size = vocabulary - first < kDigestPart ? vocabulary - first : kDigestPart;
  const float* const from = logits.data + row * logits.row + first;

  uint32_t keys[kPartItems];
  int bad = 0;
  PONDER_UNROLL for (int i = 0; i < kPartItems; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kPartThreads;
    keys[i] = 0;
    if (at >= size) continue;
    const float x = from[at];
    keys[i] = key_of(x);
    bad += x < INFINITY ? 0 : 1;
  }
  bad = warp_count(bad);
  if (lane == 0) damaged[warp] = bad;
  __syncthreads();
  if (threadIdx.x == 0) {
    int all = 0;
    for (int w = 0; w < kWarps; ++w) all += damaged[w];
    scratch.damaged[row * parts + part] = all;
  }

  const int64_t blocks = (vocabulary + kBlock - 1) / kBlock;
  for (int b = warp; b * kBlock < size; b += kWarps) {
    float most = -INFINITY;
    for (int i = lane; i < kBlock && b * kBlock + i < size; i += 32) {
      most = fmaxf(most, from[b * kBlock + i]);
    }
    most = warp_max(most);
    if (lane == 0) {
      scratch.block_max[row * blocks + int64_t{part} * (kDigestPart / kBlock) + b] = most;
    }
  }

  const int wanted = size < kDigestLogits ? size : kDigestLogits;
  const int64_t place = (row * parts + part) * kDigestLogits;
  write_largest<kPartThreads>(keys, wanted, [&](int n, int i) {
    scratch.keys[place + n] = keys[i];
    scratch.ids[place + n] = first + static_cast<int>(threadIdx.x) + i * kPartThreads;
  });
  for (int n = wanted + static_cast<int>(threadIdx.x); n < kDigestLogits; n += kPartThreads) {
    scratch.keys[place + n] = 0;
  }
}

// exp_weights of lib/tensor/rows.cc, one at a time. Nothing is contracted (-fmad=false).
__device__ inline float exp_weight(float x, float max, float scale) {
  constexpr float kRound = 12582912.0f, kLowest = -87.0f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  const float a = (x - max) * scale;
  if (a < kLowest) return 0.0f;
  const float shifted = a * 1.44269504f + kRound;
  const float k = shifted - kRound;
  const float r = (a - k * kLn2High) - k * kLn2Low;
  float p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = __float_as_uint(shifted) - __float_as_uint(kRound) + 127;
  return p * __uint_as_float(exponent << 23);
}

// The sums of blocks: four threads each, as exp_sum_block has four lanes.
__global__ void __launch_bounds__(kSumThreads)
    digest_sums(Rows logits, int vocabulary, const DigestAsked* asked, DigestScratch scratch) {
  __shared__ float maxima[kSumThreads / 32];
  __shared__ double lanes[kSumThreads];
  const int64_t row = blockIdx.y;
  const int blocks = (vocabulary + kBlock - 1) / kBlock;
  const int thread = static_cast<int>(threadIdx.x);
  const float* const block_max = scratch.block_max + row * blocks;

  float max = -INFINITY;
  for (int i = thread; i < blocks; i += kSumThreads) max = fmaxf(max, block_max[i]);
  max = warp_max(max);
  if (thread % 32 == 0) maxima[thread / 32] = max;
  __syncthreads();
  for (int w = 0; w < kSumThreads / 32; ++w) max = fmaxf(max, maxima[w]);

  const int block = static_cast<int>(blockIdx.x) * kSumBlocks + thread / kSumLanes;
  const int lane = thread % kSumLanes;
  const float* const from = logits.data + row * logits.row + int64_t{block} * kBlock;
  const int64_t left = block < blocks ? vocabulary - int64_t{block} * kBlock : 0;
  const int size = static_cast<int>(left < kBlock ? left : kBlock);
  for (int s = 0; s < kDigestSums; ++s) {
    const float scale = asked[row].scales[s];
    double sum = 0;
    if (scale != 0 && size > 0 && (block_max[block] - max) * scale > -33.0f) {
      for (int i = lane; i < size; i += kSumLanes) {
        sum += static_cast<double>(exp_weight(from[i], max, scale));
      }
    }
    lanes[thread] = sum;
    __syncthreads();
    if (lane == 0 && block < blocks) {
      scratch.sums[(row * kDigestSums + s) * blocks + block] =
          (lanes[thread] + lanes[thread + 1]) + (lanes[thread + 2] + lanes[thread + 3]);
    }
    __syncthreads();
  }
}

// One row: the largest of the candidates, the sums of its blocks in their order.
__global__ void __launch_bounds__(kRowThreads)
    digest_row(Rows logits, int vocabulary, int parts, const DigestAsked* asked,
               const int32_t* also, DigestScratch scratch, DigestFound* found, float* also_logits) {
  constexpr int kTile = 1024;
  __shared__ double tile[kDigestSums][kTile];
  const int64_t row = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const float* const from = logits.data + row * logits.row;
  const DigestAsked own = asked[row];
  DigestFound* const to = found + row;

  uint32_t keys[kRowItems];
  const int64_t place = row * parts * kDigestLogits;
  PONDER_UNROLL for (int i = 0; i < kRowItems; ++i) {
    const int at = thread + i * kRowThreads;
    keys[i] = at < parts * kDigestLogits ? scratch.keys[place + at] : 0;
  }
  const int wanted = vocabulary < kDigestLogits ? vocabulary : kDigestLogits;
  write_largest<kRowThreads>(keys, wanted, [&](int n, int i) {
    const int32_t id = scratch.ids[place + thread + i * kRowThreads];
    to->ids[n] = id;
    to->logits[n] = from[id];
  });

  for (int i = own.also_begin + thread; i < own.also_end; i += kRowThreads) {
    also_logits[i] = from[also[i]];
  }
  if (thread == 0) {
    int damaged = 0;
    for (int i = 0; i < parts; ++i) damaged += scratch.damaged[row * parts + i];
    to->damaged = damaged;
  }
  const int blocks = (vocabulary + kBlock - 1) / kBlock;
  double sum = 0;  // a warp's first thread adds up one of them
  for (int begin = 0; begin < blocks; begin += kTile) {
    const int size = blocks - begin < kTile ? blocks - begin : kTile;
    for (int s = 0; s < kDigestSums; ++s) {
      for (int i = thread; i < size; i += kRowThreads) {
        tile[s][i] = scratch.sums[(row * kDigestSums + s) * blocks + begin + i];
      }
    }
    __syncthreads();
    if (thread % 32 == 0 && thread / 32 < kDigestSums) {
      for (int i = 0; i < size; ++i) sum += tile[thread / 32][i];
    }
    __syncthreads();
  }
  if (thread % 32 == 0 && thread / 32 < kDigestSums) to->sums[thread / 32] = sum;
}

}  // namespace

void launch_digest(Stream s, Rows logits, int64_t rows, int64_t vocabulary,
                   const DigestAsked* asked, const int32_t* also, const DigestScratch& scratch,
                   DigestFound* found, float* also_logits) {
  if (rows == 0) return;
  const auto width = static_cast<int>(vocabulary);
  const auto height = static_cast<unsigned>(rows);
  const auto parts = static_cast<unsigned>((width + kDigestPart - 1) / kDigestPart);
  const auto sums =
      static_cast<unsigned>((width + kBlock * kSumBlocks - 1) / (kBlock * kSumBlocks));
  launch(s, dim3(parts, height), kPartThreads, digest_part, logits, width, scratch);
  launch(s, dim3(sums, height), kSumThreads, digest_sums, logits, width, asked, scratch);
  launch(s, dim3(height), kRowThreads, digest_row, logits, width, static_cast<int>(parts), asked,
         also, scratch, found, also_logits);
}

}  // namespace ponder::cuda
