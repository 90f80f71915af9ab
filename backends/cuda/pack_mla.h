// The up-projections of latent attention on the device.
#pragma once

#include "backends/cuda/launch_attention.h"
#include "backends/cuda/pack.h"

namespace ponder::cuda {

struct CudaMlaWeight final : PackedWeight {
  HeadMatrices keys;     // W^UK transposed: from N numbers of a head's query to R
  HeadMatrices values;   // W^UV: from R numbers to U
  bool precise = false;  // Precision::kF32: nothing is rounded on the way
  DeviceBuffer memory;
};

// bf16 stays bf16 and f32 stays f32; f16, f8_e4m3 and block types become f16, whose rounding is
// far below the errors that they have already, or bf16 where a weight is beyond f16's range.
// Precision::kF32: all become f32. Both forms of the up-projection give the same bits.
StatusOr<std::unique_ptr<CudaMlaWeight>> pack_mla(Device* device, ThreadPool* pool,
                                                  const MlaUpWeights& up, Precision precision);

}  // namespace ponder::cuda
