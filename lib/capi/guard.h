// The border: nothing but a ponder_status leaves the library, whatever happens inside.
//
// Every entry point runs its body in guarded(), which stops exceptions and turns absl::Status into
// a ponder_status and, where the caller wants words, a ponder_error. Making the error may itself
// run out of memory: the caller then gets a ready-made one with the right code and fewer words.
// Functions only; any thread.
#pragma once

#include <cxxabi.h>
#include <ponder/ponder.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "lib/base/status.h"

namespace ponder::capi {

// The classes of lib/base/status.h, one to one; a code that none of them uses is a defect of ours.
ponder_status status_code(const Status& status);
// The other way, for a failure that a callback of the host reported.
Status status_of(ponder_status code, absl::string_view message);

// Writes a new error to *err unless err is nullptr; returns `code`. Does not throw.
ponder_status fail(ponder_error** err, ponder_status code, absl::string_view message) noexcept;
ponder_status fail(ponder_error** err, const Status& status) noexcept;

// Bodies may return a Status, or a ponder_status where there is news besides success.
inline ponder_status report(ponder_error** err, const Status& status) {
  return status.ok() ? PONDER_OK : fail(err, status);
}
inline ponder_status report(ponder_error** err, ponder_status code) {
  return code < 0 ? fail(err, code, {}) : code;
}
inline ponder_status report(ponder_error** err, const StatusOr<ponder_status>& result) {
  return result.ok() ? *result : fail(err, result.status());
}

// Runs `body` and lets nothing out of it. Not noexcept for one reason: a host's pthread_cancel
// unwinds through us, and stopping that would end the process.
template <typename Body>
ponder_status guarded(ponder_error** err, Body&& body) {
  try {
    return report(err, body());
  } catch (const std::bad_alloc&) {
    return fail(err, PONDER_ERR_OUT_OF_MEMORY,
                "host memory: an allocation failed; use a smaller model, context or request");
  } catch (abi::__forced_unwind&) {
    throw;
  } catch (const std::exception& e) {
    return fail(err, PONDER_ERR_INTERNAL, e.what());
  } catch (...) {
    return fail(err, PONDER_ERR_INTERNAL, "an exception of unknown type was stopped");
  }
}

// For functions that cannot report: the same without words.
template <typename Body>
void guarded_quietly(Body&& body) {
  guarded(nullptr, [&]() -> ponder_status {
    body();
    return PONDER_OK;
  });
}

// ---- arguments --------------------------------------------------------------------------------

// The text of a (data, size) pair. False: data is missing or the size is absurd.
bool text_argument(const char* data, size_t size, absl::string_view* text);

// What a caller may mean by a size of a struct; anything larger is an uninitialised variable.
inline constexpr size_t kMaxStructSize = 4096;

// A struct for the caller, who knows `size` bytes of it: the common part is filled, the rest of the
// caller's is zero.
template <typename T>
Status copy_out(const T& value, T* out, size_t size) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (out == nullptr) return invalid_argument_error("the struct to fill is NULL");
  if (size == 0 || size > kMaxStructSize) {
    return invalid_argument_error("a struct size of ", size,
                                  " bytes cannot be right; pass sizeof of the struct");
  }
  std::memcpy(static_cast<void*>(out), &value, std::min(size, sizeof(T)));
  if (size > sizeof(T)) {
    std::memset(reinterpret_cast<std::byte*>(out) + sizeof(T), 0, size - sizeof(T));
  }
  return OkStatus();
}

// A struct from the caller, who knows `size` bytes of it; `first` is the size that the struct's
// first release had. What the caller does not know is zero; what we do not know must be.
template <typename T>
Status copy_in(const T* in, size_t size, size_t first, absl::string_view what, T* value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (in == nullptr) return invalid_argument_error(what, " is NULL");
  if (size < first || size > kMaxStructSize) {
    return invalid_argument_error("a size of ", size, " bytes cannot be right for ", what,
                                  ", which has at least ", first, "; pass sizeof of the struct");
  }
  const auto* bytes = reinterpret_cast<const unsigned char*>(in);
  for (size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      return unsupported_error(what,
                               " sets a field that this version of the library does not know (",
                               "byte ", i, "); use a newer library or leave the field zero");
    }
  }
  *value = T{};
  std::memcpy(static_cast<void*>(value), in, std::min(size, sizeof(T)));
  return OkStatus();
}

// Hands `count` elements to a caller's in/out buffer. Not an error of ours when it is too small.
template <typename T>
ponder_status copy_buffer(const T* data, size_t count, T* out, size_t* out_count) {
  const size_t room = *out_count;
  *out_count = count;
  if (count > room) return PONDER_ERR_BUFFER_TOO_SMALL;
  if (count != 0) std::memcpy(out, data, count * sizeof(T));
  return PONDER_OK;
}
// Whether out and out_count may be used so.
template <typename T>
bool buffer_argument(const T* out, const size_t* out_count) {
  return out_count != nullptr && (out != nullptr || *out_count == 0);
}

inline ponder_str borrow(absl::string_view text) { return {text.data(), text.size()}; }

// Most tokens one call may bring: positions are 32-bit inside.
inline constexpr size_t kMaxTokens = 0x7fffffff;

}  // namespace ponder::capi
