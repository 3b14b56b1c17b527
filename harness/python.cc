// SPDX-License-Identifier: Apache-2.0
// attnbench._core: the registry of kernels for Python, and kernels in Python for the registry.
// What is convenient stands in the package on top (analysis/attnbench/__init__.py).
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <iostream>
#include <optional>

#include "harness/calibrated_inputs.h"
#include "harness/ceilings.h"
#include "harness/child.h"
#include "harness/conform.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/measure.h"
#include "harness/python_arguments.h"
#include "harness/python_hosted.h"
#include "harness/python_layer.h"
#include "harness/run_setup.h"
#include "harness/tile_lists.h"
#include "kernels/contract/plugin.h"
#include "kernels/simd/target.h"

namespace py = pybind11;

namespace attnbench {
namespace {

py::object ToPython(const nlohmann::json& json) {
  return py::module_::import("json").attr("loads")(json.dump());
}

// The kernel named, or for "auto" the first that serves the problem: flash before all, the slow and
// obvious ones last.
const Kernel& ChooseKernel(const std::string& name, const Problem& problem, unsigned provides) {
  if (name != "auto") {
    if (const Kernel* kernel = FindKernel(name)) return *kernel;
    std::string known;
    for (const Kernel* kernel : Kernels())
      known.append(known.empty() ? "" : ", ").append(kernel->name);
    Bad("kernel: unknown kernel '" + name + "' (known: " + known + ")");
  }
  const auto rank = [](const Kernel& k) {
    return k.name == "flash" ? 0 : k.name == "naive" ? 2 : k.name == "reference" ? 3 : 1;
  };
  const Kernel* best = nullptr;
  for (const Kernel* kernel : Kernels()) {
    // One that selects keys solves another problem than the one it is asked for.
    if (kernel->host != "cpp" || kernel->select || (provides & ~kernel->provides)) continue;
    if (kernel->refuse && !kernel->refuse(problem, Options(kernel->options)).empty()) continue;
    if (!best || rank(*kernel) < rank(*best)) best = kernel;
  }
  return *best;  // the reference serves everything
}

// An array for the output, with as many dimensions as the inputs have.
py::array Allocate(const py::object& dtype, const std::vector<Index>& shape, int ndim) {
  const std::vector<Index> kept(shape.end() - ndim, shape.end());
  return py::module_::import("numpy").attr("empty")(py::cast(kept), dtype);
}

Tensor Packed(py::array& array, DType dtype, Index heads, Index rows, Index columns) {
  return {array.mutable_data(), dtype, heads * rows * columns, rows * columns, columns};
}

py::object Attention(const py::object& q_in, const py::object& k_in, const py::object& v_in,
                     const std::string& kernel_name, bool causal,
                     const std::optional<std::string>& pattern, MaybeIndex window,
                     MaybeIndex stride, MaybeIndex offset, MaybeIndex columns, Index sinks,
                     MaybeIndex tile, const py::object& tiles, std::optional<double> scale,
                     double softcap, int threads, const py::object& bias_in,
                     const py::object& key_lengths_in, const std::string& score,
                     const py::object& w_in, const py::object& u_in, const py::object& v_score_in,
                     const py::object& centers_in, const std::map<std::string, Index>& options_in,
                     bool return_lse, bool return_weights) {
  const auto numpy = py::module_::import("numpy");
  const Argument q("q", q_in), k("k", k_in), v("v", v_in);
  const int ndim = static_cast<int>(q.array.ndim());
  for (const auto& [name, x] : {std::pair<const char*, const Argument*>{"k", &k}, {"v", &v}}) {
    const std::string at = std::string(name) + ": ";
    if (x->array.ndim() != ndim)
      Bad(at + "must have as many dimensions as q, " + ShapeOf(q.array) + ", is " +
          ShapeOf(x->array));
    if (x->dtype != q.dtype) Bad(at + "dtype must be that of q");
    if (x->batch != q.batch)
      Bad(at + "batch must be that of q, " + std::to_string(q.batch) + ", is " +
          std::to_string(x->batch));
  }
  if (k.columns != q.columns)
    Bad("k: head_dim must be that of q, " + std::to_string(q.columns) + ", is " +
        std::to_string(k.columns));
  if (v.heads != k.heads) Bad("v: must have as many heads as k");
  if (v.rows != k.rows)
    Bad("v: must have as many rows as k, " + std::to_string(k.rows) + ", has " +
        std::to_string(v.rows));
  if (q.heads % k.heads != 0)
    Bad("k: q's heads (" + std::to_string(q.heads) + ") must be a multiple of its heads (" +
        std::to_string(k.heads) + ")");
  if (threads < 1 || threads > 1024)
    Bad("threads: must be in 1 ... 1024, is " + std::to_string(threads));

  Problem p;
  p.batch = q.batch, p.heads = q.heads, p.kv_heads = k.heads, p.queries = q.rows, p.keys = k.rows;
  p.head_dim = q.columns, p.v_dim = v.columns;
  p.dtype = p.out_dtype = q.dtype;
  p.softcap = softcap;
  if (scale) {
    if (!std::isfinite(*scale)) Bad("scale: must be finite");
    p.scale = *scale;
  }
  if (!Parse(score, &p.score)) Bad("score: unknown score '" + score + "'");
  p.mask = MakeMask(causal, pattern, window, stride, offset, columns, sinks, tile, tiles);
  p.has_bias = !bias_in.is_none();
  p.has_key_lengths = !key_lengths_in.is_none();
  p.has_centers = !centers_in.is_none();

  Inputs in;
  in.q = q.View(), in.k = k.View(), in.v = v.View();
  py::array w, u, v_score, bias, centers;
  std::vector<Index> key_lengths;
  const Index d = p.head_dim;
  if (p.score == Score::kConcat || p.score == Score::kAdditive) {
    const py::array guess = numpy.attr("asarray")(v_score_in);
    if (v_score_in.is_none() || guess.ndim() != 1) Bad("v_score: must be [hidden]");
    p.hidden = guess.shape(0);
    v_score = Weight("v_score", v_score_in, {p.hidden});
    w = Weight("w", w_in, {p.hidden, p.score == Score::kConcat ? 2 * d : d});
    if (p.score == Score::kAdditive) u = Weight("u", u_in, {p.hidden, d});
  } else if (p.score == Score::kGeneral) {
    w = Weight("w", w_in, {d, d});
  } else if (p.score == Score::kLocation) {
    w = Weight("w", w_in, {p.keys, d});
  }
  const auto data = [](const py::array& a) {
    return a.size() ? static_cast<const float*>(a.data()) : nullptr;
  };
  in.score = {data(w), data(u), data(v_score)};
  if (p.has_bias) {
    bias = numpy.attr("asarray")(bias_in);
    if (DTypeOf("bias", bias) != DType::kF32) Bad("bias: dtype must be float32");
    const std::string shape = ShapeOf(bias);
    try {
      bias = numpy.attr("broadcast_to")(bias, py::make_tuple(p.batch, p.heads, p.queries, p.keys));
    } catch (const py::error_already_set&) {
      Bad("bias: must broadcast to [batch, heads, queries, keys], is " + shape);
    }
    bias = Readable(bias);
    const auto step = [&](int i) { return bias.strides(i) / 4; };
    in.bias = {bias.data(), DType::kF32, step(0), step(1), step(2)};
  }
  if (p.has_key_lengths) {
    const py::array lengths = numpy.attr("asarray")(key_lengths_in);
    if (lengths.ndim() != 1 || lengths.shape(0) != p.batch ||
        std::string("iu").find(lengths.dtype().kind()) == std::string::npos)
      Bad("key_lengths: must be [batch] integers");
    key_lengths = lengths.cast<std::vector<Index>>();
    for (Index length : key_lengths)
      if (length < 0 || length > p.keys)
        Bad("key_lengths: must be in 0 ... " + std::to_string(p.keys) + ", has " +
            std::to_string(length));
    in.key_lengths = key_lengths.data();
  }
  if (p.has_centers) {
    centers = numpy.attr("ascontiguousarray")(centers_in);
    if (DTypeOf("centers", centers) != DType::kF32 ||
        centers.size() != p.batch * p.heads * p.queries)
      Bad("centers: must be float32 [batch, heads, queries]");
    in.centers = data(centers);
  }
  p.Resolve();
  if (const std::string invalid = p.Invalid(); !invalid.empty()) Bad(invalid);

  const unsigned provides = (return_lse ? kLse : 0u) | (return_weights ? kWeights : 0u);
  const Kernel& kernel = ChooseKernel(kernel_name, p, provides);
  if (provides & ~kernel.provides)
    Bad(std::string(provides & kLse & ~kernel.provides ? "return_lse" : "return_weights") +
        ": kernel '" + std::string(kernel.name) + "' does not provide it");
  Options options(kernel.options);
  for (const auto& [name, value] : options_in)
    if (const std::string wrong = options.Set(name, value); !wrong.empty())
      Bad("options: " + wrong);
  if (kernel.refuse)
    if (const std::string reason = kernel.refuse(p, options); !reason.empty())
      Bad("kernel: '" + std::string(kernel.name) + "' refuses this problem: " + reason);

  // Memory is handed out before it is there: say no before the system has to.
  const std::size_t workspace_bytes = kernel.workspace ? kernel.workspace(p, options, threads) : 0;
  const double weights_bytes = return_weights ? 4.0 * p.batch * p.heads * p.queries * p.keys : 0;
  const double needed = static_cast<double>(workspace_bytes) + weights_bytes;
  if (needed > 0.9 * static_cast<double>(MemoryLimitBytes()))
    Bad((weights_bytes > static_cast<double>(workspace_bytes)
             ? std::string("return_weights:")
             : "kernel: '" + std::string(kernel.name) + "'") +
        " needs " + std::to_string(static_cast<long long>(needed * 0x1p-30)) +
        " GiB of memory, more than there is");

  Output out;
  py::array o = Allocate(q.array.dtype(), {p.batch, p.heads, p.queries, p.v_dim}, ndim);
  out.out = Packed(o, p.out_dtype, p.heads, p.queries, p.v_dim);
  py::array lse, weights;
  if (return_lse) {
    lse = Allocate(py::str("float32"), {p.batch, p.heads, p.queries}, ndim - 1);
    out.lse = static_cast<float*>(lse.mutable_data());
  }
  if (return_weights) {
    weights = Allocate(py::str("float32"), {p.batch, p.heads, p.queries, p.keys}, ndim);
    out.weights = Packed(weights, DType::kF32, p.heads, p.queries, p.keys);
  }
  {
    const py::gil_scoped_release release;
    const Buffer workspace(workspace_bytes);
    const RunSetup setup(kernel, p, options, in, threads, workspace.data());
    kernel.run(p, in, out, setup.context());
  }
  if (return_lse && return_weights) return py::make_tuple(o, lse, weights);
  if (return_lse) return py::make_tuple(o, lse);
  if (return_weights) return py::make_tuple(o, weights);
  return o;
}

// Boolean [queries, keys]: who may look at whom.
py::array MaskArray(Index queries, Index keys, bool causal,
                    const std::optional<std::string>& pattern, MaybeIndex window, MaybeIndex stride,
                    MaybeIndex offset, MaybeIndex columns, Index sinks, MaybeIndex tile,
                    const py::object& tiles) {
  Problem p;
  p.queries = queries, p.keys = keys, p.head_dim = 1;
  p.mask = MakeMask(causal, pattern, window, stride, offset, columns, sinks, tile, tiles);
  p.Resolve();
  if (const std::string invalid = p.Invalid(); !invalid.empty()) Bad(invalid);
  py::array_t<bool> admitted({p.queries, p.keys});
  auto at = admitted.mutable_unchecked<2>();
  for (Index i = 0; i < p.queries; ++i)
    for (Index j = 0; j < p.keys; ++j) at(i, j) = p.Admits(i, j);
  return admitted;
}

// Q and K [n, head_dim] of one calibrated head that the table need not have.
py::tuple CalibratedArrays(Index n, Index head_dim, double deviation, double locality, double sink,
                           std::uint64_t seed) {
  if (head_dim < kLeastCalibratedDim || head_dim > 4096) Bad("head_dim: must be in 4 ... 4096");
  if (n < 1 || n > (1 << 20)) Bad("n: must be in 1 ... 2^20");
  for (const double number : {deviation, locality, sink})
    if (!std::isfinite(number)) Bad("deviation, locality, sink: must be finite");
  if (deviation < 0 || locality < 0) Bad("deviation, locality: must be at least 0");
  Problem p;
  p.queries = n, p.head_dim = head_dim;
  p.Resolve();
  const CalibratedHead head{.tokens = n,
                            .head_dim = head_dim,
                            .deviation = deviation,
                            .locality = locality,
                            .sink = sink};
  py::array q = Allocate(py::str("float32"), {n, head_dim}, 2);
  py::array k = Allocate(py::str("float32"), {n, head_dim}, 2);
  FillCalibratedQueries(head, p, 2 * seed, Packed(q, DType::kF32, 1, n, head_dim), 0, 0);
  FillCalibratedKeys(head, p, 2 * seed + 1, Packed(k, DType::kF32, 1, n, head_dim), 0, 0);
  return py::make_tuple(q, k);
}

// Boolean [rows, columns]: which tiles a spec admits.
py::array TileArray(Index queries, Index keys, Index tile, Index band, Index dilation,
                    Index global_tiles, Index random_tiles, bool causal) {
  const TileSpec spec{tile, band, dilation, global_tiles, random_tiles};
  for (const auto& [name, value] :
       {std::pair<const char*, Index>{"queries", queries}, {"keys", keys}})
    if (value < 1 || value > (Index{1} << 40)) Bad(std::string(name) + ": must be at least 1");
  if (const std::string wrong = Invalid(spec, queries, keys); !wrong.empty()) Bad(wrong);
  const TileList list = MakeTiles(spec, queries, keys, causal);
  const Index rows = std::ssize(list.row_begin) - 1, columns = (keys + tile - 1) / tile;
  py::array_t<bool> admitted({rows, columns});
  auto at = admitted.mutable_unchecked<2>();
  for (Index row = 0; row < rows; ++row)
    for (Index column = 0; column < columns; ++column)
      at(row, column) = list.Contains(row * tile, column * tile);
  return admitted;
}

py::list KernelList() {
  py::list list;
  for (const Kernel* kernel : Kernels()) {
    py::list provides, options;
    if (kernel->provides & kLse) provides.append("lse");
    if (kernel->provides & kWeights) provides.append("weights");
    for (const Option& option : kernel->options) {
      py::dict o;
      o["name"] = option.name;
      o["default"] = option.default_value;
      o["min"] = option.min;
      o["max"] = option.max;
      o["help"] = option.help;
      options.append(o);
    }
    py::dict info;
    info["name"] = std::string(kernel->name);
    info["idea"] = std::string(kernel->idea);
    info["host"] = std::string(kernel->host);
    info["provides"] = provides;
    info["options"] = options;
    info["target"] = kernel->target ? kernel->target() : "baseline";
    list.append(info);
  }
  return list;
}

}  // namespace
}  // namespace attnbench

PYBIND11_MODULE(_core, m) {
  using namespace attnbench;
  m.doc() = "Attention kernels of attnbench: the registry, and the loop that measures them.";
  if (const std::string wrong = ForceTargetFromEnvironment(); !wrong.empty())
    throw py::import_error(wrong);
  const py::object none = py::none();

  m.def("kernels", KernelList, "A dict per kernel: name, idea, host, provides, options, target.");
  m.def(
      "attention", Attention, py::arg("q"), py::arg("k"), py::arg("v"), py::kw_only(),
      py::arg("kernel") = "flash", py::arg("causal") = false, py::arg("pattern") = none,
      py::arg("window") = none, py::arg("stride") = none, py::arg("offset") = none,
      py::arg("columns") = none, py::arg("sinks") = 0, py::arg("tile") = none,
      py::arg("tiles") = none, py::arg("scale") = none, py::arg("softcap") = 0.0,
      py::arg("threads") = 1, py::arg("bias") = none, py::arg("key_lengths") = none,
      py::arg("score") = "scaled_dot", py::arg("w") = none, py::arg("u") = none,
      py::arg("v_score") = none, py::arg("centers") = none,
      py::arg("options") = std::map<std::string, Index>(), py::arg("return_lse") = false,
      py::arg("return_weights") = false,
      "Attention of q [B, H, n, d] over k [B, G, m, d] and v [B, G, m, dv] (or without B, or\n"
      "without B and H), float32 or bfloat16. Returns out [B, H, n, dv], or (out[, lse]\n"
      "[, weights]). kernel='auto' takes the first kernel that serves the problem. Bad arguments\n"
      "and refusals: ValueError that begins with the argument's name. The GIL is released.");
  DefineLayers(m);
  m.def("mask", MaskArray, py::arg("queries"), py::arg("keys"), py::kw_only(),
        py::arg("causal") = false, py::arg("pattern") = none, py::arg("window") = none,
        py::arg("stride") = none, py::arg("offset") = none, py::arg("columns") = none,
        py::arg("sinks") = 0, py::arg("tile") = none, py::arg("tiles") = none,
        "Boolean [queries, keys]: which pairs the mask admits.");
  m.def("tiles", TileArray, py::arg("queries"), py::arg("keys"), py::kw_only(), py::arg("tile"),
        py::arg("band") = TileSpec::kNoBand, py::arg("dilation") = 1, py::arg("global_tiles") = 0,
        py::arg("random_tiles") = 0, py::arg("causal") = false,
        "Boolean [rows, columns] of tiles: what experiment files make pattern 'tiles' from.");
  m.def(
      "calibrated_heads",
      [] {
        py::list heads;
        for (const CalibratedHead& h : CalibratedHeads())
          heads.append(py::dict(py::arg("deviation") = h.deviation,
                                py::arg("locality") = h.locality, py::arg("sink") = h.sink,
                                py::arg("tokens") = h.tokens, py::arg("head_dim") = h.head_dim));
        return heads;
      },
      "The fitted heads, a dict each: deviation, locality, sink, and tokens, at which they hold.");
  m.def("calibrated", CalibratedArrays, py::arg("n"), py::arg("head_dim"), py::kw_only(),
        py::arg("deviation"), py::arg("locality"), py::arg("sink"), py::arg("seed") = 0,
        "q and k [n, head_dim], float32, of a head with these parameters: see [input] kind =\n"
        "'calibrated'.");
  m.def("register_kernel", RegisterHostedKernel, py::arg("name"), py::arg("idea"),
        py::arg("refuse"), py::arg("prepare"), py::arg("target") = "",
        "Adds a kernel hosted in Python. refuse(problem: dict) -> str, empty when accepted;\n"
        "prepare(problem: dict, q, k, v, threads) -> object with run() and output() ->\n"
        "[B, H, n, dv]. q, k, v are views [B, H, n, d]; target says what computes (a version).");
  m.def(
      "load_plugin",
      [](const std::string& path) {
        if (const std::string wrong = LoadPlugin(path); !wrong.empty()) Bad(wrong);
      },
      py::arg("path"), "Registers the kernels of a plugin; ValueError says why not.");
  m.def(
      "check",
      [](const std::vector<std::string>& kernels, int threads, Index fuzz, std::uint64_t seed,
         Index every) {
        const py::gil_scoped_release release;
        return RunConformance({kernels, threads, fuzz, seed, every}, std::cout);
      },
      py::arg("kernels"), py::arg("threads") = 2, py::arg("fuzz") = 200, py::arg("seed") = 0,
      py::arg("every") = 1,
      "Compares kernels with the oracle over the edge shapes, a line each; the exit status.");
  m.def(
      "child_loop", [](int in_fd, int out_fd) { return ChildLoop(in_fd, out_fd); },
      py::arg("in_fd") = 0, py::arg("out_fd") = 1, py::call_guard<py::gil_scoped_release>(),
      "Answers measuring requests, one JSON line each, until end of file.");
  m.def(
      "environment",
      [](std::uint64_t seed) { return ToPython(DescribeEnvironment(0, nullptr, seed)); },
      py::arg("seed") = 0, "What environment.json holds.");
  m.def(
      "peak", [](const std::vector<int>& threads) { return ToPython(PeakTable(threads)); },
      py::arg("threads") = std::vector<int>{1}, "The measured ceilings, a row a thread count.");
  m.def("build_id", BuildId);
  m.def("target", DispatchedTarget, "The instruction set in use, as 'AVX3_ZEN4'.");
}
