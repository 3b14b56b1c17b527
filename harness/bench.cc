// SPDX-License-Identifier: Apache-2.0
// attnbench-bench: the kernels as a plain Google Benchmark program, with its flags, its JSON and so
// its compare.py, and its Complexity. A cross-check of the sweep, not the sweep: nothing is checked
// here but that the kernel accepts the problem.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>

#include "harness/inputs.h"
#include "harness/run_setup.h"
#include "kernels/contract/kernel.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

void RunKernel(benchmark::State& state, const Kernel& kernel, bool causal) {
  Problem p;
  p.queries = state.range(0), p.head_dim = state.range(1);
  p.mask.causal = causal;
  p.Resolve();
  const Options options(kernel.options);
  const OwnedInputs inputs = OwnedInputs::Make(p, {}, 1);
  const OwnedOutput output(p, 0);
  const Buffer workspace = WorkspaceOf(kernel, p, options, 1);
  const RunSetup setup(kernel, p, options, inputs.view(), 1, workspace.data());
  for (auto _ : state) kernel.run(p, inputs.view(), output.view(), setup.context());
  state.SetComplexityN(p.queries);
  state.counters["GFLOP/s"] =
      benchmark::Counter(p.Useful().flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void RegisterAll() {
  for (const Kernel* kernel : Kernels()) {
    if (kernel->name == "reference") continue;  // the oracle is not there to be fast
    if (kernel->select) continue;               // its work is not the problem's
    for (bool causal : {false, true}) {
      Problem p;
      p.queries = 128, p.head_dim = 64, p.mask.causal = causal;
      p.Resolve();
      if (kernel->refuse && !kernel->refuse(p, Options(kernel->options)).empty()) continue;
      benchmark::RegisterBenchmark(
          (std::string(kernel->name) + (causal ? "/causal" : "/dense")).c_str(),
          [kernel, causal](benchmark::State& state) { RunKernel(state, *kernel, causal); })
          ->ArgNames({"n", "d"})
          ->RangeMultiplier(2)
          ->Ranges({{128, 2048}, {64, 64}})
          ->Unit(benchmark::kMicrosecond)
          ->UseRealTime()
          ->Complexity();
    }
  }
}

}  // namespace
}  // namespace attnbench

int main(int argc, char** argv) {
  if (const std::string wrong = attnbench::ForceTargetFromEnvironment(); !wrong.empty()) {
    std::fprintf(stderr, "attnbench: %s\n", wrong.c_str());
    return 2;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  attnbench::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
