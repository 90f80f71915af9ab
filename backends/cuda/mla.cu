// Multi-head latent attention: writing latents and turned keys to their pages, and the products of
// each head's own matrix, W^UK into the query and W^UV into the result.

#include "backends/cuda/cache.cuh"
#include "backends/cuda/rows.cuh"

namespace ponder::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;

// A thread per number of the latent, then per pair that turns, then per number that is left.
template <DType kType>
__global__ void mla_write(Cache c, Rows latent, Rows k_rope, Turn key, const RowPlace* places,
                          const int32_t* pages, int64_t rows, int64_t rank) {
  const int64_t step = int64_t{gridDim.x} * kThreads, each = c.k_row - key.half;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < rows * each; i += step) {
    const int64_t t = i / each, e = i % each;
    const RowPlace place = places[t];
    uint8_t* page =
        c.base + pages[place.first_page + place.position / c.page_tokens] * c.page_bytes;
    const int64_t slot = place.position % c.page_tokens * int64_t{c.k_row};
    float* rope = k_rope.data + t * k_rope.row;
    if (e < rank) {
      store_value<kType>(page, slot + e, latent.data[t * latent.row + e]);
    } else if (e < rank + key.half) {
      const TurnedPair p =
          turned_pair(key, rope, key.table.data + t * key.table.row, static_cast<int>(e - rank));
      rope[p.one] = p.first;
      rope[p.two] = p.second;
      store_element<kType>(page, slot + rank + p.one, p.first);
      store_element<kType>(page, slot + rank + p.two, p.second);
    } else {
      const int64_t at = e + key.half;
      store_element<kType>(page, slot + at, at < c.k_dim ? rope[at - rank] : 0.0f);
    }
  }
}

// A block: 64 outputs of a head, 16 to a warp, for 8 * kTiles rows, whose rounded inputs wait in
// shared memory. One chain of sums over k in steps of 16, whatever the number of rows. A lane loads
// eight neighbours of k at a time and feeds them to two instructions, on both sides alike.
template <DType kType, int kTiles>
__global__ void __launch_bounds__(kThreads)
    head_products_mma(HeadMatrices w, Rows x, Rows out, int64_t rows) {
  auto* rounded = reinterpret_cast<uint16_t*>(dynamic_shared());
  const int64_t pitch = w.pitch + 8;
  const int lane = static_cast<int>(threadIdx.x % 32), group = lane / 4, pair = lane % 4;
  const int64_t blocks = (w.stored_outputs + 63) / 64;
  const int64_t h = blockIdx.x / blocks;
  const int64_t first_output = blockIdx.x % blocks * 64 + threadIdx.x / 32 * 16;
  const int64_t first_row = int64_t{blockIdx.y} * (8 * kTiles);
  for (int64_t i = threadIdx.x; i < 8 * kTiles * (w.pitch / 2); i += kThreads) {
    const int64_t r = i / (w.pitch / 2), k = i % (w.pitch / 2) * 2, t = first_row + r;
    const float* from = x.data + t * x.row + h * x.head + k;
    const float low = t < rows && k < w.cols ? from[0] : 0.0f;
    const float high = t < rows && k + 1 < w.cols ? from[1] : 0.0f;
    *reinterpret_cast<uint32_t*>(rounded + r * pitch + k) = pack_pair<kType>(low, high);
  }
  __syncthreads();
  if (first_output >= w.stored_outputs) return;
  const uint16_t* top = static_cast<const uint16_t*>(w.data) +
                        (h * w.stored_outputs + first_output + group) * w.pitch + 8 * pair;
  const uint16_t* low = top + 8 * w.pitch;
  float sums[kTiles][4] = {};
  for (int64_t k = 0; k < w.pitch; k += 32) {
    const uint4 a = *reinterpret_cast<const uint4*>(top + k);
    const uint4 b = *reinterpret_cast<const uint4*>(low + k);
    const uint32_t first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
    PONDER_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      const uint4 v =
          *reinterpret_cast<const uint4*>(rounded + (8 * tile + group) * pitch + k + 8 * pair);
      const uint32_t one[2] = {v.x, v.y}, two[2] = {v.z, v.w};
      multiply_add<kType>(sums[tile], first, one);
      multiply_add<kType>(sums[tile], second, two);
    }
  }
  PONDER_UNROLL
  for (int tile = 0; tile < kTiles; ++tile) {
    PONDER_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int64_t o = first_output + group + 8 * (i / 2),
                    t = first_row + 8 * tile + 2 * pair + i % 2;
      if (o < w.outputs && t < rows) out.data[t * out.row + h * out.head + o] = sums[tile][i];
    }
  }
}

// A warp per output and row: lane l takes k = l, l + 32, ..., then the lanes are added as a tree.
__global__ void __launch_bounds__(kThreads)
    head_products_float(HeadMatrices w, Rows x, Rows out, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t warps = int64_t{gridDim.x} * kWarps, each = w.heads * w.outputs;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i < rows * each; i += warps) {
    const int64_t t = i / each, h = i % each / w.outputs, o = i % w.outputs;
    const float* row = static_cast<const float*>(w.data) + (h * w.outputs + o) * w.cols;
    const float* from = x.data + t * x.row + h * x.head;
    float sum = 0;
    for (int64_t k = lane; k < w.cols; k += 32) sum = fmaf(from[k], row[k], sum);
    sum = warp_sum(sum);
    if (lane == 0) out.data[t * out.row + h * out.head + o] = sum;
  }
}

template <DType kType, int kTiles>
void launch_tiles(Stream s, const HeadMatrices& w, Rows x, Rows out, int64_t rows) {
  const int64_t blocks = w.heads * ((w.stored_outputs + 63) / 64);
  // A grid's second dimension ends at 65,535: more rows go in several launches.
  constexpr int64_t kMost = int64_t{65535} * 8 * kTiles;
  for (int64_t first = 0; first < rows; first += kMost) {
    const int64_t now = rows - first < kMost ? rows - first : kMost;
    Rows from = x, to = out;
    from.data += first * x.row;
    to.data += first * out.row;
    launch_shared(s,
                  dim3(static_cast<unsigned>(blocks),
                       static_cast<unsigned>((now + 8 * kTiles - 1) / (8 * kTiles))),
                  kThreads, int64_t{8} * kTiles * (w.pitch + 8) * 2,
                  head_products_mma<kType, kTiles>, w, from, to, now);
  }
}

}  // namespace

void launch_mla_write(Stream s, const Cache& cache, Rows latent, Rows k_rope, const Turn& key,
                      const RowPlace* places, const int32_t* pages, int64_t rows, int64_t rank) {
  if (rows == 0) return;
  const auto run = [&](auto kernel) {
    launch(s, blocks_for(rows * (cache.k_row - key.half), kThreads), kThreads, kernel, cache,
           latent, k_rope, key, places, pages, rows, rank);
  };
  if (cache.dtype == DType::kF32) return run(mla_write<DType::kF32>);
  if (cache.dtype == DType::kF16) return run(mla_write<DType::kF16>);
  run(mla_write<DType::kBF16>);
}

void launch_head_products(Stream s, const HeadMatrices& w, Rows x, Rows out, int64_t rows) {
  if (rows == 0) return;
  if (w.dtype == DType::kF32) {
    launch(s, blocks_for(rows * w.heads * w.outputs, kWarps), kThreads, head_products_float, w, x,
           out, rows);
  } else if (w.dtype == DType::kF16) {
    const auto run = rows <= 8 ? launch_tiles<DType::kF16, 1> : launch_tiles<DType::kF16, 4>;
    run(s, w, x, out, rows);
  } else {
    const auto run = rows <= 8 ? launch_tiles<DType::kBF16, 1> : launch_tiles<DType::kBF16, 4>;
    run(s, w, x, out, rows);
  }
}

}  // namespace ponder::cuda
