// Writing keys and values to their pages, keys and queries turned on the way, and attention in
// float32 over keys and values of f32 or latents: one block per row and head, whose four warps take
// every fourth run of 32 positions. A row's order of sums depends on its position alone.

#include "backends/cuda/cache.cuh"
#include "backends/cuda/rows.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

constexpr int kVectorPerLane = kLargestHead / 32;

// A vector as a warp holds it: lane l has elements l, l + 32, ..., zeros from `dim` on.
struct HeadVector {
  float of[kVectorPerLane];

  __device__ HeadVector(const float* from, int dim) {
    PONDER_UNROLL
    for (int j = 0; j < kVectorPerLane; ++j) {
      const int e = 32 * j + static_cast<int>(threadIdx.x % 32);
      of[j] = e < dim ? from[e] : 0.0f;
    }
  }
  // And in memory, which is read by all lanes before one of them writes.
  __device__ void turn(const Turn& turn, float* memory, const float* table) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    PONDER_UNROLL
    for (int j = 0; j < kVectorPerLane; ++j) {
      const int e = 32 * j + lane;
      if (e >= 2 * turn.half) continue;
      const TurnedPair pair = turned_pair(
          turn, memory, table, turn.interleaved ? e / 2 : e - (e < turn.half ? 0 : turn.half));
      of[j] = e == pair.one ? pair.first : pair.second;
    }
    __syncwarp();
    PONDER_UNROLL
    for (int j = 0; j < kVectorPerLane; ++j) {
      if (32 * j + lane < 2 * turn.half) memory[32 * j + lane] = of[j];
    }
  }
};

// To slot `slot` of a head's rows in a page, `row` elements each.
template <DType kType, bool kValues>
__device__ inline void store_vector(const HeadVector& vector, uint8_t* head, int slot, int row,
                                    int page_tokens) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  PONDER_UNROLL
  for (int j = 0; j < kVectorPerLane; ++j) {
    const int e = 32 * j + lane;
    const float x = vector.of[j];
    if constexpr (kType == DType::kQ8_0) {
      // A block: its largest magnitude becomes 127. Scales end where 127 of them are still a half:
      // beyond it a value is held.
      if (32 * j >= row) break;
      const float magnitude = fabsf(x);
      const bool bad = warp_max(magnitude < INFINITY ? 0.0f : 1.0f) != 0.0f;
      const float largest = warp_max(magnitude);
      const uint16_t scale = bad ? uint16_t{0x7e00} : f16_of(fminf(largest / 127.0f, 515.5f));
      const float d = f16_value(scale);
      float code = 0;
      if (!bad && d != 0) code = rintf(fminf(fmaxf(x / d, -127.0f), 127.0f));
      head[slot * row + e] = static_cast<uint8_t>(static_cast<int8_t>(code));
      if (lane == 0) {
        reinterpret_cast<uint16_t*>(head + page_tokens * row)[slot * (row / 32) + j] = scale;
      }
    } else if (e < row) {
      if constexpr (kValues) {
        store_value<kType>(head, slot * row + e, x);
      } else {
        store_element<kType>(head, slot * row + e, x);
      }
    }
  }
}

// A warp per vector: a row's keys, its values, and the queries that are turned on the occasion.
template <DType kType>
__global__ void __launch_bounds__(kThreads)
    kv_write(Cache c, Rows k, Rows v, Turn key, Turn query, const RowPlace* places,
             const int32_t* pages, int64_t rows) {
  const int64_t vectors = int64_t{2} * c.heads + query.heads;
  const int64_t warps = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < rows * vectors;
       i += warps) {
    const int64_t t = i / vectors, of_row = i % vectors;
    if (of_row >= 2 * c.heads) {
      float* memory = query.x.data + t * query.x.row + (of_row - 2 * c.heads) * query.x.head;
      HeadVector vector(memory, query.dim);
      vector.turn(query, memory, query.table.data + t * query.table.row);
      continue;
    }
    const RowPlace place = places[t];
    const int slot = place.position % c.page_tokens;
    uint8_t* page =
        c.base + pages[place.first_page + place.position / c.page_tokens] * c.page_bytes;
    const int64_t k_bytes = head_bytes(kType, c.page_tokens, c.k_row);
    const int64_t v_bytes = head_bytes(kType, c.page_tokens, c.v_row);
    if (of_row < c.heads) {
      float* memory = k.data + t * k.row + of_row * k.head;
      HeadVector vector(memory, c.k_dim);
      if (key.heads > 0) vector.turn(key, memory, key.table.data + t * key.table.row);
      store_vector<kType, false>(vector, page + of_row * k_bytes, slot, c.k_row, c.page_tokens);
    } else {
      const int64_t g = of_row - c.heads;
      const HeadVector vector(v.data + t * v.row + g * v.head, c.v_dim);
      store_vector<kType, true>(vector, page + c.heads * k_bytes + g * v_bytes, slot, c.v_row,
                                c.page_tokens);
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

void launch_kv_write(Stream s, const Cache& cache, Rows k, Rows v, const Turn& key,
                     const Turn& query, const RowPlace* places, const int32_t* pages,
                     int64_t rows) {
  const int64_t work = rows * (2 * cache.heads + query.heads);
  if (work == 0) return;
  const auto run = [&](auto kernel) {
    launch(s, blocks_for(work, kWarps), kThreads, kernel, cache, k, v, key, query, places, pages,
           rows);
  };
  switch (cache.dtype) {
    case DType::kF32:
      return run(kv_write<DType::kF32>);
    case DType::kF16:
      return run(kv_write<DType::kF16>);
    case DType::kF8_E4M3:
      return run(kv_write<DType::kF8_E4M3>);
    case DType::kQ8_0:
      return run(kv_write<DType::kQ8_0>);
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
