#include "backends/onednn/brgemm.h"

#include "backends/onednn/kernels.h"

#if defined(PONDER_HAVE_ONEDNN)
#include <new>

#include "oneapi/dnnl/dnnl.h"
#include "oneapi/dnnl/dnnl_ukernel.h"
#endif

namespace ponder::cpu {

#if defined(PONDER_HAVE_ONEDNN)

namespace {

// Shapes of one model are a dozen; a host that keeps making new ones gets our own kernels.
constexpr size_t kMostKernels = 512;

}  // namespace

class Brgemm::Kernel {
 public:
  // Nothing here throws but for memory, and oneDNN's C functions only that.
  static std::unique_ptr<const Kernel> make(const Shape& shape) {
    auto kernel = std::unique_ptr<Kernel>(new Kernel());
    if (dnnl_brgemm_create(&kernel->handle_, kRows, kPanel, shape.k, /*batch_size=*/1, shape.lda,
                           /*ldb=*/kPanel, shape.ldc, dnnl_bf16, dnnl_bf16,
                           dnnl_f32) != dnnl_success) {
      kernel->handle_ = nullptr;
      return nullptr;
    }
    dnnl_pack_type_t layout = dnnl_pack_type_undef;
    size_t scratchpad = 0;
    const bool ready =
        dnnl_brgemm_set_add_C(kernel->handle_, shape.accumulate ? 1 : 0) == dnnl_success &&
        dnnl_brgemm_finalize(kernel->handle_) == dnnl_success &&
        dnnl_brgemm_get_B_pack_type(kernel->handle_, &layout) == dnnl_success &&
        dnnl_brgemm_get_scratchpad_size(kernel->handle_, &scratchpad) == dnnl_success;
    // A kernel that wants another layout or memory of its own is not the one we know.
    if (!ready || layout != dnnl_pack_type_pack32 || scratchpad != 0 ||
        dnnl_brgemm_generate(kernel->handle_) != dnnl_success) {
      return nullptr;
    }
    return kernel;
  }
  ~Kernel() {
    if (handle_ != nullptr) dnnl_brgemm_destroy(handle_);
  }

  bool run(const void* a, const void* b, float* c) const {
    const dnnl_dim_t offsets[2] = {0, 0};
    try {
      return dnnl_brgemm_execute(handle_, a, b, offsets, c, nullptr) == dnnl_success;
    } catch (const std::bad_alloc&) {  // it makes a small vector before it starts
      return false;
    }
  }

 private:
  dnnl_brgemm_t handle_ = nullptr;
};

std::unique_ptr<Brgemm> Brgemm::create(Isa isa, const LogSink& log) {
  if (isa != Isa::kAvx512Bf16) return nullptr;
  // AMX sums bf16 products in another order than AVX512_BF16, which our own kernels for few rows
  // use; all rows must be computed one way. Refused once oneDNN has been used, and then it was set
  // before.
  dnnl_set_max_cpu_isa(dnnl_cpu_isa_avx512_core_bf16);
  std::unique_ptr<Brgemm> brgemm(new Brgemm());
  if (brgemm->find({32, 32, kPanel, false}) == nullptr) {
    log.log(LogLevel::kWarning,
            "oneDNN made no kernel for this processor (it may not be allowed to ",
            "make memory executable); ponder's own kernels do its part");
    return nullptr;
  }
  return brgemm;
}

const Brgemm::Kernel* Brgemm::find(const Shape& shape) {
  const auto known = kernels_.find(shape);
  if (known != kernels_.end()) return known->second.get();
  if (kernels_.size() >= kMostKernels) return nullptr;
  return kernels_.emplace(shape, Kernel::make(shape)).first->second.get();
}

bool Brgemm::run(const Kernel* kernel, const void* a, const void* b, float* c) {
  return kernel->run(a, b, c);
}

#else

class Brgemm::Kernel {};

std::unique_ptr<Brgemm> Brgemm::create(Isa, const LogSink&) { return nullptr; }
const Brgemm::Kernel* Brgemm::find(const Shape&) { return nullptr; }
bool Brgemm::run(const Kernel*, const void*, const void*, float*) { return false; }

#endif

Brgemm::Brgemm() = default;
Brgemm::~Brgemm() = default;

}  // namespace ponder::cpu
