// SPDX-License-Identifier: Apache-2.0
#include "harness/ranks/measure_ranks.h"

#include <algorithm>
#include <numeric>

#include "harness/measure.h"
#include "harness/sampling.h"
#include "kernels/layers/layer.h"

namespace attnbench {
namespace {

using nlohmann::json;

std::vector<double> Column(const std::vector<json>& ranks, const char* field) {
  std::vector<double> values;
  for (const json& rank : ranks) values.push_back(rank[field]);
  return values;
}

// Of the rank that needs most; and of each, beside it.
void MostInto(json* record, const char* field, const std::vector<json>& ranks) {
  const std::vector<double> values = Column(ranks, field);
  (*record)[field] = *std::max_element(values.begin(), values.end());
  (*record)[std::string("rank_") + field] = values;
}

// What all ranks can do together.
void ProbeInto(Probes* probes, const Case& c, Team* team) {
  const std::vector<double> each = Column(team->ProbeFlops(c.problem.dtype, c.threads), "gflops");
  probes->gflops.push_back(std::accumulate(each.begin(), each.end(), 0.0));
}

class RankedCase {
 public:
  RankedCase(const Case& c, Team* team) : c_(c), team_(*team) {
    kernel_ = FindKernel(c.kernel);
    if (!kernel_) throw std::invalid_argument("kernel: unknown kernel '" + c.kernel + "'");
    if (c.ranks != team->size())
      throw std::invalid_argument("ranks: " + std::to_string(team->size()) +
                                  " were started, the case asks for " + std::to_string(c.ranks));
    if (std::string wrong = ResolveOptions(c, *kernel_, &options_); !wrong.empty())
      throw std::invalid_argument(wrong);
    const std::string refusal = team->Refusal(*kernel_, c.problem, options_);
    record_ = {{"host", kernel_->host},
               {"target", kernel_->target ? json(kernel_->target()) : json("baseline")},
               {"mpi", MpiRanks::Library()},
               {"status", refusal.empty() ? "ok" : "refused"},
               {"reason", refusal}};
    if (!refusal.empty()) return;
    std::vector<int> cpus;
    for (const json& rank : team->Pin(c.threads))
      for (const int cpu : rank["cpus"]) cpus.push_back(cpu);
    record_["cpus"] = cpus;
  }
  bool refused() const { return record_["status"] != "ok"; }

  json Measure(const MeasureSettings& settings) {
    if (refused()) return record_;
    const Problem& p = c_.problem;
    Cost useful;
    {
      // The whole tensors are rank 0's for as long as they are dealt out and checked.
      const OwnedInputs whole = OwnedInputs::Make(*kernel_, options_, p, c_.input, c_.seed);
      useful = UsefulOf(*kernel_, p, options_, whole.view().key_lengths);
      if (settings.check && !Check(whole, settings)) return record_;
      Load(whole);
    }
    record_["useful"] = ToJson(useful);
    record_["executed"] = ToJson(kernel_->executed ? kernel_->executed(p, options_) : useful);
    record_["plan_ns"] = record_["select_ns"] = nullptr;

    Probes probes;
    if (settings.probe) ProbeInto(&probes, c_, &team_);
    team_.Parts();
    SamplesInto(&record_, TakeSamples(settings.sampling));
    PartsInto(&record_, team_.Parts());
    record_["bytes_to_send"] = DistributionOf(*kernel_)->bytes_sent(p, options_, team_.size());
    if (settings.probe) ProbeInto(&probes, c_, &team_);
    record_["total_ns"] = record_["median_ns"];
    RateInto(&record_, useful, record_["median_ns"], probes);
    team_.Unload();
    return record_;
  }

  json Memory() {
    if (refused()) return record_;
    Load(OwnedInputs::Make(*kernel_, options_, c_.problem, c_.input, c_.seed));
    MostInto(&record_, "peak_rss_bytes", team_.Memory());
    team_.Unload();
    return record_;
  }

 private:
  void Load(const OwnedInputs& whole) {
    const std::vector<json> sizes =
        team_.Load({*kernel_, c_.problem, options_, c_.threads}, whole.view());
    MostInto(&record_, "workspace_bytes", sizes);
    MostInto(&record_, "tensor_bytes", sizes);
  }

  bool Check(const OwnedInputs& whole, const MeasureSettings& settings) {
    const Kernel gathered = team_.Gathered(*kernel_);
    const Verdict verdict =
        attnbench::Check(gathered, c_.problem, options_, whole.view(),
                         {.rows = settings.check_rows, .seed = c_.seed + 1, .threads = c_.threads});
    record_["error"] = verdict.error;
    record_["error_frobenius"] = verdict.error_frobenius;
    record_["tolerance"] = verdict.tolerance;
    record_["rows_checked"] = verdict.rows_checked;
    record_["reason"] = verdict.reason;
    if (!verdict.ok) record_["status"] = "incorrect";
    return verdict.ok;
  }

  // The loop that times every case: a run of it is a run of the team.
  Samples TakeSamples(const SamplingSettings& settings) {
    Kernel run = *kernel_;
    run.run = [this](const Problem&, const Inputs&, const Output&, const Context&) { team_.Run(); };
    const OwnedInputs none;
    Prepared prepared{.kernel = &run, .problem = c_.problem, .threads = c_.threads};
    prepared.inputs = {&none};
    prepared.outputs.resize(1);
    return Sample(&prepared, settings);
  }

  const Case& c_;
  Team& team_;
  const Kernel* kernel_ = nullptr;
  Options options_;
  json record_;
};

}  // namespace

Passes PassesOver(Team* team) {
  return {[team](const Case& c, const json& settings) {
            return RankedCase(c, team).Measure(MeasureSettingsFromJson(settings));
          },
          [team](const Case& c) { return RankedCase(c, team).Memory(); }};
}

}  // namespace attnbench
