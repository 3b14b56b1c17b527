// SPDX-License-Identifier: Apache-2.0
#include "harness/ranks/team.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "harness/case.h"
#include "harness/ceilings.h"
#include "harness/conform.h"
#include "harness/measure.h"
#include "harness/peak_memory.h"
#include "harness/pinning.h"
#include "kernels/ranks.h"

namespace attnbench {
namespace {

using nlohmann::json;

// Commands; a run is one alone, so that timing it costs little beside.
constexpr int kCall = 0, kRun = 1, kEnd = 2;

struct Shape {
  Index batch, heads, columns;
};

// Copies between rows `runs` of a whole tensor and the same rows packed.
enum class Direction : std::uint8_t { kOut, kIn };
void Copy(const ConstTensor& whole, const Shape& s, const Rows& runs, const ConstTensor& packed,
          Direction direction) {
  const std::size_t bytes = s.columns * SizeOf(whole.dtype);
  for (Index b = 0; b < s.batch; ++b)
    for (Index h = 0; h < s.heads; ++h) {
      Index row = 0;
      for (const RowRun& run : runs)
        for (Index i = 0; i < run.count; ++i, ++row) {
          void* const a = const_cast<void*>(From(whole, b, h, run.first + i).data);
          void* const p = const_cast<void*>(From(packed, b, h, row).data);
          if (direction == Direction::kOut)
            std::memcpy(p, a, bytes);
          else
            std::memcpy(a, p, bytes);
        }
    }
}

Index RowCount(const Rows& runs) { return runs[0].count + runs[1].count; }

Options OptionsFrom(const Kernel& kernel, const json& values) {
  Options options(kernel.options);
  for (const auto& [name, value] : values.items())
    if (std::string wrong = options.Set(name, value); !wrong.empty())
      throw std::invalid_argument(wrong);
  return options;
}

}  // namespace

void Abort(int rank, const std::string& reason) {
  std::fprintf(stderr, "attnbench: rank %d: %s\n", rank, reason.c_str());
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

void Team::Serve() {
  for (;;) {
    const int command = ranks_.Broadcast(kEnd);
    if (command == kEnd) return;
    if (command == kRun) {
      RunHere();
      ranks_.Barrier();
      continue;
    }
    std::string text;
    ranks_.Broadcast(&text);
    ranks_.Gather(Do(json::parse(text)).dump());
  }
}

void Team::End() { ranks_.Broadcast(kEnd); }

void Team::Run() {
  ranks_.Broadcast(kRun);
  RunHere();
  ranks_.Barrier();
}

// What one rank throws leaves the others waiting for its messages: none of them can go on.
void Team::RunHere() {
  try {
    const Context context = {
        .threads = held_.threads, .options = &held_.options, .workspace = held_.workspace()};
    held_.kernel->run(held_.problem, held_.in, held_.out.view(), context);
  } catch (const std::bad_alloc&) {
    Abort(ranks_.rank(), "out of memory");
  } catch (const std::exception& e) {
    Abort(ranks_.rank(), e.what());
  }
}

std::vector<json> Team::Call(const json& command) {
  ranks_.Broadcast(kCall);
  std::string text = command.dump();
  ranks_.Broadcast(&text);
  std::vector<json> replies;
  for (const std::string& reply : ranks_.Gather(Do(command).dump()))
    replies.push_back(json::parse(reply));
  return replies;
}

json Team::Do(const json& command) {
  try {
    const std::string what = command["do"];
    if (what == "load") return TakeShard(command);
    if (what == "collect") GiveOutput();
    if (what == "unload") held_ = Held();
    if (what == "parts") return TakeParts();
    if (what == "memory") return RunForMemory();
    if (what == "pin") return {{"cpus", PinThreads(command["threads"], true)}};
    if (what == "probe") {
      DType dtype;
      Parse(command["dtype"].get<std::string>(), &dtype);
      ranks_.Barrier();
      return {{"gflops", attnbench::ProbeFlops(dtype, command["threads"])}};
    }
    return json::object();
  } catch (const std::bad_alloc&) {
    Abort(ranks_.rank(), "out of memory");
  } catch (const std::exception& e) {
    Abort(ranks_.rank(), e.what());
  }
}

std::string Team::Refusal(const Kernel& kernel, const Problem& problem,
                          const Options& options) const {
  if (!DistributionOf(kernel)) return "ranks: it runs in one process";
  const std::string refusal = kernel.refuse ? kernel.refuse(problem, options) : "";
  return refusal.empty() ? DistributionOf(kernel)->refuse(problem, options, size()) : refusal;
}

std::vector<json> Team::Load(const Job& job, const Inputs& whole) {
  json options = json::object(), lengths = json::array();
  for (const Option& option : job.options.spec()) options[option.name] = job.options[option.name];
  if (whole.key_lengths)
    for (Index b = 0; b < job.problem.batch; ++b) lengths.push_back(whole.key_lengths[b]);
  whole_in_ = &whole;
  return Call({{"do", "load"},
               {"kernel", job.kernel.name},
               {"problem", ToJson(job.problem)},
               {"options", options},
               {"threads", job.threads},
               {"provides", job.provides},
               {"fenced", job.fenced},
               {"key_lengths", lengths}});
}

// Every rank's rows of a tensor, from rank 0 to it.
void Team::DealOut(const ConstTensor& whole, Rows Shard::* rows, Index heads, Index columns,
                   Buffer* buffer, ConstTensor* mine) {
  const Problem& p = held_.problem;
  const Shape shape{p.batch, heads, columns};
  const std::size_t row_bytes = p.batch * heads * columns * SizeOf(p.dtype);
  const Rows& own = held_.shard.*rows;
  *buffer = Buffer(RowCount(own) * row_bytes);
  *mine = PackedView(buffer->data(), p.dtype, heads, RowCount(own), columns);
  if (ranks_.rank() != 0) {
    ranks_.Receive(buffer->data(), RowCount(own) * row_bytes, 0);
    ranks_.Finish();
    return;
  }
  Copy(whole, shape, own, *mine, Direction::kOut);
  for (int r = 1; r < size(); ++r) {
    const Rows theirs = DistributionOf(*held_.kernel)->shard(p, held_.options, size(), r).*rows;
    const Buffer packed(RowCount(theirs) * row_bytes);
    Copy(whole, shape, theirs, PackedView(packed.data(), p.dtype, heads, RowCount(theirs), columns),
         Direction::kOut);
    ranks_.Send(packed.data(), RowCount(theirs) * row_bytes, r);
    ranks_.Finish();
  }
}

json Team::TakeShard(const json& command) {
  held_ = Held();
  Held& h = held_;
  h.kernel = FindKernel(command["kernel"].get<std::string>());
  if (!h.kernel) throw std::invalid_argument("kernel: not in this build");
  if (std::string wrong = FromJson(command["problem"], &h.problem); !wrong.empty())
    throw std::invalid_argument(wrong);
  h.options = OptionsFrom(*h.kernel, command["options"]);
  h.threads = command["threads"];
  const Distribution& distribution = *DistributionOf(*h.kernel);
  h.shard = distribution.shard(h.problem, h.options, size(), ranks_.rank());
  const Problem& p = h.problem;
  const Inputs none, &whole = whole_in_ ? *whole_in_ : none;
  DealOut(whole.q, &Shard::queries, p.heads, p.head_dim, &h.q, &h.in.q);
  DealOut(whole.k, &Shard::keys, p.kv_heads, p.head_dim, &h.k, &h.in.k);
  DealOut(whole.v, &Shard::keys, p.kv_heads, p.v_dim, &h.v, &h.in.v);
  h.key_lengths = command["key_lengths"].get<std::vector<Index>>();
  if (p.has_key_lengths) h.in.key_lengths = h.key_lengths.data();
  Problem own = p;
  own.queries = RowCount(h.shard.queries);
  h.out = OwnedOutput(own, command["provides"].get<unsigned>());
  h.out.Fill(kUnwritten);
  h.workspace_bytes = distribution.workspace(p, h.options, h.threads, size(), ranks_.rank());
  if (command["fenced"])
    h.fenced = std::make_unique<FencedWorkspace>(h.workspace_bytes);
  else
    h.plain = Buffer(h.workspace_bytes);
  ranks_.Reset();
  whole_in_ = nullptr;
  return {{"workspace_bytes", h.workspace_bytes},
          {"tensor_bytes", h.q.size() + h.k.size() + h.v.size() + h.out.bytes()}};
}

void Team::Collect(const Output& whole) {
  whole_out_ = &whole;
  Call({{"do", "collect"}});
  whole_out_ = nullptr;
}

// Every rank's rows of the output, from it to rank 0.
void Team::GiveOutput() {
  const Held& h = held_;
  if (h.fenced && !h.fenced->Intact())
    throw std::runtime_error("workspace: written beyond the " + std::to_string(h.workspace_bytes) +
                             " bytes that the kernel asked for");
  const Problem& p = h.problem;
  const auto bring = [&](const ConstTensor& mine, const ConstTensor& whole, Index columns) {
    const Shape shape{p.batch, p.heads, columns};
    const std::size_t row_bytes = p.batch * p.heads * columns * SizeOf(mine.dtype);
    if (ranks_.rank() != 0) {
      ranks_.Send(mine.data, RowCount(h.shard.queries) * row_bytes, 0);
      ranks_.Finish();
      return;
    }
    Copy(whole, shape, h.shard.queries, mine, Direction::kIn);
    for (int r = 1; r < size(); ++r) {
      const Rows theirs = DistributionOf(*h.kernel)->shard(p, h.options, size(), r).queries;
      const Buffer packed(RowCount(theirs) * row_bytes);
      ranks_.Receive(packed.data(), packed.size(), r);
      ranks_.Finish();
      Copy(whole, shape, theirs,
           PackedView(packed.data(), mine.dtype, p.heads, RowCount(theirs), columns),
           Direction::kIn);
    }
  };
  const Output none, &whole = whole_out_ ? *whole_out_ : none;
  bring(h.out.view().out, whole.out, p.v_dim);
  if (!h.out.view().lse) return;
  const auto column = [&](float* lse, Index rows) {
    return ConstTensor{lse, DType::kF32, p.heads * rows, rows, 1};
  };
  bring(column(h.out.view().lse, RowCount(h.shard.queries)), column(whole.lse, p.queries), 1);
}

void Team::Unload() { Call({{"do", "unload"}}); }

std::vector<json> Team::Parts() { return Call({{"do", "parts"}}); }

json Team::TakeParts() {
  const json parts = PartsOf(ranks_.parts());
  ranks_.Reset();
  return parts;
}

std::vector<json> Team::ProbeFlops(DType dtype, int threads) {
  return Call({{"do", "probe"}, {"dtype", Name(dtype)}, {"threads", threads}});
}

std::vector<json> Team::Pin(int threads) { return Call({{"do", "pin"}, {"threads", threads}}); }

std::vector<json> Team::Memory() { return Call({{"do", "memory"}}); }

// The first run has made the library's own buffers for messages: they are no part of the kernel's.
json Team::RunForMemory() {
  PeakMemory::ExposeHeap();
  RunHere();
  held_.plain = Buffer();
  const PeakMemory resident;
  held_.plain = Buffer(held_.workspace_bytes);
  RunHere();
  return {{"peak_rss_bytes", resident.Bytes()}};
}

Kernel Team::Gathered(const Kernel& kernel) {
  Kernel gathered = kernel;
  gathered.refuse = [this, &kernel](const Problem& p, const Options& o) {
    return Refusal(kernel, p, o);
  };
  gathered.workspace = nullptr;
  gathered.run = [this, &kernel](const Problem& p, const Inputs& in, const Output& out,
                                 const Context& context) {
    const unsigned provides = out.lse ? kernel.provides & kLse : 0;
    Load({kernel, p, *context.options, context.threads, provides, /*fenced=*/true}, in);
    Run();
    Collect(out);
  };
  return gathered;
}

}  // namespace attnbench
