// Writing keys and values to their pages, and attention in float32 over keys and values of f32 or
// latents: one block per row and head, whose four warps take every fourth run of 32 positions. A
// row's order of sums depends on its position alone.

#include "backends/cuda/cache.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// Elements of a row's keys and values with the zeros that fill them up.
template <DType kType>
__global__ void kv_write(Cache c, Rows k, Rows v, const RowPlace* places, const int32_t* pages,
                         int64_t rows) {
  const int64_t wide = int64_t{c.heads} * (c.k_row + c.v_row);
  const int64_t values = c.heads * head_bytes(kType, c.page_tokens, c.k_row);
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * wide; i += step) {
    const int64_t t = i / wide, g = i % wide / (c.k_row + c.v_row);
    const int64_t e = i % wide % (c.k_row + c.v_row);
    const RowPlace place = places[t];
    const int64_t page = pages[place.first_page + place.position / c.page_tokens];
    const int64_t slot = g * c.page_tokens + place.position % c.page_tokens;
    uint8_t* at = c.base + page * c.page_bytes;
    if (e < c.k_row) {
      store_element<kType>(at, slot * c.k_row + e,
                           e < c.k_dim ? k.data[t * k.row + g * k.head + e] : 0.0f);
    } else {
      const int64_t f = e - c.k_row;
      store_value<kType>(at + values, slot * c.v_row + f,
                         f < c.v_dim ? v.data[t * v.row + g * v.head + f] : 0.0f);
    }
  }
}

// A warp per block of 32 elements: the largest magnitude becomes 127. Scales end where 127 of them
// are still a half: beyond it a value is held.
__global__ void kv_write_q8(Cache c, Rows k, Rows v, const RowPlace* places, const int32_t* pages,
                            int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int32_t k_blocks = c.k_row / 32, blocks = k_blocks + c.v_row / 32;
  const int64_t wide = int64_t{c.heads} * blocks, warps = int64_t{gridDim.x} * kWarps;
  const int64_t k_bytes = head_bytes(DType::kQ8_0, c.page_tokens, c.k_row);
  const int64_t v_bytes = head_bytes(DType::kQ8_0, c.page_tokens, c.v_row);
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < rows * wide; i += warps) {
    const int64_t t = i / wide, g = i % wide / blocks;
    const int32_t of_both = static_cast<int32_t>(i % blocks);
    const bool is_key = of_both < k_blocks;
    const int32_t b = is_key ? of_both : of_both - k_blocks;
    const int32_t dim = is_key ? c.k_dim : c.v_dim, row = is_key ? c.k_row : c.v_row;
    const RowPlace place = places[t];
    const int32_t slot = place.position % c.page_tokens;
    uint8_t* at = c.base + pages[place.first_page + place.position / c.page_tokens] * c.page_bytes +
                  (is_key ? g * k_bytes : c.heads * k_bytes + g * v_bytes);
    const int32_t e = 32 * b + lane;
    const float* from = is_key ? k.data + t * k.row + g * k.head : v.data + t * v.row + g * v.head;
    const float x = e < dim ? from[e] : 0.0f;
    const float magnitude = fabsf(x);
    const bool bad = warp_max(magnitude < INFINITY ? 0.0f : 1.0f) != 0.0f;
    const float largest = warp_max(magnitude);
    const uint16_t scale = bad ? uint16_t{0x7e00} : f16_of(fminf(largest / 127.0f, 515.5f));
    const float d = f16_value(scale);
    float code = 0;
    if (!bad && d != 0) code = rintf(fminf(fmaxf(x / d, -127.0f), 127.0f));
    at[slot * row + e] = static_cast<uint8_t>(static_cast<int8_t>(code));
    if (lane == 0) {
      reinterpret_cast<uint16_t*>(at + int64_t{c.page_tokens} * row)[slot * (row / 32) + b] = scale;
    }
  }
}

// What a block of the float32 kernel attends to: keys and values, or latents, whose first `width`
// numbers are the values.
struct FloatAttention {
  Cache cache;
  Rows q;       // q_dim numbers of a query
  Rows q_rest;  // and the rest of k_dim
  Rows out;
  int32_t q_dim, width, heads;
  float scale;
};

// Softmax as it goes (Milakov and Gimelshein, arXiv 1805.02867): each warp keeps the largest score,
// the sum of exp(score - largest) and the values so weighted; in the end the warps are joined.
template <DType kType, bool kLatents>
__global__ void __launch_bounds__(kThreads, 1)
    attention(FloatAttention p, const RowPlace* places, const int32_t* pages) {
  constexpr int kWidest = kLatents ? kLargestRank : kLargestHead;
  constexpr int kPerLane = kWidest / 32;
  __shared__ float query[kLatents ? kLargestLatent : kLargestHead];
  __shared__ float weights[kWarps][32];
  __shared__ int32_t page_of[kWarps][32];
  __shared__ float joined[kWarps][kWidest];
  __shared__ float largest[kWarps], total[kWarps];
  const Cache& c = p.cache;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t t = blockIdx.x / p.heads, h = blockIdx.x % p.heads;
  const int64_t g = kLatents ? 0 : h / (p.heads / c.heads);
  const RowPlace place = places[t];
  const int64_t values = kLatents ? 0 : int64_t{c.heads} * c.page_tokens * c.k_row;
  const int32_t v_row = kLatents ? c.k_row : c.v_row;
  for (int e = static_cast<int>(threadIdx.x); e < c.k_dim; e += kThreads) {
    query[e] =
        p.scale * (e < p.q_dim ? p.q.data[t * p.q.row + h * p.q.head + e]
                               : p.q_rest.data[t * p.q_rest.row + h * p.q_rest.head + e - p.q_dim]);
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
      const int64_t slot = (g * c.page_tokens + position % c.page_tokens) * c.k_row;
      // Four sums, or their latency would be all there is.
      float part[4] = {};
      for (int e = 0; e < c.k_dim; e += 4) {
        PONDER_UNROLL
        for (int j = 0; j < 4; ++j) {
          if (e + j < c.k_dim) {
            part[j] = fmaf(query[e + j], load_element<kType>(at, slot + e + j), part[j]);
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
      const int64_t slot = values + (g * c.page_tokens + (first + i) % c.page_tokens) * v_row;
      PONDER_UNROLL
      for (int j = 0; j < kPerLane; ++j) {
        const int e = 32 * j + lane;
        if (e < p.width) {
          mean[j] = fmaf(weights[warp][i], load_element<kType>(at, slot + e), mean[j]);
        }
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
  for (int e = static_cast<int>(threadIdx.x); e < p.width; e += kThreads) {
    float above = 0;
    for (int i = 0; i < kWarps; ++i) above = fmaf(joined[i][e], expf(largest[i] - top), above);
    p.out.data[t * p.out.row + h * p.out.head + e] = above / below;
  }
}

}  // namespace

void launch_kv_write(Stream s, const Cache& cache, Rows k, Rows v, const RowPlace* places,
                     const int32_t* pages, int64_t rows) {
  const int64_t work = rows * cache.heads * (cache.k_row + cache.v_row);
  if (work == 0) return;
  const unsigned blocks = blocks_for(work, kThreads);
  const auto run = [&](auto kernel) {
    launch(s, blocks, kThreads, kernel, cache, k, v, places, pages, rows);
  };
  switch (cache.dtype) {
    case DType::kF32:
      return run(kv_write<DType::kF32>);
    case DType::kF16:
      return run(kv_write<DType::kF16>);
    case DType::kF8_E4M3:
      return run(kv_write<DType::kF8_E4M3>);
    case DType::kQ8_0:
      return run(kv_write_q8);
    default:
      return run(kv_write<DType::kBF16>);
  }
}

void launch_attention(Stream s, const Cache& cache, Rows q, const RowPlace* places,
                      const int32_t* pages, float scale, Rows out, int64_t rows, int64_t heads) {
  if (rows * heads == 0) return;
  out.head = cache.v_dim;
  const FloatAttention p{
      cache, q, Rows{}, out, cache.k_dim, cache.v_dim, static_cast<int32_t>(heads), scale};
  launch(s, static_cast<unsigned>(rows * heads), kThreads, attention<DType::kF32, false>, p, places,
         pages);
}

void launch_mla_float(Stream s, const MlaAttention& p, const RowPlace* places, int64_t rows) {
  if (rows * p.heads == 0) return;
  const FloatAttention all{p.cache, p.q_latent, p.q_rope, p.out, p.rank, p.rank, p.heads, p.scale};
  const auto run = [&](auto kernel) {
    launch(s, static_cast<unsigned>(rows * p.heads), kThreads, kernel, all, places, p.pages);
  };
  if (p.cache.dtype == DType::kF32) return run(attention<DType::kF32, true>);
  if (p.cache.dtype == DType::kF16) return run(attention<DType::kF16, true>);
  run(attention<DType::kBF16, true>);
}

}  // namespace ponder::cuda
