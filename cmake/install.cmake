# SPDX-License-Identifier: Apache-2.0
# What an installation holds. A wheel (scikit-build-core sets SKBUILD) is the Python package with the
# programs, the headers and the data that commands read, under the names of the source tree; any
# other prefix gets the kernels as a CMake package, attnbench::kernels.
set(CONTRACT_FILES DIRECTORY ${CMAKE_SOURCE_DIR}/kernels/contract ${CMAKE_SOURCE_DIR}/kernels/layers
                   ${CMAKE_SOURCE_DIR}/kernels/simd)
set(CONTRACT_PATTERNS FILES_MATCHING PATTERN "*.h" PATTERN "contract/plugin_entry.cc"
                      PATTERN "contract/problem.cc" PATTERN "contract/registry.cc")

set(PROGRAMS attnbench-harness attnbench-bench)
if(TARGET attnbench-rank)
  list(APPEND PROGRAMS attnbench-rank)
endif()
if(SKBUILD)
  install(TARGETS _core LIBRARY DESTINATION attnbench COMPONENT python)
  install(TARGETS ${PROGRAMS} DESTINATION attnbench/bin COMPONENT python)
  install(${CONTRACT_FILES} DESTINATION attnbench/include/kernels COMPONENT python
          ${CONTRACT_PATTERNS})
  install(FILES ${CMAKE_SOURCE_DIR}/cmake/attnbench.cmake DESTINATION attnbench/cmake
          COMPONENT python)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/experiments DESTINATION attnbench COMPONENT python
          FILES_MATCHING PATTERN "*.toml" PATTERN "*.py" PATTERN "*.tsv" PATTERN "text/*"
          PATTERN "__pycache__" EXCLUDE)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/kernels/peers DESTINATION attnbench/kernels
          COMPONENT python FILES_MATCHING PATTERN "*.py")
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/harness/tensors DESTINATION attnbench/harness
          COMPONENT python FILES_MATCHING PATTERN "*.py")
  return()
endif()

include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(ATTNBENCH_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/attnbench)
install(${CONTRACT_FILES} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/attnbench/kernels
        ${CONTRACT_PATTERNS})
install(FILES ${CMAKE_SOURCE_DIR}/cmake/attnbench.cmake DESTINATION ${ATTNBENCH_CMAKE_DIR})
install(TARGETS ${PROGRAMS} DESTINATION ${CMAKE_INSTALL_BINDIR})
if(hwy_FOUND)  # a Highway that was fetched into the build cannot be found by others
  # Objects, not an archive: an archive drops the registrars, and with them every kernel.
  set_target_properties(attnbench_kernels PROPERTIES EXPORT_NAME kernels)
  install(TARGETS attnbench_kernels EXPORT attnbench OBJECTS
          DESTINATION ${CMAKE_INSTALL_LIBDIR}/attnbench)
  install(EXPORT attnbench NAMESPACE attnbench:: FILE attnbench-targets.cmake
          DESTINATION ${ATTNBENCH_CMAKE_DIR})
  configure_package_config_file(
    cmake/attnbenchConfig.cmake.in ${CMAKE_BINARY_DIR}/attnbenchConfig.cmake
    INSTALL_DESTINATION ${ATTNBENCH_CMAKE_DIR})
  write_basic_package_version_file(${CMAKE_BINARY_DIR}/attnbenchConfigVersion.cmake
                                   COMPATIBILITY SameMinorVersion)
  install(FILES ${CMAKE_BINARY_DIR}/attnbenchConfig.cmake
                ${CMAKE_BINARY_DIR}/attnbenchConfigVersion.cmake
          DESTINATION ${ATTNBENCH_CMAKE_DIR})
endif()
