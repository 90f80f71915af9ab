# libponder.so: everything in lib/ and backends/ with its dependencies, one file that exports
# ponder_* and needs libc, libm and the loader only (tools/check/library.py holds it to that).

add_library(ponder SHARED $<TARGET_OBJECTS:ponder_capi> $<TARGET_OBJECTS:ponder_builtin>)
add_library(ponder::ponder ALIAS ponder)
# The number of the ABI, not of the release.
file(STRINGS include/ponder/version.h line REGEX "define PONDER_ABI_VERSION ")
string(REGEX MATCH "[0-9]+$" abi_version "${line}")

set(version_script ${PROJECT_SOURCE_DIR}/lib/capi/ponder.map)
set_target_properties(ponder PROPERTIES
  LINKER_LANGUAGE CXX
  VERSION ${PROJECT_VERSION}
  SOVERSION ${abi_version}
  LINK_DEPENDS ${version_script})
target_include_directories(ponder INTERFACE
  $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
# The objects above bring no link requirements; the archives do, and are then already satisfied.
target_link_libraries(ponder PRIVATE ponder_capi ponder_builtin ponder_flags)
target_link_options(ponder PRIVATE
  LINKER:--version-script=${version_script}
  LINKER:--exclude-libs,ALL
  LINKER:--gc-sections
  LINKER:--as-needed
  LINKER:-Bsymbolic
  LINKER:-z,relro,-z,now,-z,noexecstack
  # Host threads keep small records of ours (Abseil's) that they free when they end, which may be
  # after dlclose: the code stays mapped.
  LINKER:-z,nodelete
  LINKER:--no-undefined)
if(PONDER_SANITIZE STREQUAL "")
  # A host may bring another C++ runtime, or none. Sanitizers need to see the shared one.
  target_link_options(ponder PRIVATE -static-libstdc++ -static-libgcc)
endif()
