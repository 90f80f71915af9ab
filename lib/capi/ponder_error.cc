// ponder_error, ponder_status_name, and how an absl::Status becomes either.
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "lib/capi/guard.h"

// One block of memory with the text behind the struct. The ready-made errors below are of the same
// type and are never freed.
struct ponder_error {
  ponder_status status;
  const char* text;
  size_t size;
};

namespace ponder::capi {
namespace {

struct Name {
  ponder_status status;
  const char* name;
};
constexpr Name kNames[] = {
    {PONDER_OK, "PONDER_OK"},
    {PONDER_PENDING, "PONDER_PENDING"},
    {PONDER_DONE, "PONDER_DONE"},
    {PONDER_ERR_INVALID_ARGUMENT, "PONDER_ERR_INVALID_ARGUMENT"},
    {PONDER_ERR_NOT_FOUND, "PONDER_ERR_NOT_FOUND"},
    {PONDER_ERR_UNSUPPORTED, "PONDER_ERR_UNSUPPORTED"},
    {PONDER_ERR_CORRUPT, "PONDER_ERR_CORRUPT"},
    {PONDER_ERR_MISMATCH, "PONDER_ERR_MISMATCH"},
    {PONDER_ERR_IO, "PONDER_ERR_IO"},
    {PONDER_ERR_OUT_OF_MEMORY, "PONDER_ERR_OUT_OF_MEMORY"},
    {PONDER_ERR_CONTEXT_FULL, "PONDER_ERR_CONTEXT_FULL"},
    {PONDER_ERR_BUSY, "PONDER_ERR_BUSY"},
    {PONDER_ERR_CANCELLED, "PONDER_ERR_CANCELLED"},
    {PONDER_ERR_BUFFER_TOO_SMALL, "PONDER_ERR_BUFFER_TOO_SMALL"},
    {PONDER_ERR_DEVICE, "PONDER_ERR_DEVICE"},
    {PONDER_ERR_INTERNAL, "PONDER_ERR_INTERNAL"},
};

constexpr ponder_error ready(ponder_status status, absl::string_view text) {
  return {status, text.data(), text.size()};
}
constexpr const char kWordless[] = "there was no memory left for the words of this error";
// For every failure, by -status.
constexpr ponder_error kReady[] = {
    ready(PONDER_OK, ""),
    ready(PONDER_ERR_INVALID_ARGUMENT, kWordless),
    ready(PONDER_ERR_NOT_FOUND, kWordless),
    ready(PONDER_ERR_UNSUPPORTED, kWordless),
    ready(PONDER_ERR_CORRUPT, kWordless),
    ready(PONDER_ERR_MISMATCH, kWordless),
    ready(PONDER_ERR_IO, kWordless),
    ready(PONDER_ERR_OUT_OF_MEMORY, "host memory: an allocation failed"),
    ready(PONDER_ERR_CONTEXT_FULL, kWordless),
    ready(PONDER_ERR_BUSY, kWordless),
    ready(PONDER_ERR_CANCELLED, kWordless),
    ready(PONDER_ERR_BUFFER_TOO_SMALL, kWordless),
    ready(PONDER_ERR_DEVICE, kWordless),
    ready(PONDER_ERR_INTERNAL, kWordless),
};
constexpr int32_t kFailures = static_cast<int32_t>(sizeof(kReady) / sizeof(kReady[0])) - 1;

// What is said when nobody said anything.
absl::string_view words_for(ponder_status code) {
  switch (code) {
    case PONDER_ERR_INVALID_ARGUMENT:
      return "an argument is NULL or outside what ponder.h allows for it";
    case PONDER_ERR_BUFFER_TOO_SMALL:
      return "the buffer is too small; its size argument now holds what is needed";
    default:
      return "the operation failed";
  }
}

const char* name_of(ponder_status status) {
  for (const Name& entry : kNames) {
    if (entry.status == status) return entry.name;
  }
  return nullptr;
}

}  // namespace

ponder_status status_code(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return PONDER_OK;
    case absl::StatusCode::kInvalidArgument:
      return PONDER_ERR_INVALID_ARGUMENT;
    case absl::StatusCode::kNotFound:
      return PONDER_ERR_NOT_FOUND;
    case absl::StatusCode::kUnimplemented:
      return PONDER_ERR_UNSUPPORTED;
    case absl::StatusCode::kDataLoss:
      return PONDER_ERR_CORRUPT;
    case absl::StatusCode::kFailedPrecondition:
      return PONDER_ERR_MISMATCH;
    case absl::StatusCode::kUnavailable:
      return PONDER_ERR_IO;
    case absl::StatusCode::kResourceExhausted:
      return PONDER_ERR_OUT_OF_MEMORY;
    case absl::StatusCode::kOutOfRange:
      return PONDER_ERR_CONTEXT_FULL;
    case absl::StatusCode::kAborted:
      return PONDER_ERR_BUSY;
    case absl::StatusCode::kCancelled:
      return PONDER_ERR_CANCELLED;
    case absl::StatusCode::kDeadlineExceeded:
      return PONDER_ERR_DEVICE;
    default:
      return PONDER_ERR_INTERNAL;
  }
}

Status status_of(ponder_status code, absl::string_view message) {
  switch (code) {
    case PONDER_ERR_INVALID_ARGUMENT:
      return invalid_argument_error(message);
    case PONDER_ERR_NOT_FOUND:
      return not_found_error(message);
    case PONDER_ERR_UNSUPPORTED:
      return unsupported_error(message);
    case PONDER_ERR_CORRUPT:
      return corrupt_error(message);
    case PONDER_ERR_MISMATCH:
      return mismatch_error(message);
    case PONDER_ERR_IO:
      return io_error(message);
    case PONDER_ERR_OUT_OF_MEMORY:
      return out_of_memory_error(message);
    case PONDER_ERR_CONTEXT_FULL:
      return context_full_error(message);
    case PONDER_ERR_BUSY:
      return busy_error(message);
    case PONDER_ERR_CANCELLED:
      return cancelled_error(message);
    case PONDER_ERR_DEVICE:
      return device_error(message);
    default:
      return internal_error(message);
  }
}

ponder_status fail(ponder_error** err, ponder_status code, absl::string_view message) noexcept {
  if (err == nullptr) return code;
  if (message.empty()) message = words_for(code);
  auto* error = static_cast<ponder_error*>(std::malloc(sizeof(ponder_error) + message.size()));
  if (error == nullptr) {
    // Nobody writes through a ponder_error, and destroy knows these by their address.
    const int32_t i = code < 0 && code >= -kFailures ? -code : -PONDER_ERR_INTERNAL;
    *err = const_cast<ponder_error*>(&kReady[i]);
    return code;
  }
  char* const text = reinterpret_cast<char*>(error + 1);
  // Errors are one line: names in them come from files and may hold anything.
  for (size_t i = 0; i < message.size(); ++i) {
    text[i] = static_cast<unsigned char>(message[i]) < 0x20 ? ' ' : message[i];
  }
  *error = {code, text, message.size()};
  *err = error;
  return code;
}

ponder_status fail(ponder_error** err, const Status& status) noexcept {
  return fail(err, status_code(status), status.message());
}

bool text_argument(const char* data, size_t size, absl::string_view* text) {
  if (size == 0) {
    *text = "";
    return true;
  }
  if (data == nullptr) return false;
  if (size == PONDER_STRLEN) size = std::strlen(data);
  if (size > static_cast<size_t>(PTRDIFF_MAX)) return false;
  *text = absl::string_view(data, size);
  return true;
}

}  // namespace ponder::capi

const char* ponder_status_name(ponder_status status) {
  const char* name = ponder::capi::name_of(status);
  return name != nullptr ? name : "PONDER_UNKNOWN";
}

void ponder_error_get(const ponder_error* err, ponder_status* status, ponder_str* message) {
  if (status != nullptr) *status = err != nullptr ? err->status : PONDER_OK;
  if (message != nullptr) {
    *message = err != nullptr ? ponder_str{err->text, err->size} : ponder_str{"", 0};
  }
}

void ponder_error_destroy(ponder_error* err) {
  for (const ponder_error& ready : ponder::capi::kReady) {
    if (err == &ready) return;
  }
  std::free(err);
}
