// What this build is.
#include <ponder/ponder.h>

// Set by lib/capi/CMakeLists.txt: a JSON array of the backends that backends/builtin.cc lists.
#ifndef PONDER_BACKENDS_JSON
#error "PONDER_BACKENDS_JSON is not defined"
#endif

#define PONDER_TEXT_INNER(x) #x
#define PONDER_TEXT(x) PONDER_TEXT_INNER(x)

#if defined(__clang__)
#define PONDER_COMPILER                                                                   \
  "Clang " PONDER_TEXT(__clang_major__) "." PONDER_TEXT(__clang_minor__) "." PONDER_TEXT( \
      __clang_patchlevel__)
#elif defined(__GNUC__)
#define PONDER_COMPILER \
  "GCC " PONDER_TEXT(__GNUC__) "." PONDER_TEXT(__GNUC_MINOR__) "." PONDER_TEXT(__GNUC_PATCHLEVEL__)
#else
#define PONDER_COMPILER "unknown"
#endif

void ponder_version(int32_t* major, int32_t* minor, int32_t* patch) {
  if (major != nullptr) *major = PONDER_VERSION_MAJOR;
  if (minor != nullptr) *minor = PONDER_VERSION_MINOR;
  if (patch != nullptr) *patch = PONDER_VERSION_PATCH;
}

const char* ponder_build_info(void) {
  return "{\"version\":\"" PONDER_VERSION_STRING
         "\",\"abi\":" PONDER_TEXT(PONDER_ABI_VERSION) ",\"compiler\":\"" PONDER_COMPILER
                                                       "\",\"backends\":" PONDER_BACKENDS_JSON "}";
}
