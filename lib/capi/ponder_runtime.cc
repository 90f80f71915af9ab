// Runtimes, their options and their devices.
#include "lib/capi/guard.h"
#include "lib/capi/handles.h"
#include "lib/capi/host.h"

namespace capi = ponder::capi;
namespace engine = ponder::engine;

// ---- options ----------------------------------------------------------------------------------

ponder_status ponder_runtime_options_create(ponder_runtime_options** out) {
  if (out == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  *out = nullptr;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    *out = new ponder_runtime_options();
    return PONDER_OK;
  });
}

void ponder_runtime_options_destroy(ponder_runtime_options* o) {
  capi::guarded_quietly([&] { delete o; });
}

ponder_status ponder_runtime_options_set_log(ponder_runtime_options* o, ponder_log_fn fn,
                                             void* user, int32_t min_level) {
  if (o == nullptr || min_level < PONDER_LOG_DEBUG || min_level > PONDER_LOG_ERROR) {
    return PONDER_ERR_INVALID_ARGUMENT;
  }
  o->options.log = {fn, user, static_cast<ponder::LogLevel>(min_level)};
  return PONDER_OK;
}

ponder_status ponder_runtime_options_set_allocator(ponder_runtime_options* o,
                                                   const ponder_allocator* a, size_t a_size) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    if (a == nullptr) {
      o->options.allocator = nullptr;
      return ponder::OkStatus();
    }
    // The size that a struct had in the release that brought it, here and below.
    constexpr size_t kFirst = 3 * sizeof(void*);
    ponder_allocator table;
    PONDER_RETURN_IF_ERROR(capi::copy_in(a, a_size, kFirst, "ponder_allocator", &table));
    PONDER_ASSIGN_OR_RETURN(o->options.allocator, capi::host_allocator(table));
    return ponder::OkStatus();
  });
}

ponder_status ponder_runtime_options_set_thread_pool(ponder_runtime_options* o,
                                                     const ponder_thread_pool* p, size_t p_size) {
  if (o == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    if (p == nullptr) {
      o->options.pool = nullptr;
      return ponder::OkStatus();
    }
    constexpr size_t kFirst = 2 * sizeof(void*) + 2 * sizeof(uint32_t);
    ponder_thread_pool table;
    PONDER_RETURN_IF_ERROR(capi::copy_in(p, p_size, kFirst, "ponder_thread_pool", &table));
    PONDER_ASSIGN_OR_RETURN(o->options.pool, capi::host_thread_pool(table));
    return ponder::OkStatus();
  });
}

ponder_status ponder_runtime_options_set_threads(ponder_runtime_options* o, uint32_t n) {
  if (o == nullptr || n > 1024) return PONDER_ERR_INVALID_ARGUMENT;
  o->options.threads = n;
  return PONDER_OK;
}

ponder_status ponder_runtime_options_set_drive(ponder_runtime_options* o, int32_t drive) {
  if (o == nullptr || (drive != PONDER_DRIVE_THREAD && drive != PONDER_DRIVE_HOST)) {
    return PONDER_ERR_INVALID_ARGUMENT;
  }
  o->options.host_driven = drive == PONDER_DRIVE_HOST;
  return PONDER_OK;
}

// ---- the runtime ------------------------------------------------------------------------------

ponder_status ponder_runtime_create(const ponder_runtime_options* o, ponder_runtime** out,
                                    ponder_error** err) {
  if (out != nullptr) *out = nullptr;
  return capi::guarded(err, [&]() -> ponder::Status {
    if (out == nullptr) return ponder::invalid_argument_error("out is NULL");
    auto handle = std::make_unique<ponder_runtime>();
    PONDER_ASSIGN_OR_RETURN(
        handle->runtime,
        engine::Runtime::create(o != nullptr ? o->options : engine::RuntimeOptions()));
    *out = handle.release();
    return ponder::OkStatus();
  });
}

ponder_runtime* ponder_runtime_retain(ponder_runtime* rt) { return capi::retain(rt); }

void ponder_runtime_release(ponder_runtime* rt) { capi::release(rt); }

uint32_t ponder_runtime_device_count(const ponder_runtime* rt) {
  return rt != nullptr ? static_cast<uint32_t>(rt->runtime->devices().size()) : 0;
}

ponder_status ponder_runtime_get_device(const ponder_runtime* rt, uint32_t i,
                                        ponder_device_info* info, size_t info_size) {
  if (rt == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::Status {
    const auto devices = rt->runtime->devices();
    if (i >= devices.size()) return ponder::not_found_error("no such device");
    ponder_device_info told = {};
    told.backend = capi::borrow(devices[i].backend);
    told.name = capi::borrow(devices[i].name);
    told.memory_total = devices[i].memory_total;
    told.memory_free = devices[i].memory_free;
    told.kind = static_cast<int32_t>(devices[i].kind);
    for (uint32_t before = 0; before < i; ++before) {
      if (devices[before].backend == devices[i].backend) ++told.index;
    }
    return capi::copy_out(told, info, info_size);
  });
}

ponder_status ponder_runtime_poll(ponder_runtime* rt, uint64_t budget_us) {
  if (rt == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder::StatusOr<ponder_status> {
    if (!rt->runtime->host_driven()) {
      return ponder::unsupported_error("the runtime has a thread of its own");
    }
    PONDER_ASSIGN_OR_RETURN(const bool more, rt->runtime->poll(budget_us));
    return more ? PONDER_PENDING : PONDER_OK;
  });
}

ponder_status ponder_runtime_next_ready(ponder_runtime* rt, ponder_generation** gen) {
  if (gen != nullptr) *gen = nullptr;
  if (rt == nullptr || gen == nullptr) return PONDER_ERR_INVALID_ARGUMENT;
  return capi::guarded(nullptr, [&]() -> ponder_status {
    *gen = static_cast<ponder_generation*>(rt->runtime->next_ready());
    return *gen != nullptr ? PONDER_OK : PONDER_PENDING;
  });
}

void ponder_runtime_set_waker(ponder_runtime* rt, ponder_wake_fn fn, void* user) {
  if (rt == nullptr) return;
  capi::guarded_quietly([&] { rt->runtime->set_waker({fn, user}); });
}
