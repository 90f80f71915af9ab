// Writing keys and values to their pages, and attention over the pages: one block per row and
// head, whose four warps take every fourth run of 32 positions. A row's order of sums depends on
// its position alone.

#include "backends/cuda/launch.h"
#include "backends/cuda/simt.cuh"
#include "backends/cuda/values.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kPerLane = kLargestHead / 32;

template <DType kType>
__device__ float load(const uint8_t* page, int64_t index) {
  if constexpr (kType == DType::kF32) {
    return reinterpret_cast<const float*>(page)[index];
  } else if constexpr (kType == DType::kF16) {
    return f16_value(reinterpret_cast<const uint16_t*>(page)[index]);
  } else {
    return bf16_value(reinterpret_cast<const uint16_t*>(page)[index]);
  }
}

template <DType kType>
__device__ void store(uint8_t* page, int64_t index, float v) {
  if constexpr (kType == DType::kF32) {
    reinterpret_cast<float*>(page)[index] = v;
  } else if constexpr (kType == DType::kF16) {
    // binary16 ends at 65504: beyond it a value is held there, not made infinite.
    v = v < -65504.0f ? -65504.0f : v > 65504.0f ? 65504.0f : v;
    reinterpret_cast<uint16_t*>(page)[index] = f16_of(v);
  } else {
    reinterpret_cast<uint16_t*>(page)[index] = bf16_of(v);
  }
}

template <DType kType>
__global__ void kv_write(Cache c, Rows k, Rows v, const RowPlace* places, const int32_t* pages,
                         int64_t rows) {
  const int64_t wide = int64_t{c.heads} * (c.k_dim + c.v_dim);
  const int64_t values = int64_t{c.heads} * c.page_tokens * c.k_dim;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * wide; i += step) {
    const int64_t t = i / wide, g = i % wide / (c.k_dim + c.v_dim);
    const int64_t e = i % wide % (c.k_dim + c.v_dim);
    const RowPlace place = places[t];
    const int64_t page = pages[place.first_page + place.position / c.page_tokens];
    const int64_t slot = g * c.page_tokens + place.position % c.page_tokens;
    uint8_t* at = c.base + page * c.page_bytes;
    if (e < c.k_dim) {
      store<kType>(at, slot * c.k_dim + e, k.data[t * k.row + g * k.head + e]);
    } else {
      store<kType>(at, values + slot * c.v_dim + e - c.k_dim,
                   v.data[t * v.row + g * v.head + e - c.k_dim]);
    }
  }
}

// Softmax as it goes (Milakov and Gimelshein, arXiv 1805.02867): each warp keeps the largest score,
// the sum of exp(score - largest) and the values so weighted; in the end the warps are joined.
template <DType kType>
__global__ void __launch_bounds__(kThreads)
    attention(Cache c, Rows q, const RowPlace* places, const int32_t* pages, float scale, Rows out,
              int64_t heads) {
  __shared__ float query[kLargestHead];
  __shared__ float weights[kWarps][32];
  __shared__ int32_t page_of[kWarps][32];
  __shared__ float joined[kWarps][kLargestHead];
  __shared__ float largest[kWarps], total[kWarps];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t t = blockIdx.x / heads, h = blockIdx.x % heads;
  const int64_t g = h / (heads / c.heads);
  const RowPlace place = places[t];
  const int64_t values = int64_t{c.heads} * c.page_tokens * c.k_dim;
  for (int e = static_cast<int>(threadIdx.x); e < c.k_dim; e += kThreads) {
    query[e] = q.data[t * q.row + h * q.head + e] * scale;
  }
  __syncthreads();

  float highest = -INFINITY, sum = 0, mean[kPerLane] = {};
  for (int32_t first = 32 * warp; first <= place.position; first += 32 * kWarps) {
    const int32_t position = first + lane;
    float score = -INFINITY;
    int32_t page = 0;
    if (position <= place.position) {
      page = pages[place.first_page + position / c.page_tokens];
      const uint8_t* at = c.base + page * c.page_bytes;
      const int64_t slot = (g * c.page_tokens + position % c.page_tokens) * c.k_dim;
      // Four sums, or their latency would be all there is.
      float part[4] = {};
      for (int e = 0; e < c.k_dim; e += 4) {
        PONDER_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (e + j < c.k_dim) {
            part[j] = fmaf(query[e + j], load<kType>(at, slot + e + j), part[j]);
          }
        }
      }
      score = part[0] + part[1] + (part[2] + part[3]);
    }
    const float now = fmaxf(highest, warp_max(score));
    const float weight = expf(score - now), keep = expf(highest - now);
    highest = now;
    sum = sum * keep + warp_sum(weight);
    weights[warp][lane] = weight;
    page_of[warp][lane] = page;
    __syncwarp();
    const int32_t count = place.position - first + 1 < 32 ? place.position - first + 1 : 32;
    PONDER_UNROLL
    for (int j = 0; j < kPerLane; ++j) mean[j] *= keep;
    for (int32_t i = 0; i < count; ++i) {
      const uint8_t* at = c.base + page_of[warp][i] * c.page_bytes;
      const int64_t slot = values + (g * c.page_tokens + (first + i) % c.page_tokens) * c.v_dim;
      PONDER_UNROLL
      for (int j = 0; j < kPerLane; ++j) {
        const int e = 32 * j + lane;
        if (e < c.v_dim) mean[j] = fmaf(weights[warp][i], load<kType>(at, slot + e), mean[j]);
      }
    }
    __syncwarp();
  }
  PONDER_UNROLL
  for (int j = 0; j < kPerLane; ++j) joined[warp][32 * j + lane] = mean[j];
  if (lane == 0) {
    largest[warp] = highest;
    total[warp] = sum;
  }
  __syncthreads();

  float top = largest[0];
  for (int i = 1; i < kWarps; ++i) top = fmaxf(top, largest[i]);
  float below = 0;
  for (int i = 0; i < kWarps; ++i) below = fmaf(total[i], expf(largest[i] - top), below);
  for (int e = static_cast<int>(threadIdx.x); e < c.v_dim; e += kThreads) {
    float above = 0;
    for (int i = 0; i < kWarps; ++i) above = fmaf(joined[i][e], expf(largest[i] - top), above);
    out.data[t * out.row + h * c.v_dim + e] = above / below;
  }
}

template <typename F>
void with_cache_type(DType dtype, F&& f) {
  if (dtype == DType::kF32) return f.template operator()<DType::kF32>();
  if (dtype == DType::kF16) return f.template operator()<DType::kF16>();
  f.template operator()<DType::kBF16>();
}

}  // namespace

void launch_kv_write(Stream s, const Cache& cache, Rows k, Rows v, const RowPlace* places,
                     const int32_t* pages, int64_t rows) {
  const int64_t work = rows * cache.heads * (cache.k_dim + cache.v_dim);
  if (work == 0) return;
  with_cache_type(cache.dtype, [&]<DType kType>() {
    launch(s, blocks_for(work, kThreads), kThreads, kv_write<kType>, cache, k, v, places, pages,
           rows);
  });
}

void launch_attention(Stream s, const Cache& cache, Rows q, const RowPlace* places,
                      const int32_t* pages, float scale, Rows out, int64_t rows, int64_t heads) {
  if (rows * heads == 0) return;
  with_cache_type(cache.dtype, [&]<DType kType>() {
    launch(s, static_cast<unsigned>(rows * heads), kThreads, attention<kType>, cache, q, places,
           pages, scale, out, heads);
  });
}

}  // namespace ponder::cuda
