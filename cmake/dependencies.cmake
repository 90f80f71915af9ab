# Finds everything we link: Abseil and oneDNN from the cache that scripts/setup.sh fills (or from
# PONDER_ABSL_ROOT / PONDER_ONEDNN_ROOT), the rest from the system. All of it goes into libponder.so
# statically. Targets made here: ponder_absl (all of Abseil that we use), pcre2::pcre2,
# utf8proc::utf8proc, DNNL::dnnl, nlohmann_json::nlohmann_json, CLI11::CLI11, GTest::*,
# benchmark::*, Threads::Threads.

include_guard(GLOBAL)

function(ponder_dependency_root name package_dir out)
  string(TOUPPER ${name} upper)
  if(NOT PONDER_${upper}_ROOT STREQUAL "")
    set(${out} ${PONDER_${upper}_ROOT} PARENT_SCOPE)
    return()
  endif()
  set(variant plain)
  if(NOT PONDER_SANITIZE STREQUAL "")
    set(variant ${PONDER_SANITIZE})
  endif()
  set(script_name ${name})
  if(name STREQUAL "absl")
    set(script_name abseil)
  endif()
  execute_process(
    COMMAND ${CMAKE_COMMAND} -E env CC=${CMAKE_C_COMPILER} CXX=${CMAKE_CXX_COMPILER}
      ${PROJECT_SOURCE_DIR}/scripts/deps.sh root ${script_name} --variant ${variant}
    OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(failed OR NOT EXISTS ${root}/.complete)
    set(compiler "")
    if(DEFINED ENV{CXX} OR NOT CMAKE_CXX_COMPILER MATCHES "/(c|g)\\+\\+$")
      set(compiler "CC=${CMAKE_C_COMPILER} CXX=${CMAKE_CXX_COMPILER} ")
    endif()
    message(FATAL_ERROR
      "ponder: ${name} is not built yet for this compiler (looked for ${root}).\n"
      "Run: ${compiler}${PROJECT_SOURCE_DIR}/scripts/deps.sh build ${script_name} --variant ${variant}\n"
      "or scripts/setup.sh for everything, or name your own with -DPONDER_${upper}_ROOT=<prefix>.")
  endif()
  set(${out} ${root} PARENT_SCOPE)
endfunction()

# A library of the system that must come as an archive, for it ends up inside libponder.so.
function(ponder_static_library target header archive package)
  find_path(${package}_INCLUDE_DIR ${header})
  find_library(${package}_ARCHIVE ${archive})
  mark_as_advanced(${package}_INCLUDE_DIR ${package}_ARCHIVE)
  if(NOT ${package}_INCLUDE_DIR OR NOT ${package}_ARCHIVE)
    message(FATAL_ERROR "ponder: ${header} or ${archive} not found. Run scripts/setup.sh, or install "
      "the package ${package}, or set ${package}_INCLUDE_DIR and ${package}_ARCHIVE.")
  endif()
  add_library(${target} STATIC IMPORTED GLOBAL)
  set_target_properties(${target} PROPERTIES IMPORTED_LOCATION ${${package}_ARCHIVE}
    INTERFACE_INCLUDE_DIRECTORIES ${${package}_INCLUDE_DIR})
endfunction()

find_package(Threads REQUIRED)

ponder_dependency_root(absl absl absl_root)
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
if(processor MATCHES "^(x86_64|amd64)$" AND EXISTS ${PROJECT_SOURCE_DIR}/backends/onednn/CMakeLists.txt)
  set(PONDER_HAVE_ONEDNN ON)
  ponder_dependency_root(onednn dnnl onednn_root)
  find_package(dnnl 3.7 CONFIG REQUIRED PATHS ${onednn_root} NO_DEFAULT_PATH)
endif()

ponder_static_library(pcre2::pcre2 pcre2.h libpcre2-8.a libpcre2-dev)
target_compile_definitions(pcre2::pcre2 INTERFACE PCRE2_CODE_UNIT_WIDTH=8 PCRE2_STATIC)
ponder_static_library(utf8proc::utf8proc utf8proc.h libutf8proc.a libutf8proc-dev)
target_compile_definitions(utf8proc::utf8proc INTERFACE UTF8PROC_STATIC)
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
