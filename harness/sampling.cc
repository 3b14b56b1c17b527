// SPDX-License-Identifier: Apache-2.0
#include "harness/sampling.h"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <fstream>
#include <limits>

namespace attnbench {
namespace {

using Clock = std::chrono::steady_clock;

double Nanoseconds(Clock::duration time) {
  return std::chrono::duration<double, std::nano>(time).count();
}

// Hands each measured batch to Google Benchmark and takes nothing back: the samples are our own.
class SilentReporter : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override { return true; }
  void ReportRuns(const std::vector<Run>&) override {}
};

// `count` more samples of `runs_per_sample` runs each, by Google Benchmark's loop.
void RunBatch(Prepared* prepared, Index count, Index runs_per_sample,
              std::vector<double>* samples_ns) {
  SilentReporter reporter;
  std::exception_ptr error;
  benchmark::RegisterBenchmark(
      "case",
      [&](benchmark::State& state) {
        for (auto _ : state) {
          if (error) {  // the loop must not be left early
            state.SetIterationTime(0);
            continue;
          }
          try {
            const auto begin = Clock::now();
            for (Index r = 0; r < runs_per_sample; ++r) prepared->RunOnce();
            const auto end = Clock::now();
            samples_ns->push_back(Nanoseconds(end - begin) / static_cast<double>(runs_per_sample));
            state.SetIterationTime(samples_ns->back() * 1e-9);
          } catch (...) {
            error = std::current_exception();
          }
        }
      })
      ->Iterations(count)
      ->UseManualTime();
  benchmark::RunSpecifiedBenchmarks(&reporter, "case");
  benchmark::ClearRegisteredBenchmarks();
  if (error) std::rethrow_exception(error);
}

// Beneath this a sample consists of several runs, so that the clock (about 25 ns) stays under
// 0.1 % of it.
constexpr double kShortestSampleNs = 3e4;

// How long this thread has been ready to run but was not run, in nanoseconds.
double WaitedNs() {
  std::ifstream schedstat("/proc/thread-self/schedstat");
  double ran = 0, waited = 0;
  schedstat >> ran >> waited;
  return waited;
}

}  // namespace

Context Prepared::MakeContext() const {
  return {
      .threads = threads, .options = &options, .workspace = workspace.data(), .plan = plan.get()};
}

void Prepared::RunOnce() {
  const std::size_t i = next;
  next = next + 1 == inputs.size() ? 0 : next + 1;
  Context context = MakeContext();
  if (kernel->select) context.selected = &selected[i];
  // A hosted kernel leaves its output where its library put it when none is asked for: the copy
  // into ours belongs to the check, not to the library's time.
  const Output output = kernel->host == "python" ? Output{} : outputs[i].view();
  kernel->run(problem, inputs[i]->view(), output, context);
}

Samples Sample(Prepared* prepared, const SamplingSettings& settings) {
  // Warm-up: caches, pages, clock frequency; also says how long a run takes.
  double run_ns = std::numeric_limits<double>::infinity();
  const double warm_waited = WaitedNs();
  const auto warm_begin = Clock::now();
  std::size_t runs = 0;
  do {
    const auto begin = Clock::now();
    prepared->RunOnce();
    run_ns = std::min(run_ns, Nanoseconds(Clock::now() - begin));
    if (++runs == 1 && run_ns > settings.stop.max_seconds * 1e9)  // too long to be run twice
      return {.ns = {run_ns},
              .stop = "time",
              .warm = false,
              .waited_fraction = (WaitedNs() - warm_waited) / run_ns};
  } while (Nanoseconds(Clock::now() - warm_begin) < settings.warmup_seconds * 1e9 ||
           runs < prepared->inputs.size());  // every copy of the ring is touched once

  Samples samples;
  samples.runs_per_sample =
      std::max<Index>(1, static_cast<Index>(std::ceil(kShortestSampleNs / std::max(run_ns, 1.0))));
  const double sample_ns = run_ns * static_cast<double>(samples.runs_per_sample);
  const double waited_before = WaitedNs();
  const auto begin = Clock::now();
  const auto rules = MakeStopRules(settings.stop);
  const double limit_ns = settings.stop.max_seconds * 1e9;
  // Where one run is longer than the limit, one sample a round has to do.
  Index batch =
      std::clamp<Index>(static_cast<Index>(limit_ns / sample_ns), 1, settings.min_samples);
  while (true) {
    RunBatch(prepared, batch, samples.runs_per_sample, &samples.ns);
    const double elapsed_ns = Nanoseconds(Clock::now() - begin);
    const SamplingState state{samples.ns, MedianWithInterval(samples.ns), elapsed_ns * 1e-9,
                              sample_ns * 1e-9};
    for (const auto& rule : rules) {
      if (!rule->Enough(state)) continue;
      samples.stop = rule->reason();
      samples.waited_fraction = (WaitedNs() - waited_before) / elapsed_ns;
      return samples;
    }
    // Grow by half, so that the rules are asked often enough and their cost stays small.
    batch = std::clamp<Index>(
        std::ssize(samples.ns) / 2, 1,
        std::max<Index>(1, static_cast<Index>((limit_ns - elapsed_ns) / sample_ns)));
  }
}

}  // namespace attnbench
