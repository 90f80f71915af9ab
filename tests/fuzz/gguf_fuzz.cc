// The metadata and tensor table of a GGUF file, and the model it describes, through the host's IO.

#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"
#include "lib/format/gguf.h"
#include "lib/format/model_files.h"

namespace {

constexpr char kSplit[] = "m-00001-of-00002.gguf", kSingle[] = "model.gguf";

int32_t size_of(void* user, const char* name, uint64_t* size) {
  if (std::strcmp(name, kSplit) != 0 && std::strcmp(name, kSingle) != 0) {
    return ponder::IoCallbacks::kIoNotFound;
  }
  *size = static_cast<absl::string_view*>(user)->size();
  return 0;
}

int32_t read_from(void* user, const char*, uint64_t offset, void* dst, size_t n) {
  const absl::string_view bytes = *static_cast<absl::string_view*>(user);
  if (offset > bytes.size() || n > bytes.size() - offset) return -6;
  std::memcpy(dst, bytes.data() + offset, n);
  return 0;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  ponder::IoCallbacks io;
  io.user = &bytes;
  io.size = size_of;
  io.read = read_from;
  auto source = ponder::open_callbacks(io);
  auto files = ponder::read_gguf(**source, kSplit);
  if (!files.ok()) return 0;
  for (const auto& tensor : files->tensors) {
    // What the reader promises; a trap is a finding.
    if (tensor.offset > size || tensor.bytes > size - tensor.offset) __builtin_trap();
    if (files->find(tensor.name) == nullptr) __builtin_trap();
  }
  for (const auto& [key, value] : files->metadata.entries()) {
    (void)files->metadata.integer(key);
    (void)files->metadata.texts(key);
  }
  auto model = ponder::open_model(*source);
  if (!model.ok()) return 0;
  for (const std::string& name : model->weights->names()) (void)model->weights->find(name);
  return 0;
}
