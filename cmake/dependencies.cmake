# Finds everything we link: Abseil and oneDNN from the cache that scripts/setup.sh fills (or from
# PONDER_ABSL_ROOT / PONDER_ONEDNN_ROOT), the rest from the system. All of it goes into libponder.so
# statically. Targets made here: ponder_absl (all of Abseil that we use), DNNL::dnnl,
# nlohmann_json::nlohmann_json, CLI11::CLI11, GTest::*, benchmark::*, Threads::Threads.

include_guard(GLOBAL)

# The prefix of a library that scripts/deps.sh builds, or that -DPONDER_<option>_ROOT names.
function(ponder_dependency_root option name out)
  if(NOT PONDER_${option}_ROOT STREQUAL "")
    set(${out} ${PONDER_${option}_ROOT} PARENT_SCOPE)
    return()
  endif()
  set(variant plain)
  if(NOT PONDER_SANITIZE STREQUAL "")
    set(variant ${PONDER_SANITIZE})
  endif()
  set(compilers CC=${CMAKE_C_COMPILER} CXX=${CMAKE_CXX_COMPILER})
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env ${compilers}
      ${PROJECT_SOURCE_DIR}/scripts/deps.sh root ${name} --variant ${variant}
    OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed OR NOT EXISTS ${root}/.complete)
    list(JOIN compilers " " compilers)
    message(FATAL_ERROR
      "ponder: ${name} is not built yet for this compiler and variant (looked for ${root}). Run\n"
      "  ${compilers} scripts/deps.sh build ${name} --variant ${variant}\n"
      "or name your own build of it with -DPONDER_${option}_ROOT=<prefix>.")
  endif()
  set(${out} ${root} PARENT_SCOPE)
endfunction()

find_package(Threads REQUIRED)

ponder_dependency_root(ABSL abseil absl_root)
find_package(absl CONFIG REQUIRED PATHS ${absl_root} NO_DEFAULT_PATH)
add_library(ponder_absl INTERFACE)
target_link_libraries(ponder_absl INTERFACE
  absl::algorithm_container absl::base absl::btree absl::check absl::cleanup absl::core_headers
  absl::flat_hash_map absl::flat_hash_set absl::function_ref absl::hash absl::inlined_vector
  absl::int128 absl::node_hash_map absl::span absl::status absl::statusor absl::str_format
  absl::strings absl::synchronization absl::time absl::any_invocable)

# oneDNN only has fast kernels for what backends/onednn asks of it on x86-64; elsewhere `ref` serves.
string(TOLOWER ${CMAKE_SYSTEM_PROCESSOR} processor)
set(PONDER_HAVE_ONEDNN OFF)
if(processor MATCHES "^(x86_64|amd64)$")
  set(PONDER_HAVE_ONEDNN ON)
  ponder_dependency_root(ONEDNN onednn onednn_root)
  find_package(dnnl 3.7 CONFIG REQUIRED PATHS ${onednn_root} NO_DEFAULT_PATH)
endif()

find_package(nlohmann_json 3.10 REQUIRED)
if(PONDER_BUILD_TOOLS)
  find_package(CLI11 REQUIRED)
endif()
if(PONDER_BUILD_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
if(PONDER_BUILD_BENCH)
  find_package(benchmark REQUIRED)
endif()
