// The status vocabulary of the library: one constructor per failure class of the C API.
//
// Load paths return absl::Status or absl::StatusOr. The C layer maps codes to ponder_status one to
// one (lib/capi/guard.cc), so a class is chosen where the failure is found, with the words a user
// needs: which thing, which number, what to try. Values only; any thread.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace ponder {

using absl::OkStatus;
using absl::Status;
using absl::StatusOr;

// PONDER_ERR_INVALID_ARGUMENT: the caller passed something that can never work.
template <typename... Parts>
Status invalid_argument_error(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}
// PONDER_ERR_NOT_FOUND: a named thing (file, tensor, hint) is not there.
template <typename... Parts>
Status not_found_error(const Parts&... parts) {
  return absl::NotFoundError(absl::StrCat(parts...));
}
// PONDER_ERR_UNSUPPORTED: a known thing that this build, device or model cannot do.
template <typename... Parts>
Status unsupported_error(const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat(parts...));
}
// PONDER_ERR_CORRUPT: malformed model file, template, schema or saved state.
template <typename... Parts>
Status corrupt_error(const Parts&... parts) {
  return absl::DataLossError(absl::StrCat(parts...));
}
// PONDER_ERR_MISMATCH: well formed, but made for another model or version.
template <typename... Parts>
Status mismatch_error(const Parts&... parts) {
  return absl::FailedPreconditionError(absl::StrCat(parts...));
}
// PONDER_ERR_IO: reading or writing failed.
template <typename... Parts>
Status io_error(const Parts&... parts) {
  return absl::UnavailableError(absl::StrCat(parts...));
}
// PONDER_ERR_OUT_OF_MEMORY: host or device memory; say which and how much was wanted.
template <typename... Parts>
Status out_of_memory_error(const Parts&... parts) {
  return absl::ResourceExhaustedError(absl::StrCat(parts...));
}
// PONDER_ERR_CONTEXT_FULL: no room left in the model's context or its KV cache.
template <typename... Parts>
Status context_full_error(const Parts&... parts) {
  return absl::OutOfRangeError(absl::StrCat(parts...));
}
// PONDER_ERR_BUSY: the object is in use by an operation under way.
template <typename... Parts>
Status busy_error(const Parts&... parts) {
  return absl::AbortedError(absl::StrCat(parts...));
}
// PONDER_ERR_CANCELLED: the host asked to stop.
template <typename... Parts>
Status cancelled_error(const Parts&... parts) {
  return absl::CancelledError(absl::StrCat(parts...));
}
// PONDER_ERR_DEVICE: the device failed; the models on it are lost.
template <typename... Parts>
Status device_error(const Parts&... parts) {
  return absl::DeadlineExceededError(absl::StrCat(parts...));
}
// PONDER_ERR_INTERNAL: a defect of ours.
template <typename... Parts>
Status internal_error(const Parts&... parts) {
  return absl::InternalError(absl::StrCat(parts...));
}

// The same failure with the place it happened in front: "model.safetensors: header is ...".
inline Status in_context(const Status& status, absl::string_view where) {
  if (status.ok()) return status;
  return Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

}  // namespace ponder

#define PONDER_CONCAT_INNER(a, b) a##b
#define PONDER_CONCAT(a, b) PONDER_CONCAT_INNER(a, b)

#define PONDER_RETURN_IF_ERROR(expr)                            \
  do {                                                          \
    if (::absl::Status ponder_status_ = (expr); !ponder_status_.ok()) return ponder_status_; \
  } while (false)

#define PONDER_ASSIGN_OR_RETURN(lhs, expr) \
  PONDER_ASSIGN_OR_RETURN_IMPL(PONDER_CONCAT(ponder_statusor_, __LINE__), lhs, expr)
#define PONDER_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                 \
  if (!tmp.ok()) return std::move(tmp).status();     \
  lhs = *std::move(tmp)
