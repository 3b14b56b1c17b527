# SPDX-License-Identifier: Apache-2.0
# attnbench_add_plugin(name file.cc ...): a shared object that `attnbench sweep --plugin` loads.
function(attnbench_add_plugin name)
  add_library(${name} MODULE ${ARGN} ${CMAKE_SOURCE_DIR}/kernels/contract/plugin_entry.cc
              ${CMAKE_SOURCE_DIR}/kernels/contract/problem.cc
              ${CMAKE_SOURCE_DIR}/kernels/contract/registry.cc)
  target_link_libraries(${name} PRIVATE attnbench_options OpenMP::OpenMP_CXX)
  target_compile_definitions(${name}
                             PRIVATE ATTNBENCH_CONTRACT_HASH="${ATTNBENCH_CONTRACT_HASH}")
  set_target_properties(${name} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden)
endfunction()
