// SPDX-License-Identifier: Apache-2.0
#include "harness/python_layer.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <optional>

#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/python_arguments.h"
#include "harness/run_setup.h"
#include "kernels/layers/layer.h"

namespace attnbench {
namespace {

namespace py = pybind11;

const Kernel& LayerNamed(const std::string& name) {
  const Kernel* layer = FindKernel(name);
  if (layer && layer->layer) return *layer;
  std::string known;
  for (const Kernel* one : Layers()) known.append(known.empty() ? "" : ", ").append(one->name);
  Bad("layer: unknown layer '" + name + "' (known: " + known + ")");
}

// A sequence [batch, n, d_model] or [n, d_model], read in place. Argument takes the batch for the
// heads.
ConstTensor Sequence(const char* name, const Argument& x) {
  if (x.array.ndim() > 3)
    Bad(std::string(name) + ": must be [batch, n, d] or [n, d], is " + ShapeOf(x.array));
  if (x.dtype != DType::kF32) Bad(std::string(name) + ": dtype must be float32");
  return {x.array.data(), DType::kF32, x.Stride(3), 0, x.Stride(2)};
}

py::object RunLayer(const std::string& name, const py::object& x_in, const py::list& weights_in,
                    const py::object& memory_in, Index heads, MaybeIndex kv_heads,
                    MaybeIndex head_dim, MaybeIndex v_dim, MaybeIndex d_out, MaybeIndex width,
                    const std::string& encoding, const std::string& attention, bool causal,
                    const std::optional<std::string>& pattern, MaybeIndex window, MaybeIndex stride,
                    MaybeIndex offset, MaybeIndex columns, Index sinks, std::optional<double> scale,
                    int threads, const std::map<std::string, Index>& options_in,
                    bool return_weights) {
  const Kernel& layer = LayerNamed(name);
  if (threads < 1 || threads > 1024)
    Bad("threads: must be in 1 ... 1024, is " + std::to_string(threads));
  const Argument x("x", x_in);
  std::optional<Argument> memory;
  if (!memory_in.is_none()) memory.emplace("memory", memory_in);

  Problem p;
  p.batch = x.heads, p.queries = x.rows, p.layer.d_model = x.columns;
  p.heads = heads, p.kv_heads = kv_heads.value_or(0);
  p.head_dim = head_dim.value_or(0), p.v_dim = v_dim.value_or(0);
  p.layer.d_out = d_out.value_or(0), p.layer.width = width.value_or(0);
  p.layer.attention = attention;
  if (!Parse(encoding, &p.layer.encoding)) Bad("encoding: unknown encoding '" + encoding + "'");
  p.mask = MakeMask(causal, pattern, window, stride, offset, columns, sinks);
  if (scale) p.scale = *scale;
  Inputs in;
  in.x = Sequence("x", x);
  if (memory) {
    in.memory = Sequence("memory", *memory);
    if (memory->array.ndim() != x.array.ndim() || memory->heads != x.heads)
      Bad("memory: batch must be that of x " + ShapeOf(x.array) + ", is " + ShapeOf(memory->array));
    if (memory->columns != x.columns)
      Bad("memory: must have x's " + std::to_string(x.columns) + " columns, has " +
          std::to_string(memory->columns));
    p.layer.cross = true;
    p.keys = memory->rows;
  }
  p.Resolve();
  if (const std::string invalid = p.Invalid(); !invalid.empty()) Bad(invalid);
  Options options(layer.options);
  for (const auto& [option, value] : options_in)
    if (const std::string wrong = options.Set(option, value); !wrong.empty())
      Bad("options: " + wrong);
  if (const std::string reason = layer.refuse(p, options); !reason.empty()) Bad(reason);

  const std::vector<WeightShape> shapes = layer.layer->weights(p, options);
  if (weights_in.size() != shapes.size())
    Bad("weights: " + name + " has " + std::to_string(shapes.size()) + ", " +
        std::to_string(weights_in.size()) + " are given");
  std::vector<py::array> held;
  std::vector<const float*> weights;
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const py::object given = weights_in[i];
    held.push_back(Weight(shapes[i].name, given, {shapes[i].rows, shapes[i].columns}));
    weights.push_back(static_cast<const float*>(held.back().data()));
  }
  in.weights = weights.data();

  if (return_weights && !(layer.provides & kWeights))
    Bad("return_weights: layer '" + name + "' has none");
  const std::size_t workspace_bytes = layer.workspace ? layer.workspace(p, options, threads) : 0;
  const double weights_bytes = return_weights ? 4.0 * p.batch * p.heads * p.queries * p.keys : 0;
  if (static_cast<double>(workspace_bytes) + weights_bytes >
      0.9 * static_cast<double>(MemoryLimitBytes()))
    Bad("x: the layer needs more memory than there is");

  const auto allocate = [&](std::vector<Index> shape) {
    if (x.array.ndim() == 2) shape.erase(shape.begin());
    return py::array_t<float>(shape);
  };
  py::array_t<float> y = allocate({p.batch, p.queries, p.layer.d_out});
  py::array_t<float> attended;
  Output out;
  out.out = {y.mutable_data(), DType::kF32, p.queries * p.layer.d_out, 0, p.layer.d_out};
  if (return_weights) {
    attended = allocate({p.batch, p.heads, p.queries, p.keys});
    out.weights = {attended.mutable_data(), DType::kF32, p.heads * p.queries * p.keys,
                   p.queries * p.keys, p.keys};
  }
  {
    const py::gil_scoped_release release;
    const Buffer workspace(workspace_bytes);
    const RunSetup setup(layer, p, options, in, threads, workspace.data());
    layer.run(p, in, out, setup.context());
  }
  if (return_weights) return py::make_tuple(y, attended);
  return y;
}

}  // namespace

void DefineLayers(py::module_& m) {
  const py::object none = py::none();
  m.def(
      "layers",
      [] {
        std::vector<std::string> names;
        for (const Kernel* layer : Layers()) names.emplace_back(layer->name);
        return names;
      },
      "The names of the layers.");
  m.def(
      "layer", RunLayer, py::arg("layer"), py::arg("x"), py::arg("weights"),
      py::arg("memory") = none, py::kw_only(), py::arg("heads") = 1, py::arg("kv_heads") = none,
      py::arg("head_dim") = none, py::arg("v_dim") = none, py::arg("d_out") = none,
      py::arg("width") = none, py::arg("encoding") = "none", py::arg("attention") = "auto",
      py::arg("causal") = false, py::arg("pattern") = none, py::arg("window") = none,
      py::arg("stride") = none, py::arg("offset") = none, py::arg("columns") = none,
      py::arg("sinks") = 0, py::arg("scale") = none, py::arg("threads") = 1,
      py::arg("options") = std::map<std::string, Index>(), py::arg("return_weights") = false,
      "A layer of x [B, n, d] or [n, d], float32, with its weight matrices in the layer's order;\n"
      "memory: the second sequence of cross-attention. Returns Y, or (Y, attention weights). Bad\n"
      "arguments and refusals: ValueError that begins with the argument's name.");
}

}  // namespace attnbench
