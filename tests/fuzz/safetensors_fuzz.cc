// Headers and indexes of safetensors, and a whole file opened and read through the host's IO.
//
// The first byte chooses; the rest is the input.

#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"
#include "lib/format/safetensors.h"

namespace {

struct OneFile {
  absl::string_view bytes;
};

int32_t size_of(void* user, const char* name, uint64_t* size) {
  if (std::strcmp(name, "m") != 0) return ponder::IoCallbacks::kIoNotFound;
  *size = static_cast<OneFile*>(user)->bytes.size();
  return 0;
}

int32_t read_from(void* user, const char* name, uint64_t offset, void* dst, size_t n) {
  if (std::strcmp(name, "m") != 0) return ponder::IoCallbacks::kIoNotFound;
  const absl::string_view bytes = static_cast<OneFile*>(user)->bytes;
  if (offset > bytes.size() || n > bytes.size() - offset) return -6;
  std::memcpy(dst, bytes.data() + offset, n);
  return 0;
}

// Whether every tensor that opens can be read to its last byte.
void open_and_read(absl::string_view bytes, bool sharded) {
  OneFile file{bytes};
  ponder::IoCallbacks io;
  io.user = &file;
  io.size = size_of;
  io.read = read_from;
  auto source = ponder::open_callbacks(io);
  auto opened = sharded
                    ? ponder::open_sharded_safetensors(*source, "m", ponder::default_allocator())
                    : ponder::open_safetensors(*source, "m", ponder::default_allocator());
  if (!opened.ok()) return;
  uint64_t sum = 0;
  for (const std::string& name : (*opened)->names()) {
    auto info = (*opened)->info(name);
    auto weight = (*opened)->find(name);
    if (!weight.ok()) continue;
    const auto* data = static_cast<const uint8_t*>(weight->data);
    for (uint64_t i = 0; i < info->bytes; ++i) sum += data[i];
  }
  volatile uint64_t keep = sum;
  (void)keep;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      open_and_read(text, false);
      break;
    case 1:
      open_and_read(text, true);
      break;
    case 2:
      (void)ponder::parse_safetensors_header(text, 1 << 20, "fuzz");
      break;
    case 3:
      (void)ponder::parse_safetensors_index(text, "fuzz");
      break;
  }
  return 0;
}
