// SPDX-License-Identifier: Apache-2.0
#include "harness/measure.h"

#include <benchmark/benchmark.h>
#include <malloc.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <new>
#include <stdexcept>

#include "harness/ceilings.h"
#include "harness/conform.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/pinning.h"

namespace attnbench {

double (*hosted_call_overhead_ns)() = nullptr;

namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

double Nanoseconds(Clock::duration time) {
  return std::chrono::duration<double, std::nano>(time).count();
}

json ToJson(const Cost& cost) {
  return {{"flops", cost.flops}, {"exps", cost.exps}, {"bytes", cost.bytes}};
}

// What one case needs to run, made once: also the ring of copies for the cold cache.
struct Prepared {
  const Kernel* kernel = nullptr;
  Problem problem;
  Options options = {};
  int threads = 1;
  Buffer workspace = {};
  std::shared_ptr<const void> plan = {};
  std::vector<const OwnedInputs*> inputs = {};
  std::vector<OwnedOutput> outputs = {};
  std::vector<TileList> selected = {};
  std::size_t next = 0;

  Context MakeContext() const {
    return {
        .threads = threads, .options = &options, .workspace = workspace.data(), .plan = plan.get()};
  }
  void RunOnce() {
    const std::size_t i = next;
    next = next + 1 == inputs.size() ? 0 : next + 1;
    Context context = MakeContext();
    if (kernel->select) context.selected = &selected[i];
    // A hosted kernel leaves its output where its library put it when none is asked for: the copy
    // into ours belongs to the check, not to the library's time.
    const Output output = kernel->host == "python" ? Output{} : outputs[i].view();
    kernel->run(problem, inputs[i]->view(), output, context);
  }
};

// Copies such that the tensors fill three times the last-level cache, within a quarter of memory.
std::size_t RingSize(double bytes) {
  const double wanted = std::ceil(3.0 * LastLevelCacheBytes() / bytes) + 1;
  const double most = std::floor(0.25 * MemoryLimitBytes() / bytes);
  return static_cast<std::size_t>(std::clamp(wanted, 2.0, std::max(2.0, most)));
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

struct Samples {
  std::vector<double> ns;
  Index runs_per_sample = 1;
  std::string stop;
  bool warm = true;
  double waited_fraction = 0;  // of the time spent sampling, the processor served others
};

Samples Sample(Prepared* prepared, const MeasureSettings& settings) {
  // Warm-up: caches, pages, clock frequency; also says how long a run takes.
  double run_ns = std::numeric_limits<double>::infinity();
  const double warm_waited = WaitedNs();
  const auto warm_begin = Clock::now();
  std::size_t runs = 0;
  do {
    const auto begin = Clock::now();
    prepared->RunOnce();
    run_ns = std::min(run_ns, Nanoseconds(Clock::now() - begin));
    if (++runs == 1 && run_ns > settings.max_seconds * 1e9)  // too long to be run twice
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
  const auto stop = [&](const char* reason) {
    samples.stop = reason;
    samples.waited_fraction = (WaitedNs() - waited_before) / Nanoseconds(Clock::now() - begin);
    return samples;
  };
  const double limit_ns = settings.max_seconds * 1e9;
  // Where one run is longer than the limit, one sample a round has to do.
  Index batch =
      std::clamp<Index>(static_cast<Index>(limit_ns / sample_ns), 1, settings.min_samples);
  while (true) {
    RunBatch(prepared, batch, samples.runs_per_sample, &samples.ns);
    const MedianInterval interval = MedianWithInterval(samples.ns);
    // An interval needs six samples to be one of 95 %.
    if (samples.ns.size() >= 6 &&
        interval.high - interval.low <= settings.target_interval * interval.median)
      return stop("precision");
    const double left_ns = limit_ns - Nanoseconds(Clock::now() - begin);
    if (left_ns < sample_ns) return stop("time");
    // Grow by half, so that the rule is asked often enough and its cost stays small.
    batch = std::clamp<Index>(std::ssize(samples.ns) / 2, 1,
                              std::max<Index>(1, static_cast<Index>(left_ns / sample_ns)));
  }
}

// Probes beside the case. Bandwidth only where it can be the roof.
struct Probes {
  std::vector<double> gflops, gbps;

  void Take(const Problem& p, const Cost& useful, double touched_bytes, int threads) {
    gflops.push_back(ProbeFlops(p.dtype, threads));
    if (useful.flops < 16 * useful.bytes)
      gbps.push_back(ProbeReadGbps(static_cast<std::size_t>(touched_bytes), threads));
  }
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

// Empty, or what is wrong; the error goes into the record either way.
std::string CheckInto(json* record, const Case& c, const Kernel& kernel, const Options& options,
                      const OwnedInputs& inputs, const std::shared_ptr<const void>& plan,
                      const MeasureSettings& settings) {
  const Verdict verdict =
      Check(kernel, c.problem, options, inputs.view(),
            {.rows = settings.check_rows, .seed = c.seed + 1, .threads = c.threads, .plan = plan});
  (*record)["error"] = verdict.error;
  (*record)["error_frobenius"] = verdict.error_frobenius;
  (*record)["tolerance"] = verdict.tolerance;
  (*record)["rows_checked"] = verdict.rows_checked;
  return verdict.reason;
}

const Kernel& KernelOf(const Case& c) {
  const Kernel* kernel = FindKernel(c.kernel);
  if (!kernel) throw std::invalid_argument("kernel: unknown kernel '" + c.kernel + "'");
  return *kernel;
}

// The inputs of the last case, kept: isolation = "problem" runs all kernels on the same ones.
const OwnedInputs& InputsOf(const Case& c) {
  static std::string held;
  static OwnedInputs inputs;
  const std::string wanted = ProblemHash(c) + c.input.file;
  if (held != wanted) {
    held.clear();
    inputs = OwnedInputs();
    inputs = OwnedInputs::Make(c.problem, c.input, c.seed);
    held = wanted;
  }
  return inputs;
}

json Start(const Case& c, const Kernel& kernel, Options* options) {
  if (std::string wrong = ResolveOptions(c, kernel, options); !wrong.empty())
    throw std::invalid_argument(wrong);
  json record = {{"host", kernel.host},
                 {"target", kernel.target ? json(kernel.target()) : json("baseline")},
                 {"cpus", PinThreads(c.threads, kernel.host != "python")}};
  const std::string refusal = kernel.refuse ? kernel.refuse(c.problem, *options) : "";
  if (!refusal.empty()) {
    record["status"] = "refused";
    record["reason"] = refusal;
    return record;
  }
  record["status"] = "ok";
  record["reason"] = "";
  record["workspace_bytes"] =
      kernel.workspace ? kernel.workspace(c.problem, *options, c.threads) : 0;
  return record;
}

}  // namespace

MedianInterval MedianWithInterval(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  const int n = static_cast<int>(samples.size());
  MedianInterval interval{
      .median = Median(samples), .low = samples.front(), .high = samples.back()};
  // The number of samples under the median is binomial(n, 1/2): drop from both ends as long as the
  // tails that are cut off hold at most 2.5 % each.
  double term = std::pow(0.5, n), tail = 0;  // P(exactly k), P(at most k)
  if (term == 0) {                           // n > 1000: the normal approximation is exact enough
    const int k = static_cast<int>((n - 1.96 * std::sqrt(n)) / 2);
    interval.low = samples[k], interval.high = samples[n - 1 - k];
    return interval;
  }
  for (int k = 0; 2 * k < n; ++k) {
    tail += term;
    if (tail > 0.025) break;
    interval.low = samples[k], interval.high = samples[n - 1 - k];
    term *= static_cast<double>(n - k) / (k + 1);
  }
  return interval;
}

MeasureSettings MeasureSettingsFromJson(const json& j) {
  MeasureSettings s;
  for (const auto& [key, value] : j.items()) {
    if (key == "check")
      s.check = value;
    else if (key == "target_interval")
      s.target_interval = value;
    else if (key == "min_samples")
      s.min_samples = value;
    else if (key == "max_seconds")
      s.max_seconds = value;
    else if (key == "warmup_seconds")
      s.warmup_seconds = value;
    else if (key == "check_rows")
      s.check_rows = value;
    else if (key == "probe")
      s.probe = value;
    else
      throw std::invalid_argument("settings: unknown field '" + key + "'");
  }
  if (s.min_samples < 1) throw std::invalid_argument("settings: min_samples must be at least 1");
  if (s.check_rows < 0) throw std::invalid_argument("settings: check_rows must not be negative");
  return s;
}

json MeasureCase(const Case& c, const MeasureSettings& settings) {
  const Kernel& kernel = KernelOf(c);
  Prepared prepared{.kernel = &kernel, .problem = c.problem, .threads = c.threads};
  json record = Start(c, kernel, &prepared.options);
  if (record["status"] != "ok") return record;

  const OwnedInputs& inputs = InputsOf(c);
  const Cost useful = c.problem.Useful(inputs.view().key_lengths);
  record["useful"] = ToJson(useful);
  record["executed"] =
      ToJson(kernel.executed ? kernel.executed(c.problem, prepared.options) : useful);
  auto begin = Clock::now();
  if (kernel.plan) prepared.plan = kernel.plan(c.problem, prepared.options, c.threads);
  record["plan_ns"] = kernel.plan ? json(Nanoseconds(Clock::now() - begin)) : json(nullptr);
  if (settings.check) {
    const std::string wrong =
        CheckInto(&record, c, kernel, prepared.options, inputs, prepared.plan, settings);
    if (!wrong.empty()) {
      record["status"] = "incorrect";
      record["reason"] = wrong;
      return record;
    }
  }

  const std::size_t copies = c.cache == "cold" ? RingSize(TensorBytes(c.problem)) : 1;
  const double touched_bytes = TensorBytes(c.problem) * static_cast<double>(copies);
  std::vector<OwnedInputs> clones;
  clones.reserve(copies);
  for (std::size_t i = 0; i < copies; ++i) {
    if (i > 0) clones.push_back(inputs.Clone());
    prepared.inputs.push_back(i > 0 ? &clones.back() : &inputs);
    prepared.outputs.emplace_back(c.problem, 0);
    prepared.outputs.back().Fill(0);
  }
  prepared.workspace = Buffer(record["workspace_bytes"].get<std::size_t>());

  begin = Clock::now();
  if (kernel.select)
    for (const OwnedInputs* in : prepared.inputs)
      prepared.selected.push_back(kernel.select(c.problem, in->view(), prepared.MakeContext()));
  record["select_ns"] = kernel.select
                            ? json(Nanoseconds(Clock::now() - begin) / static_cast<double>(copies))
                            : json(nullptr);

  if (kernel.host == "python")  // the first run on an input prepares it: not to be timed
    for (std::size_t i = 0; i < copies; ++i) prepared.RunOnce();

  Probes probes;
  if (settings.probe) probes.Take(c.problem, useful, touched_bytes, c.threads);
  Samples samples = Sample(&prepared, settings);
  if (settings.probe) probes.Take(c.problem, useful, touched_bytes, c.threads);

  const MedianInterval interval = MedianWithInterval(samples.ns);
  json flags = json::array();
  const auto slow = std::count_if(samples.ns.begin(), samples.ns.end(),
                                  [&](double ns) { return ns > 1.5 * interval.median; });
  if (slow > 0) flags.push_back("outliers");
  if (!samples.warm) flags.push_back("no_warmup");
  if (samples.waited_fraction > 0.02) flags.push_back("preempted");
  record["samples_ns"] = samples.ns;
  record["waited_fraction"] = samples.waited_fraction;
  record["runs_per_sample"] = samples.runs_per_sample;
  record["median_ns"] = interval.median;
  record["ci95_ns"] = {interval.low, interval.high};
  record["stop"] = samples.stop;
  if (kernel.host == "python" && hosted_call_overhead_ns)
    record["host_overhead_ns"] = hosted_call_overhead_ns();
  // A kernel that selects is charged for it.
  const double total_ns =
      interval.median + (kernel.select ? record["select_ns"].get<double>() : 0.0);
  const double gflops = useful.flops / total_ns;
  record["gflops"] = gflops;
  if (!probes.gflops.empty()) {
    double ceiling = Median(probes.gflops);
    record["ceiling_gflops"] = ceiling;
    record["probes_gflops"] = probes.gflops;
    const auto [least, most] = std::minmax_element(probes.gflops.begin(), probes.gflops.end());
    if (*least < 0.9 * *most) flags.push_back("ceiling_drift");
    if (!probes.gbps.empty()) {
      record["ceiling_gbps"] = Median(probes.gbps);
      ceiling = std::min(ceiling, Median(probes.gbps) * useful.flops / useful.bytes);
    }
    record["fraction_of_ceiling"] = gflops / ceiling;
  }
  record["flags"] = flags;
  return record;
}

namespace {

// A field of /proc/self/status, in bytes.
double StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(field + ":", 0) == 0) return 1024 * std::stod(line.substr(field.size() + 1));
  return 0;
}

}  // namespace

json MeasureMemory(const Case& c) {
  const Kernel& kernel = KernelOf(c);
  Prepared prepared{.kernel = &kernel, .problem = c.problem, .threads = c.threads};
  json record = Start(c, kernel, &prepared.options);
  if (record["status"] != "ok") return record;
#ifdef __GLIBC__
  // Memory that the heap keeps is resident already and would hide what the kernel takes of it.
  mallopt(M_MMAP_THRESHOLD, 16 << 10);
#endif
  const OwnedInputs inputs = OwnedInputs::Make(c.problem, c.input, c.seed);
  prepared.inputs.push_back(&inputs);
  prepared.outputs.emplace_back(c.problem, 0);
  prepared.outputs.back().Fill(0);
#pragma omp parallel num_threads(c.threads)
  {
    (void)omp_get_thread_num();
  }

  // From here on every page that becomes resident is the kernel's: its plan, its selection, the
  // workspace as far as it is touched, and what it allocates behind the contract's back.
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  std::ofstream("/proc/self/clear_refs") << "5\n";
  const double before = StatusBytes("VmRSS");
  prepared.workspace = Buffer(record["workspace_bytes"].get<std::size_t>());
  if (kernel.plan) prepared.plan = kernel.plan(c.problem, prepared.options, c.threads);
  if (kernel.select)
    prepared.selected.push_back(kernel.select(c.problem, inputs.view(), prepared.MakeContext()));
  prepared.RunOnce();
  record["peak_rss_bytes"] = std::max(0.0, StatusBytes("VmHWM") - before);
  return record;
}

}  // namespace attnbench
