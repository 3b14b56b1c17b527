// SPDX-License-Identifier: Apache-2.0
// Layers for Python: one function over all of the registry's. Part of the Python extension only.
#pragma once

#include <pybind11/pybind11.h>

namespace attnbench {

void DefineLayers(pybind11::module_& m);

}  // namespace attnbench
