// SPDX-License-Identifier: Apache-2.0
#include "harness/python_hosted.h"

#include <pybind11/eval.h>

#include <chrono>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <stdexcept>

#include "harness/case.h"
#include "harness/measure.h"

namespace attnbench {
namespace {

namespace py = pybind11;

// Python objects of one kernel; never freed, as the registry lives as long as the process.
struct Hosted {
  std::string name, idea, target;
  py::function refuse, prepare;
};

struct HostedPlan {
  const Hosted* hosted = nullptr;
  int threads = 1;
  py::object problem;
  struct Prepared {
    py::object run, output;
  };
  std::map<const void*, Prepared> by_input;  // key: where Q lies
};

py::object ToDict(const Problem& problem) {
  return py::module_::import("json").attr("loads")(ToJson(problem).dump());
}

// Runs `call` with the GIL; Python's exceptions become C++'s, with the peer's name.
template <class Call>
auto WithPython(const Hosted& hosted, Call&& call) {
  const py::gil_scoped_acquire gil;
  try {
    return call();
  } catch (const py::error_already_set& e) {
    const std::string what = e.what();  // the first line: a reason is one line in a record
    throw std::runtime_error(hosted.name + ": " + what.substr(0, what.find('\n')));
  }
}

py::dtype NumpyType(DType dtype) {
  if (dtype == DType::kF32) return py::dtype("float32");
  return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
}

// A view of the harness's memory, without a copy.
py::array View(const ConstTensor& t, Index batch, Index heads, Index rows, Index columns) {
  const Index size = static_cast<Index>(SizeOf(t.dtype));
  return py::array(NumpyType(t.dtype), {batch, heads, rows, columns},
                   {t.batch_stride * size, t.head_stride * size, t.row_stride * size, size}, t.data,
                   py::capsule(t.data, [](void*) {}));
}

void CopyOut(const Hosted& hosted, const Problem& p, const py::object& result, const Tensor& out) {
  const py::array array = py::module_::import("numpy").attr("ascontiguousarray")(result);
  const Index expected[] = {p.batch, p.heads, p.queries, p.v_dim};
  bool same = array.ndim() == 4 && array.dtype().is(NumpyType(p.out_dtype));
  same = same || (array.ndim() == 4 && std::string(py::str(array.dtype())) ==
                                           std::string(py::str(NumpyType(p.out_dtype))));
  for (int i = 0; same && i < 4; ++i) same = array.shape(i) == expected[i];
  if (!same)
    throw std::runtime_error(hosted.name + ": output() must be [batch, heads, queries, v_dim] in " +
                             std::string(py::str(NumpyType(p.out_dtype))) + ", is " +
                             std::string(py::str(array.attr("shape"))) + " " +
                             std::string(py::str(array.dtype())));
  const std::size_t row_bytes = SizeOf(p.out_dtype) * p.v_dim;
  const auto* from = static_cast<const std::byte*>(array.data());
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < p.heads; ++h)
      for (Index i = 0; i < p.queries; ++i, from += row_bytes) {
        if (p.out_dtype == DType::kF32)
          std::memcpy(out.Row<float>(b, h, i), from, row_bytes);
        else
          std::memcpy(out.Row<BFloat16>(b, h, i), from, row_bytes);
      }
}

std::shared_ptr<const void> MakePlan(const Hosted* hosted, const Problem& p, int threads) {
  return WithPython(*hosted, [&] {
    auto* plan =
        new HostedPlan{.hosted = hosted, .threads = threads, .problem = ToDict(p), .by_input = {}};
    return std::shared_ptr<const void>(plan, [](const void* held) {
      const py::gil_scoped_acquire gil;
      delete static_cast<const HostedPlan*>(held);
    });
  });
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  auto& plan = *const_cast<HostedPlan*>(static_cast<const HostedPlan*>(context.plan));
  WithPython(*plan.hosted, [&] {
    auto [at, fresh] = plan.by_input.try_emplace(in.q.data);
    if (fresh) {
      const py::object prepared =
          plan.hosted->prepare(plan.problem, View(in.q, p.batch, p.heads, p.queries, p.head_dim),
                               View(in.k, p.batch, p.kv_heads, p.keys, p.head_dim),
                               View(in.v, p.batch, p.kv_heads, p.keys, p.v_dim), plan.threads);
      at->second = {prepared.attr("run"), prepared.attr("output")};
    }
    at->second.run();
    if (out.out) CopyOut(*plan.hosted, p, at->second.output(), out.out);
  });
}

// The cost of the way into Python and back: the GIL, the look-up, a call of nothing.
double CallOverhead() {
  using Clock = std::chrono::steady_clock;
  static const Hosted nothing{
      .name = "nothing", .idea = "", .target = "", .refuse = {}, .prepare = {}};
  py::object run;
  {
    const py::gil_scoped_acquire gil;
    run = py::eval("lambda: None");
  }
  constexpr int kCalls = 2000;
  const auto begin = Clock::now();
  for (int i = 0; i < kCalls; ++i) WithPython(nothing, [&] { run(); });
  const double ns = std::chrono::duration<double, std::nano>(Clock::now() - begin).count();
  const py::gil_scoped_acquire gil;
  run = py::object();
  return ns / kCalls;
}

}  // namespace

void RegisterHostedKernel(const std::string& name, const std::string& idea,
                          const py::function& refuse, const py::function& prepare,
                          const std::string& target) {
  if (name.empty()) throw py::value_error("name: must not be empty");
  if (FindKernel(name)) throw py::value_error("name: kernel '" + name + "' exists already");
  hosted_call_overhead_ns = CallOverhead;
  // Leaked: destructors of Python objects must not run after the interpreter's end.
  const Hosted* hosted = new Hosted{name, idea, target, refuse, prepare};
  Kernel kernel;
  kernel.name = hosted->name;
  kernel.idea = hosted->idea;
  kernel.refuse = [hosted](const Problem& p, const Options&) {
    return WithPython(*hosted, [&] { return hosted->refuse(ToDict(p)).cast<std::string>(); });
  };
  kernel.plan = [hosted](const Problem& p, const Options&, int threads) {
    return MakePlan(hosted, p, threads);
  };
  kernel.run = Run;
  kernel.target = [hosted] { return hosted->target; };
  kernel.host = "python";
  RegisterKernel(std::move(kernel));
}

}  // namespace attnbench
