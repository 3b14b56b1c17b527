# SPDX-License-Identifier: Apache-2.0
# Everything the build takes from elsewhere, with the oldest version known to work.
find_package(OpenMP 4.5 REQUIRED)
find_package(Threads REQUIRED)
if(ATTNBENCH_SANITIZE STREQUAL thread)
  include(cmake/thread_sanitizer.cmake)
endif()

# From the system, or their sources where it has none, as the images that wheels are built in.
include(FetchContent)
set(BENCHMARK_ENABLE_TESTING OFF)
set(BENCHMARK_ENABLE_INSTALL OFF)
foreach(needed "nlohmann_json 3.11 nlohmann/json v3.11.3" "CLI11 2.1 CLIUtils/CLI11 v2.4.2"
               "tomlplusplus 3.3 marzer/tomlplusplus v3.4.0" "benchmark 1.7 google/benchmark v1.8.5")
  string(REPLACE " " ";" needed ${needed})
  list(POP_FRONT needed name version repository tag)
  FetchContent_Declare(${name} GIT_REPOSITORY https://github.com/${repository} GIT_TAG ${tag}
                       GIT_SHALLOW ON SYSTEM FIND_PACKAGE_ARGS ${version})
  FetchContent_MakeAvailable(${name})
endforeach()
if(ATTNBENCH_TESTS)
  find_package(GTest 1.12 REQUIRED)
endif()
find_package(PkgConfig REQUIRED)
pkg_check_modules(HWLOC REQUIRED IMPORTED_TARGET hwloc>=2.4)

# Highway 1.2 is the first with the AVX3_ZEN4 and AVX3_SPR targets (native bf16 dots).
find_package(hwy 1.2 CONFIG QUIET)
if(NOT hwy_FOUND)
  message(STATUS "Highway >= 1.2 not found: fetching its source")
  foreach(part CONTRIB TESTS EXAMPLES INSTALL)
    set(HWY_ENABLE_${part} OFF CACHE BOOL "" FORCE)
  endforeach()
  FetchContent_Declare(highway GIT_REPOSITORY https://github.com/google/highway GIT_TAG 1.2.0)
  FetchContent_MakeAvailable(highway)
  add_library(hwy::hwy ALIAS hwy)
endif()

# MPI: several processes that share one problem. AUTO takes it where it is found, ON insists on it;
# without it cases of more than one rank are refused, with the reason.
set(ATTNBENCH_MPI AUTO CACHE STRING "Kernels over ranks: AUTO, ON or OFF")
set(MPI_CXX_SKIP_MPICXX TRUE)  # the C interface is all that is used
if(ATTNBENCH_MPI STREQUAL "AUTO")
  find_package(MPI 3.0 QUIET COMPONENTS CXX)
elseif(ATTNBENCH_MPI)
  find_package(MPI 3.0 REQUIRED COMPONENTS CXX)
endif()

# BLIS: single-threaded calls inside our own OpenMP. Optional: without it the kernel registers all
# the same and refuses with the reason.
find_path(BLIS_INCLUDE_DIR blis.h PATH_SUFFIXES blis-openmp blis)
find_library(BLIS_LIBRARY blis PATH_SUFFIXES blis-openmp)
if(BLIS_INCLUDE_DIR AND BLIS_LIBRARY)
  add_library(attnbench_blis INTERFACE)
  target_include_directories(attnbench_blis SYSTEM INTERFACE ${BLIS_INCLUDE_DIR})
  target_link_libraries(attnbench_blis INTERFACE ${BLIS_LIBRARY})
  target_compile_definitions(attnbench_blis INTERFACE ATTNBENCH_HAS_BLIS=1)
endif()
