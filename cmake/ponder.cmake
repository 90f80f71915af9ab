# The functions that every CMakeLists.txt of the tree uses:
#
#   ponder_library(<name> SOURCES <files> [DEPS <names>])
#     A static library ponder_<name> (headers only when there are no SOURCES): position independent,
#     hidden symbols, includes written from the root of the tree ("lib/base/status.h",
#     <ponder/ponder.h>). Abseil is always there.
#   ponder_test(<name> SOURCES <files> [DEPS <names>] [LABELS <labels>] [TIMEOUT <seconds>] [WHOLE])
#     A GoogleTest program and one CTest test per case, named <name>.<Suite>.<Case>. WHOLE makes the
#     program one single test instead, for suites whose set-up is dear.
#   ponder_c_test(<name> SOURCES <files> [LABELS <labels>])
#     A C99 program that sees include/ only and links libponder.so only: what a customer has.
#
# DEPS are our own libraries without the prefix (base, text, ref) or other packages' targets
# (nlohmann_json::nlohmann_json, DNNL::dnnl, Threads::Threads).

include_guard(GLOBAL)

# Flags of everything we compile ourselves; never propagated to users of the installed library.
add_library(ponder_flags INTERFACE)
target_compile_features(ponder_flags INTERFACE cxx_std_20)
target_compile_options(ponder_flags INTERFACE
  # nvcc has options of its own: backends/cuda/CMakeLists.txt.
  "$<$<COMPILE_LANGUAGE:C,CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wvla>"
  $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor -Woverloaded-virtual>
  # Every value is rounded when the source says so: results must not depend on inlining.
  "$<$<COMPILE_LANGUAGE:C,CXX>:-ffp-contract=off;-ffunction-sections;-fdata-sections>"
  $<$<AND:$<COMPILE_LANGUAGE:C,CXX>,$<BOOL:${PONDER_WERROR}>>:-Werror>
  # Checks the lock annotations; only Clang can.
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety>)
if(PONDER_SANITIZE STREQUAL "address")
  set(sanitize -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # With these GCC takes a function's address compared to null for no constant, which Abseil's
    # containers need it to be (GCC bug 71962). AddressSanitizer sees null pointers used anyway.
    list(APPEND sanitize -fno-sanitize=null,nonnull-attribute,returns-nonnull-attribute)
  endif()
elseif(PONDER_SANITIZE STREQUAL "thread")
  set(sanitize -fsanitize=thread -fno-omit-frame-pointer)
elseif(NOT PONDER_SANITIZE STREQUAL "")
  message(FATAL_ERROR "PONDER_SANITIZE is '${PONDER_SANITIZE}': use address, thread or nothing")
else()
  set(sanitize)
endif()
target_compile_options(ponder_flags INTERFACE ${sanitize})
target_link_options(ponder_flags INTERFACE ${sanitize})

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

# base -> ponder_base; absl::strings, ponder_capi and the like stay as they are.
function(ponder_resolve_deps out)
  set(result)
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "::|^ponder_|^-")
      list(APPEND result ${dep})
    else()
      list(APPEND result ponder_${dep})
    endif()
  endforeach()
  set(${out} ${result} PARENT_SCOPE)
endfunction()

function(ponder_library name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;DEPS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ponder_library(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  ponder_resolve_deps(deps ${arg_DEPS})
  if(NOT arg_SOURCES)
    add_library(ponder_${name} INTERFACE)
    target_include_directories(ponder_${name} INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
    target_link_libraries(ponder_${name} INTERFACE ${deps} ponder_absl)
    return()
  endif()
  add_library(ponder_${name} STATIC ${arg_SOURCES})
  set_target_properties(ponder_${name} PROPERTIES
    POSITION_INDEPENDENT_CODE ON
    LINKER_LANGUAGE CXX
    C_VISIBILITY_PRESET hidden
    CXX_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON)
  target_include_directories(ponder_${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(ponder_${name} PUBLIC ${deps} ponder_absl PRIVATE ponder_flags)
endfunction()

function(ponder_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "WHOLE" "TIMEOUT" "SOURCES;DEPS;LABELS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ponder_test(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  ponder_resolve_deps(deps ${arg_DEPS})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_link_libraries(${name} PRIVATE
    ${deps} ponder_test_paths ponder_absl GTest::gtest_main GTest::gtest Threads::Threads ponder_flags)
  # A test that finds its data absent says so and counts as skipped, not as passed.
  set(properties TIMEOUT ${arg_TIMEOUT} SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
  if(arg_WHOLE)
    add_test(NAME ${name} COMMAND ${name})
    list(REMOVE_ITEM properties SKIP_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
    set_tests_properties(${name} PROPERTIES ${properties} LABELS "${arg_LABELS}")
  else()
    gtest_discover_tests(${name} TEST_PREFIX ${name}. NO_PRETTY_VALUES
      DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
  endif()
  set_property(GLOBAL APPEND PROPERTY PONDER_TEST_TARGETS ${name})
endfunction()

function(ponder_c_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "TIMEOUT" "SOURCES;LABELS")
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "ponder_c_test(${name}): unknown arguments ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  add_executable(${name} ${arg_SOURCES})
  set_target_properties(${name} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)
  target_link_libraries(${name} PRIVATE ponder ponder_test_paths ponder_flags Threads::Threads m)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${arg_TIMEOUT} LABELS "${arg_LABELS}")
  set_property(GLOBAL APPEND PROPERTY PONDER_TEST_TARGETS ${name})
endfunction()
