# SPDX-License-Identifier: Apache-2.0
# OpenMP that the thread sanitizer understands. It does not see how libgomp's threads wait for each
# other, and calls every barrier a race. LLVM's runtime serves the objects of g++ as well, and its
# tool Archer tells the sanitizer what synchronises: Debian's libomp-19-dev has both.
file(GLOB ATTNBENCH_LLVM_LIBRARIES /usr/lib/llvm-*/lib)
find_library(ATTNBENCH_LIBOMP omp HINTS ${ATTNBENCH_LLVM_LIBRARIES})
find_library(ATTNBENCH_ARCHER archer HINTS ${ATTNBENCH_LLVM_LIBRARIES})
if(NOT ATTNBENCH_LIBOMP OR NOT ATTNBENCH_ARCHER)
  message(FATAL_ERROR "ATTNBENCH_SANITIZE=thread: needs LLVM's libomp and libarcher; as root: "
                      "apt-get install libomp-19-dev")
endif()
set_target_properties(OpenMP::OpenMP_CXX PROPERTIES
                      INTERFACE_LINK_LIBRARIES "${ATTNBENCH_LIBOMP};Threads::Threads")

# attnbench_add_race_test(name [arguments of the harness]): its environment is what Archer needs.
# LLVM's threads would wait busily for 0.2 s after every parallel region.
function(attnbench_add_race_test name)
  add_test(NAME ${name} COMMAND attnbench-harness ${ARGN})
  set_tests_properties(
    ${name} PROPERTIES ENVIRONMENT "OMP_TOOL_LIBRARIES=${ATTNBENCH_ARCHER};\
OMP_WAIT_POLICY=passive;TSAN_OPTIONS=ignore_noninstrumented_modules=1")
endfunction()
