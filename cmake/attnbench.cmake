# SPDX-License-Identifier: Apache-2.0
# attnbench_add_plugin(name file.cc ...): a shared object that `attnbench sweep --plugin` loads.
#
# Works against the source tree, a wheel and an installed prefix alike:
#   include(<folder that `attnbench --cmakedir` prints>/attnbench.cmake)
#   attnbench_add_plugin(my_kernel my_kernel.cc)
# Needs CMake >= 3.25, a compiler for C++20 and OpenMP, and nothing else; the pieces of kernels/simd
# need Highway, which is used where find_package(hwy) has found it.
if(EXISTS ${CMAKE_CURRENT_LIST_DIR}/../kernels/contract/kernel.h)
  cmake_path(SET ATTNBENCH_INCLUDE_DIR NORMALIZE ${CMAKE_CURRENT_LIST_DIR}/..)
elseif(EXISTS ${CMAKE_CURRENT_LIST_DIR}/../include/kernels/contract/kernel.h)  # a wheel
  cmake_path(SET ATTNBENCH_INCLUDE_DIR NORMALIZE ${CMAKE_CURRENT_LIST_DIR}/../include)
else()  # <prefix>/lib/cmake/attnbench
  cmake_path(SET ATTNBENCH_INCLUDE_DIR NORMALIZE
             ${CMAKE_CURRENT_LIST_DIR}/../../../include/attnbench)
endif()

# One line that changes whenever a plugin's view of the contract would: host and plugin compare it.
set(ATTNBENCH_INCLUDE_DIR ${ATTNBENCH_INCLUDE_DIR} CACHE INTERNAL "where kernels/contract lies")

function(attnbench_contract_hash result)
  file(GLOB headers CONFIGURE_DEPENDS ${ATTNBENCH_INCLUDE_DIR}/kernels/contract/*.h
       ${ATTNBENCH_INCLUDE_DIR}/kernels/layers/*.h)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${headers})
  set(hashes "")
  foreach(header ${headers})
    file(SHA256 ${header} hash)
    string(APPEND hashes ${hash})
  endforeach()
  string(SHA256 hashes "${hashes}")
  string(SUBSTRING ${hashes} 0 16 hashes)
  set(${result} ${hashes} PARENT_SCOPE)
endfunction()

function(attnbench_add_plugin name)
  if(NOT TARGET OpenMP::OpenMP_CXX)  # found twice, it would lose what a build has set on it
    find_package(OpenMP REQUIRED COMPONENTS CXX)
  endif()
  attnbench_contract_hash(hash)
  set(contract ${ATTNBENCH_INCLUDE_DIR}/kernels/contract)
  if(NOT TARGET attnbench_plugin_contract)  # the same in each plugin: compiled once
    add_library(attnbench_plugin_contract OBJECT ${contract}/plugin_entry.cc ${contract}/problem.cc
                                                 ${contract}/registry.cc)
    attnbench_as_plugin(attnbench_plugin_contract ${hash})
  endif()
  add_library(${name} MODULE ${ARGN} $<TARGET_OBJECTS:attnbench_plugin_contract>)
  attnbench_as_plugin(${name} ${hash})
  if(TARGET hwy::hwy)
    target_link_libraries(${name} PRIVATE hwy::hwy)
  endif()
endfunction()

function(attnbench_as_plugin name hash)
  target_include_directories(${name} PRIVATE ${ATTNBENCH_INCLUDE_DIR})
  target_link_libraries(${name} PRIVATE OpenMP::OpenMP_CXX)
  target_compile_features(${name} PRIVATE cxx_std_20)
  target_compile_definitions(${name} PRIVATE ATTNBENCH_CONTRACT_HASH="${hash}")
  # Hidden, so that the plugin's registry is its own; no extensions, as the host: both are compared.
  set_target_properties(
    ${name} PROPERTIES PREFIX "" POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden
                       CXX_STANDARD 20 CXX_EXTENSIONS OFF)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    target_compile_options(${name} PRIVATE -O3)
  endif()
endfunction()
