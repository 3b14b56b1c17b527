// SPDX-License-Identifier: Apache-2.0
// Kernels hosted in Python: other people's libraries in our registry, measured by the very loop of
// the C++ kernels. Part of the Python extension only.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

namespace attnbench {

// refuse(problem: dict) -> str; prepare(problem: dict, q, k, v, threads) -> object with run() and
// output(). A plan holds what was prepared, by input: the first run on an input prepares it. A run
// without an output tensor leaves the result with the library (output() is not called).
void RegisterHostedKernel(const std::string& name, const std::string& idea,
                          const pybind11::function& refuse, const pybind11::function& prepare,
                          const std::string& target);

}  // namespace attnbench
