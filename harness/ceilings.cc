// SPDX-License-Identifier: Apache-2.0
#include "harness/ceilings.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iterator>
#include <memory>
#include <sstream>

#include "harness/amx.h"
#include "harness/inputs.h"
#include "harness/machine.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "harness/ceilings.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Multiply-adds in flight: 12 cover 2 a cycle at latency 4 to 6, and leave AVX2 four registers.
#define ATTNBENCH_FOR_12(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)

// Each loop returns the operations it did, and writes a result so that none can be dropped.
double FmaLoop(Index iterations, float* sink) {
  const hn::ScalableTag<float> d;
  const auto x = hn::Set(d, sink[0] + 1.0f), y = hn::Set(d, 1e-6f);
#define ATTNBENCH_X(i) auto a##i = hn::Set(d, float(i));
  ATTNBENCH_FOR_12(ATTNBENCH_X)
#undef ATTNBENCH_X
  for (Index n = 0; n < iterations; ++n) {
#define ATTNBENCH_X(i) a##i = hn::MulAdd(x, y, a##i);
    ATTNBENCH_FOR_12(ATTNBENCH_X)
    ATTNBENCH_FOR_12(ATTNBENCH_X)
#undef ATTNBENCH_X
  }
#define ATTNBENCH_X(i) a0 = hn::Add(a0, a##i);
  ATTNBENCH_FOR_12(ATTNBENCH_X)
#undef ATTNBENCH_X
  sink[1] = hn::ReduceSum(d, a0);
  return 2.0 * 24 * hn::Lanes(d) * iterations;
}

double Bf16Loop(Index iterations, float* sink) {
  const hn::ScalableTag<float> d;
  const hn::Repartition<hwy::bfloat16_t, decltype(d)> db;
  const auto x = hn::BitCast(db, hn::Set(d, sink[0] + 1.0f)),
             y = hn::BitCast(db, hn::Set(d, 1e-6f));
  auto rest = hn::Zero(d);  // the second sum: untouched where the dot is native
#define ATTNBENCH_X(i) auto a##i = hn::Set(d, float(i));
  ATTNBENCH_FOR_12(ATTNBENCH_X)
#undef ATTNBENCH_X
  for (Index n = 0; n < iterations; ++n) {
#define ATTNBENCH_X(i) a##i = hn::ReorderWidenMulAccumulate(d, x, y, a##i, rest);
    ATTNBENCH_FOR_12(ATTNBENCH_X)
    ATTNBENCH_FOR_12(ATTNBENCH_X)
#undef ATTNBENCH_X
  }
#define ATTNBENCH_X(i) a0 = hn::Add(a0, a##i);
  ATTNBENCH_FOR_12(ATTNBENCH_X)
#undef ATTNBENCH_X
  sink[1] = hn::ReduceSum(d, hn::Add(a0, rest));
  return 4.0 * 24 * hn::Lanes(d) * iterations;
}

double ExpLoop(Index iterations, float* sink) {
  const hn::ScalableTag<float> d;
  auto x0 = hn::Set(d, sink[0] - 1.0f), x1 = hn::Set(d, sink[0] - 2.0f);
  auto x2 = hn::Set(d, sink[0] - 3.0f), x3 = hn::Set(d, sink[0] - 4.0f);
  auto sum = hn::Zero(d);
  const auto step = hn::Set(d, 1e-3f);
  for (Index n = 0; n < iterations; ++n) {
    sum = hn::Add(sum, hn::Add(hn::Add(Exp(d, x0), Exp(d, x1)), hn::Add(Exp(d, x2), Exp(d, x3))));
    x0 = hn::Sub(x0, step), x1 = hn::Sub(x1, step), x2 = hn::Sub(x2, step), x3 = hn::Sub(x3, step);
  }
  sink[1] = hn::ReduceSum(d, sum);
  return 4.0 * hn::Lanes(d) * iterations;
}

void ReadLoop(const float* data, Index count, float* sink) {
  const hn::ScalableTag<float> d;
  const Index lanes = hn::Lanes(d), step = 8 * lanes;
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (Index i = 0; i + step <= count; i += step) {
    s0 = hn::Add(s0, hn::Add(hn::Load(d, data + i), hn::Load(d, data + i + lanes)));
    s1 = hn::Add(s1, hn::Add(hn::Load(d, data + i + 2 * lanes), hn::Load(d, data + i + 3 * lanes)));
    s2 = hn::Add(s2, hn::Add(hn::Load(d, data + i + 4 * lanes), hn::Load(d, data + i + 5 * lanes)));
    s3 = hn::Add(s3, hn::Add(hn::Load(d, data + i + 6 * lanes), hn::Load(d, data + i + 7 * lanes)));
  }
  sink[1] = hn::ReduceSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

bool HasNativeBf16Dot() {
#ifdef HWY_NATIVE_DOT_BF16
  return HWY_NATIVE_DOT_BF16 != 0;
#else
  return HWY_TARGET <= HWY_AVX3_ZEN4 && HWY_ARCH_X86;
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(FmaLoop);
HWY_EXPORT(Bf16Loop);
HWY_EXPORT(ExpLoop);
HWY_EXPORT(ReadLoop);
HWY_EXPORT(HasNativeBf16Dot);

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

constexpr int kRepetitions = 5;
constexpr double kRepetitionSeconds = 6e-4;

// Best rate over the repetitions of `work` on all threads at once; `work` returns what it did.
double BestRate(int threads, const std::function<double(float* sink)>& work) {
  double begin[kRepetitions] = {}, end[kRepetitions] = {}, done[kRepetitions] = {};
  const auto origin = Clock::now();
#pragma omp parallel num_threads(threads)
  {
    alignas(64) float sink[16] = {};
    for (int r = 0; r < kRepetitions; ++r) {
#pragma omp barrier
#pragma omp single
      begin[r] = SecondsSince(origin);
      const double mine = work(sink);
#pragma omp critical
      {
        done[r] += mine;
        end[r] = std::max(end[r], SecondsSince(origin));
      }
    }
  }
  double best = 0;
  for (int r = 0; r < kRepetitions; ++r) best = std::max(best, done[r] / (end[r] - begin[r]));
  return best;
}

// Repeats until the repetition's time is up, so that slow machines take no longer.
template <class Work>
double GigaRate(int threads, Work&& work) {
  return 1e-9 * BestRate(threads, [&](float* sink) {
           const auto begin = Clock::now();
           double done = 0;
           do done += work(sink);
           while (SecondsSince(begin) < kRepetitionSeconds);
           return done;
         });
}

// One slice a thread, first touched by it; kept between calls, as the probe runs beside each case.
struct Slices {
  std::vector<Buffer> buffers;
  std::size_t bytes_each = 0;

  void Prepare(int threads, std::size_t bytes) {
    if (std::ssize(buffers) == threads && bytes_each == bytes) return;
    buffers.clear();
    buffers.resize(threads);
    bytes_each = bytes;
#pragma omp parallel num_threads(threads)
    {
      Buffer& mine = buffers[omp_get_thread_num()];
      mine = Buffer(bytes);
      mine.Fill(0);
    }
  }
};

std::string Column(const char* format, double value) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

}  // namespace

bool NativeBf16Dot() { return HWY_DYNAMIC_DISPATCH(HasNativeBf16Dot)(); }

double ProbeFlops(DType dtype, int threads) {
  if (dtype == DType::kBF16 && NativeBf16Dot())
    return GigaRate(threads, [](float* sink) { return HWY_DYNAMIC_DISPATCH(Bf16Loop)(500, sink); });
  return GigaRate(threads, [](float* sink) { return HWY_DYNAMIC_DISPATCH(FmaLoop)(500, sink); });
}

double ProbeAmx(int threads) {
  return GigaRate(threads, [](float*) { return AmxLoop(100); });
}

double ProbeGexps(int threads) {
  return GigaRate(threads, [](float* sink) { return HWY_DYNAMIC_DISPATCH(ExpLoop)(500, sink); });
}

double ProbeReadGbps(std::size_t bytes, int threads) {
  static Slices slices;
  // Beyond 8 times the last-level cache all is memory; that much is enough, and where memory is
  // short a quarter of it has to do.
  const std::size_t most =
      std::min(std::max<std::size_t>(8 * LastLevelCacheBytes(), std::size_t{64} << 20),
               MemoryLimitBytes() / 4);
  const std::size_t each =
      std::max<std::size_t>(std::min(bytes, most) / threads, 4096) / 4096 * 4096;
  slices.Prepare(threads, each);
  const std::size_t passes = (std::size_t{256} << 10) / each + 1;  // the clock stays unseen
  return GigaRate(threads, [&](float* sink) {
    const Buffer& mine = slices.buffers[omp_get_thread_num()];
    for (std::size_t pass = 0; pass < passes; ++pass) HWY_DYNAMIC_DISPATCH(ReadLoop)
    (mine.as<float>(), static_cast<Index>(each / sizeof(float)), sink);
    return static_cast<double>(passes * each);
  });
}

nlohmann::json PeakTable(const std::vector<int>& threads) {
  // A table is looked at once and has the time: a neighbour's burst must not pass for the machine.
  const auto best = [](auto&& probe) {
    double most = 0;
    for (int attempt = 0; attempt < 10; ++attempt) most = std::max(most, probe());
    return most;
  };
  nlohmann::json rows = nlohmann::json::array();
  const std::string no_amx = AmxMissing();
  const std::vector<std::size_t> caches = DataCacheBytes();
  for (int t : threads) {
    nlohmann::json gbps = nlohmann::json::object();
    for (std::size_t level = 0; level < caches.size(); ++level) {
      // Half a level; the last one is shared, the others belong to each core.
      const bool shared = level + 1 == caches.size() && level > 0;
      const std::size_t bytes = caches[level] / 2 * (shared ? 1 : t);
      gbps[std::string("L").append(std::to_string(level + 1))] =
          best([&] { return ProbeReadGbps(bytes, t); });
    }
    gbps["DRAM"] = best([&] { return ProbeReadGbps(8 * LastLevelCacheBytes(), t); });
    rows.push_back(
        {{"threads", t},
         {"f32_gflops", best([&] { return ProbeFlops(DType::kF32, t); })},
         {"bf16_gflops", best([&] { return ProbeFlops(DType::kBF16, t); })},
         {"amx_bf16_gflops",
          no_amx.empty() ? nlohmann::json(best([&] { return ProbeAmx(t); })) : nlohmann::json()},
         {"gexps", best([&] { return ProbeGexps(t); })},
         {"read_gbps", gbps}});
  }
  return {{"target", DispatchedTarget()},
          {"bf16_dot", NativeBf16Dot() ? "native" : "none: f32 multiply-adds stand for it"},
          {"amx", no_amx.empty() ? "native" : "none: " + no_amx},
          {"rows", rows}};
}

std::string FormatPeakTable(const nlohmann::json& table) {
  std::ostringstream out;
  out << "instruction set " << table["target"].get<std::string>() << ", bf16 dot "
      << table["bf16_dot"].get<std::string>() << ", AMX tiles " << table["amx"].get<std::string>()
      << "; read bandwidth in GB/s\n"
      << "threads  f32 GFLOP/s  bf16 GFLOP/s  AMX GFLOP/s  Gexp/s";
  std::vector<std::string> levels;  // DRAM last, not where the alphabet puts it
  if (!table["rows"].empty())
    for (const auto& [level, value] : table["rows"][0]["read_gbps"].items())
      if (level != "DRAM") levels.push_back(level);
  levels.push_back("DRAM");
  for (const std::string& level : levels) out << std::string(9 - level.size(), ' ') << level;
  out << "\n";
  for (const auto& row : table["rows"]) {
    out << Column("%7.0f", row["threads"]) << Column("%13.1f", row["f32_gflops"])
        << Column("%14.1f", row["bf16_gflops"])
        << (row["amx_bf16_gflops"].is_null() ? "            -"
                                             : Column("%13.1f", row["amx_bf16_gflops"]))
        << Column("%8.2f", row["gexps"]);
    for (const std::string& level : levels) out << Column("%9.1f", row["read_gbps"][level]);
    out << "\n";
  }
  return out.str();
}

}  // namespace attnbench
#endif  // HWY_ONCE
