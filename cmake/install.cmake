# `cmake --install`: the library, its headers, a CMake package (find_package(ponder) gives
# ponder::ponder) and a pkg-config file; the ponder command when it is built.

include(CMakePackageConfigHelpers)

install(TARGETS ponder EXPORT ponderTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/ponder DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING PATTERN "*.h" PATTERN "*.hpp")
install(FILES LICENSE README.md DESTINATION ${CMAKE_INSTALL_DOCDIR} OPTIONAL)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ponder)
install(EXPORT ponderTargets NAMESPACE ponder:: DESTINATION ${package_dir})
configure_package_config_file(cmake/ponderConfig.cmake.in ${PROJECT_BINARY_DIR}/ponderConfig.cmake
  INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor release may break source code, so only the same minor is compatible.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/ponderConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ponderConfig.cmake ${PROJECT_BINARY_DIR}/ponderConfigVersion.cmake
  DESTINATION ${package_dir})

# Prefix-relative, so that an installed tree can be moved and a DESTDIR be used as it is.
if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR})
  set(pc_libdir ${CMAKE_INSTALL_LIBDIR})
else()
  set(pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
if(IS_ABSOLUTE ${CMAKE_INSTALL_INCLUDEDIR})
  set(pc_includedir ${CMAKE_INSTALL_INCLUDEDIR})
else()
  set(pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
file(RELATIVE_PATH pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" pc_prefix "\${pcfiledir}/${pc_prefix}")
configure_file(cmake/ponder.pc.in ${PROJECT_BINARY_DIR}/ponder.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/ponder.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
