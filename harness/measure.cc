// SPDX-License-Identifier: Apache-2.0
#include "harness/measure.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "harness/ceilings.h"
#include "harness/conform.h"
#include "harness/counters.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "harness/peak_memory.h"
#include "harness/pinning.h"
#include "harness/sampling.h"

namespace attnbench {

double (*hosted_call_overhead_ns)() = nullptr;

using nlohmann::json;

json ToJson(const Cost& cost) {
  return {{"flops", cost.flops}, {"exps", cost.exps}, {"bytes", cost.bytes}};
}

void SamplesInto(json* record, const Samples& samples) {
  const MedianInterval interval = MedianWithInterval(samples.ns);
  json flags = json::array();
  const auto slow = std::count_if(samples.ns.begin(), samples.ns.end(),
                                  [&](double ns) { return ns > 1.5 * interval.median; });
  if (slow > 0) flags.push_back("outliers");
  if (!samples.warm) flags.push_back("no_warmup");
  if (samples.waited_fraction > 0.02) flags.push_back("preempted");
  (*record)["samples_ns"] = samples.ns;
  (*record)["waited_fraction"] = samples.waited_fraction;
  (*record)["runs_per_sample"] = samples.runs_per_sample;
  (*record)["median_ns"] = interval.median;
  (*record)["ci95_ns"] = {interval.low, interval.high};
  (*record)["stop"] = samples.stop;
  (*record)["flags"] = flags;
}

void RateInto(json* record, const Cost& useful, double total_ns, const Probes& probes) {
  const double gflops = useful.flops / total_ns;
  (*record)["gflops"] = gflops;
  if (probes.gflops.empty()) return;
  double ceiling = Median(probes.gflops);
  (*record)["ceiling_gflops"] = ceiling;
  (*record)["probes_gflops"] = probes.gflops;
  const auto [least, most] = std::minmax_element(probes.gflops.begin(), probes.gflops.end());
  if (*least < 0.9 * *most) (*record)["flags"].push_back("ceiling_drift");
  if (!probes.gbps.empty()) {
    (*record)["ceiling_gbps"] = Median(probes.gbps);
    ceiling = std::min(ceiling, Median(probes.gbps) * useful.flops / useful.bytes);
  }
  (*record)["fraction_of_ceiling"] = gflops / ceiling;
}

json PartsOf(const Ranks::Parts& parts) {
  const double n = std::max(1, parts.runs);
  return {{"compute_ns", parts.compute_ns / n},
          {"progress_ns", parts.progress_ns / n},
          {"wait_ns", parts.wait_ns / n},
          {"merge_ns", parts.merge_ns / n},
          {"bytes_sent", parts.bytes_sent / n}};
}

void PartsInto(json* record, const std::vector<json>& ranks) {
  json parts;
  for (const json& rank : ranks)
    for (const auto& [name, value] : rank.items()) parts[name].push_back(value);
  double sent = 0;
  for (const double bytes : parts["bytes_sent"]) sent += bytes;
  parts.erase("bytes_sent");
  (*record)["parts"] = parts;
  (*record)["bytes_sent"] = sent;
}

namespace {

using Clock = std::chrono::steady_clock;

double Nanoseconds(Clock::duration time) {
  return std::chrono::duration<double, std::nano>(time).count();
}

// Copies such that the tensors fill three times the last-level cache, within a quarter of memory.
std::size_t RingSize(double bytes) {
  const double wanted = std::ceil(3.0 * LastLevelCacheBytes() / bytes) + 1;
  const double most = std::floor(0.25 * MemoryLimitBytes() / bytes);
  return static_cast<std::size_t>(std::clamp(wanted, 2.0, std::max(2.0, most)));
}

// Bandwidth only where it can be the roof, and for cold caches.
void Take(Probes* probes, const Case& c, const Cost& useful, double touched_bytes) {
  probes->gflops.push_back(ProbeFlops(c.problem.dtype, c.threads));
  if (useful.flops < 16 * useful.bytes || c.cache == "cold")
    probes->gbps.push_back(ProbeReadGbps(static_cast<std::size_t>(touched_bytes), c.threads));
}

// Empty, or what is wrong; the error goes into the record either way.
std::string CheckInto(json* record, const Case& c, const Kernel& kernel, const Options& options,
                      const OwnedInputs& inputs, const std::shared_ptr<const void>& plan,
                      const MeasureSettings& settings) {
  const Verdict verdict = Check(kernel, c.problem, options, inputs.view(),
                                {.rows = settings.check_rows,
                                 .seed = c.seed + 1,
                                 .threads = c.threads,
                                 .plan = plan,
                                 .dense = true});
  (*record)["error"] = verdict.error;
  (*record)["error_frobenius"] = verdict.error_frobenius;
  (*record)["tolerance"] = verdict.tolerance;
  (*record)["rows_checked"] = verdict.rows_checked;
  if (verdict.dense)
    (*record)["dense"] = {{"mass_recall", verdict.dense->mass_recall},
                          {"rel_l2", verdict.dense->rel_l2},
                          {"cosine", verdict.dense->cosine},
                          {"max", verdict.dense->max}};
  return verdict.reason;
}

// What the processor counts over a few more runs, in the first visit of a case.
void CountInto(json* record, const Case& c, Prepared* prepared, double run_ns,
               const MeasureSettings& settings) {
  if (prepared->kernel->host == "python") {
    (*record)["counters"] = nullptr;
    (*record)["counters_reason"] = "threads of a library's own are not counted";
    return;
  }
  if (run_ns > settings.sampling.stop.max_seconds * 1e9) {
    (*record)["counters"] = nullptr;
    (*record)["counters_reason"] = "one run takes longer than the sampling may";
    return;
  }
  const int runs = static_cast<int>(std::clamp(1e6 / run_ns, 1.0, 1000.0));
  const Counted counted = CountRuns(c.threads, runs, [&] { prepared->RunOnce(); });
  (*record)["counters"] = counted.values;
  (*record)["counters_reason"] = counted.reason;
}

// Selects for every copy of the inputs, and a few times more on the first: the median time, ns.
double Select(Prepared* prepared) {
  constexpr std::size_t kFewest = 5;
  std::vector<double> times;
  while (times.size() < std::max(kFewest, prepared->inputs.size())) {
    const OwnedInputs& in = *prepared->inputs[times.size() % prepared->inputs.size()];
    const auto begin = Clock::now();
    TileList tiles =
        prepared->kernel->select(prepared->problem, in.view(), prepared->MakeContext());
    times.push_back(Nanoseconds(Clock::now() - begin));
    if (prepared->selected.size() < prepared->inputs.size())
      prepared->selected.push_back(std::move(tiles));
  }
  return Median(times);
}

const Kernel& KernelOf(const Case& c) {
  const Kernel* kernel = FindKernel(c.kernel);
  if (!kernel) throw std::invalid_argument("kernel: unknown kernel '" + c.kernel + "'");
  return *kernel;
}

// The inputs of the last case, kept: isolation = "problem" runs all kernels on the same ones.
const OwnedInputs& InputsOf(const Case& c, const Kernel& kernel, const Options& options) {
  static std::string held;
  static OwnedInputs inputs;
  // A layer's options may say which weights it has.
  const std::string wanted = (kernel.layer ? Hash(c) : ProblemHash(c)) + c.input.file;
  if (held != wanted) {
    held.clear();
    inputs = OwnedInputs();
    inputs = OwnedInputs::Make(kernel, options, c.problem, c.input, c.seed);
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

MeasureSettings MeasureSettingsFromJson(const json& j) {
  MeasureSettings s;
  for (const auto& [key, value] : j.items()) {
    if (key == "check")
      s.check = value;
    else if (key == "target_interval")
      s.sampling.stop.target_interval = value;
    else if (key == "plateau")
      s.sampling.stop.plateau = value;
    else if (key == "min_samples")
      s.sampling.min_samples = value;
    else if (key == "max_seconds")
      s.sampling.stop.max_seconds = value;
    else if (key == "warmup_seconds")
      s.sampling.warmup_seconds = value;
    else if (key == "check_rows")
      s.check_rows = value;
    else if (key == "probe")
      s.probe = value;
    // Others are those of a newer build that compares itself with this one.
  }
  if (s.sampling.min_samples < 1)
    throw std::invalid_argument("settings: min_samples must be at least 1");
  if (s.check_rows < 0) throw std::invalid_argument("settings: check_rows must not be negative");
  return s;
}

json MeasureCase(const Case& c, const MeasureSettings& settings) {
  const Kernel& kernel = KernelOf(c);
  Prepared prepared{.kernel = &kernel, .problem = c.problem, .threads = c.threads};
  json record = Start(c, kernel, &prepared.options);
  if (record["status"] != "ok") return record;

  const OwnedInputs& inputs = InputsOf(c, kernel, prepared.options);
  Cost useful = UsefulOf(kernel, c.problem, prepared.options, inputs.view().key_lengths);
  record["useful"] = ToJson(useful);
  record["executed"] =
      ToJson(kernel.executed ? kernel.executed(c.problem, prepared.options) : useful);
  if (kernel.layer) {
    record["parameters"] = ParametersOf(WeightsOf(kernel, c.problem, prepared.options));
    record["sequential_operations"] = kernel.layer->sequential(c.problem);
  }
  const auto begin = Clock::now();
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

  const double tensor_bytes = TensorBytes(&kernel, c.problem, prepared.options);
  const std::size_t copies = c.cache == "cold" ? RingSize(tensor_bytes) : 1;
  const double touched_bytes = tensor_bytes * static_cast<double>(copies);
  if (c.cache == "cold") record["ring_bytes"] = touched_bytes;
  std::vector<OwnedInputs> clones;
  clones.reserve(copies);
  for (std::size_t i = 0; i < copies; ++i) {
    if (i > 0) clones.push_back(inputs.Clone());
    prepared.inputs.push_back(i > 0 ? &clones.back() : &inputs);
    prepared.outputs.emplace_back(c.problem, 0);
    prepared.outputs.back().Fill(0);
  }
  prepared.workspace = Buffer(record["workspace_bytes"].get<std::size_t>());

  record["select_ns"] = kernel.select ? json(Select(&prepared)) : json(nullptr);
  if (kernel.select) {  // useful is what it attends: it does not solve the problem it is given
    useful = JudgedProblem(c.problem, prepared.selected.data()).Useful(inputs.view().key_lengths);
    record["useful"] = ToJson(useful);
  }

  if (kernel.host == "python")  // the first run on an input prepares it: not to be timed
    for (std::size_t i = 0; i < copies; ++i) prepared.RunOnce();

  Probes probes;
  if (settings.probe) Take(&probes, c, useful, touched_bytes);
  Ranks::Mine().Reset();
  Samples samples = Sample(&prepared, settings.sampling);
  if (settings.probe) Take(&probes, c, useful, touched_bytes);

  SamplesInto(&record, samples);
  if (c.cache == "cold" && touched_bytes < 3.0 * static_cast<double>(LastLevelCacheBytes()))
    record["flags"].push_back("short_ring");
  if (DistributionOf(kernel)) PartsInto(&record, {PartsOf(Ranks::Mine().parts())});
  if (kernel.host == "python" && hosted_call_overhead_ns)
    record["host_overhead_ns"] = hosted_call_overhead_ns();
  if (settings.check) CountInto(&record, c, &prepared, record["median_ns"].get<double>(), settings);
  // A kernel that selects is charged for it; what it plans once serves many runs.
  const double total_ns =
      record["median_ns"].get<double>() + (kernel.select ? record["select_ns"].get<double>() : 0.0);
  record["total_ns"] = total_ns + (kernel.plan ? record["plan_ns"].get<double>() : 0.0);
  RateInto(&record, useful, total_ns, probes);
  return record;
}

json AskClaims(const Case& c) {
  const Kernel& kernel = KernelOf(c);
  Options options;
  if (std::string wrong = ResolveOptions(c, kernel, &options); !wrong.empty())
    throw std::invalid_argument(wrong);
  // The last words of a process that dies in one of them.
  const auto ask = [&](const char* what) {
    std::fprintf(stderr, "in %s of kernel '%s'\n", what, c.kernel.c_str());
  };
  json claims = {{"status", "ok"}, {"refusal", ""}};
  ask("refuse");
  if (kernel.refuse) claims["refusal"] = kernel.refuse(c.problem, options);
  if (claims["refusal"] != "") return claims;
  ask("workspace");
  claims["workspace_bytes"] =
      kernel.workspace ? kernel.workspace(c.problem, options, c.threads) : 0;
  ask("executed");
  claims["executed"] = ToJson(kernel.executed ? kernel.executed(c.problem, options)
                                              : UsefulOf(kernel, c.problem, options));
  return claims;
}

json MeasureMemory(const Case& c) {
  const Kernel& kernel = KernelOf(c);
  Prepared prepared{.kernel = &kernel, .problem = c.problem, .threads = c.threads};
  json record = Start(c, kernel, &prepared.options);
  if (record["status"] != "ok") return record;
  PeakMemory::ExposeHeap();
  const OwnedInputs inputs =
      OwnedInputs::Make(kernel, prepared.options, c.problem, c.input, c.seed);
  prepared.inputs.push_back(&inputs);
  prepared.outputs.emplace_back(c.problem, 0);
  prepared.outputs.back().Fill(0);
#pragma omp parallel num_threads(c.threads)
  {
    (void)omp_get_thread_num();
  }

  // From here on every page that becomes resident is the kernel's: its plan, its selection, the
  // workspace as far as it is touched, and what it allocates behind the contract's back.
  const PeakMemory resident;
  prepared.workspace = Buffer(record["workspace_bytes"].get<std::size_t>());
  if (kernel.plan) prepared.plan = kernel.plan(c.problem, prepared.options, c.threads);
  if (kernel.select)
    prepared.selected.push_back(kernel.select(c.problem, inputs.view(), prepared.MakeContext()));
  prepared.RunOnce();
  const double peak = resident.Bytes();
  record["peak_rss_bytes"] = peak;
  record["tensor_bytes"] = TensorBytes(&kernel, c.problem, prepared.options);
  // 1 MiB: pages of stacks, plans and the heap's own books.
  if (kernel.host != "python" && peak > 1.05 * record["workspace_bytes"].get<double>() + (1 << 20))
    record["flags"] = json::array({"hidden_memory"});
  return record;
}

}  // namespace attnbench
