// The ops of the reference backend, one per file. `pool` runs rows or heads side by side; each
// row's arithmetic is one thread's and in one order, so its result depends on nothing else.
#pragma once

#include "backends/ref/weights.h"
#include "lib/device/backend.h"

namespace ponder::ref {

void embed(const EmbedParams& p);
void rms_norm(const RmsNormParams& p);
Status linear(const LinearParams& p, Allocator* allocator, ThreadPool* pool);
void rope_table(const RopeTableParams& p);
void rope(const RopeParams& p);
void swiglu(const SwigluParams& p);
void add(const AddParams& p);
void gather_rows(const GatherRowsParams& p);

// A page holds keys [G, P, E], then values [G, P, E].
StatusOr<KvLayout> kv_layout(const KvShape& shape, DType wanted);
void kv_write(const KvWriteParams& p);
Status attention(const AttentionParams& p, Allocator* allocator, ThreadPool* pool);

}  // namespace ponder::ref
