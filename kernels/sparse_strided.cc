// SPDX-License-Identifier: Apache-2.0
// sparse_strided: a band (or a block) around the query and every stride-th key beyond it.
//
// columns, fixed: the columns are the same for all queries, so they are gathered once a head into a
// dense buffer, which a block of queries attends beside its band, each query where its own band
// ends.
// strided, (p - j) mod stride = 0, has two forms:
// - By lanes, where a head's keys come in rows that fill vectors (StridedLanes::Serves): neighbours
//   of a query meet neighbours of its keys, so K and V are transposed once and vectors are
//   multiplied as they stand. Each query is visited once, its band included.
// - By classes: keys and queries are gathered by residue, and inside a class it is dense attention:
//   a first pass, over blocks of a class, leaves what it has of each query, and a second pass, over
//   blocks of neighbours and their bands, goes on from there. The class leaves out what the band
//   has.
// Which runs of keys a block sees is planned (simd/strided_plan-inl.h).
//
// Speed per admitted pair over dense flash's (window 64, stride 64, one core of Zen 4), by classes
// -> by lanes, and of columns:
//            f32, d = 64, n = 256   512         2048        4096        d = 128, n = 2048
//   causal        .37 -> .61        .46 -> .58  .56 -> .62  .61 -> .66  .49 -> .56
//   not           .46 -> .75        .56 -> .72  .67 -> .75  .72 -> .77  .62 -> .67
//   columns, causal  .73            .72         .75         .78         .69
//            bf16, d = 64                       2048        4096
//   causal                                      .45 -> .55  .50 -> .56
//   not                                         .56 -> .67  .61 -> .71
// What remains: lanes compute 1.19 ... 1.28 times what is admitted (causal; classes 1.25 ... 1.37),
// most of it at the edges of the band, which takes two thirds of the time; the transposes of K, V,
// queries and outputs take a seventh. Of few keys a query this is dear: 64 of 512 keys, eight of
// them in strides, cost 1.7 to 1.9 times a dense pair.
// What helped: runs planned, not found by every head on its way (fixed blocks of 44 keys: 1.9 ->
// 1.6 times a dense pair; columns 1.6 -> 1.5); a few columns on both sides of the band as one run
// with a hole, a tile instead of two (longer runs lose: every row is masked); strips packed a few
// heads at a time; no rows of a strip that have no keys.
// Tried and lost: lanes for strips of 1 MiB (d = 64, n = 8192; d = 128, n = 4096): 0 ... -5 %; 64
// keys a block instead of 96: -1 ... -2 %; by classes, two partial outputs merged by log-sum-exp,
// which reads and writes all of them once more.
//
// Papers: Child et al. 2019 (Sparse Transformer: strided, fixed), Xiao et al. 2023 (sinks).
// Engine: simd/attend-inl.h, as in flash.
// Cost: 2 a (d + d_v) flops, a the admitted pairs, and as many more as blocks stick out of the
// band. Workspace O(n (d + d_v)): the gathered columns (n / stride rows), the strips of lanes (n
// to 5 n rows, the most where n is 2 strides), or the classes (n rows) and one partial output.
#include "kernels/simd/on_threads.h"
#include "kernels/simd/strided_plan.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_strided.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/block_pass-inl.h"
#include "kernels/simd/strided_plan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace sparse_strided {

inline AttendOptions WithGroup(AttendOptions options, bool laned) {
  if (laned) options.group = kBlocks;
  return options;
}

template <class T>
class Kernel {
 public:
  Kernel(const Problem& p, const AttendOptions& options, bool lanes, std::byte* workspace)
      : p_(p),
        columns_(p),
        lanes_(p),
        laned_(Laned<T>(p, lanes)),
        arena_(workspace),
        pass_(p, WithGroup(options, laned_), &arena_) {
    if (laned_) {
      const Index strips = p.batch * p.kv_heads * lanes_.strips();
      strip_keys_ = arena_.Take<float>(strips * lanes_.KeyWords());
      strip_values_ = arena_.Take<float>(strips * lanes_.ValueWords());
      engines_ = arena_.Take<std::byte>(0);
      return;
    }
    class_rows_ = KeyStore<T>::Even(columns_.rows);
    gathered_ =
        KeyStore<T>::Take(p, p.batch * p.kv_heads * columns_.classes * class_rows_, true, &arena_);
    if (columns_.strided) {
      const Index rows = p.batch * p.heads * p.queries;
      // Rows of a class, `stride` apart, must not meet in the same sets of a cache.
      partial_.row_stride = p.v_dim + 4;
      partial_.out = arena_.Take<float>(rows * partial_.row_stride);
      partial_.start = arena_.Take<float>(rows);
      partial_.sum = arena_.Take<float>(rows);
    }
    engines_ = arena_.Take<std::byte>(0);
  }
  std::size_t Bytes(int threads) const { return arena_.bytes() + threads * pass_.EngineBytes(); }

  void Run(const Inputs& in, const Output& out, const StridedPlan& plan, int threads) const {
    OnThreads(threads, [&](int) {
      if (!laned_) Gather(in);
      pass_.CopyKeys(in);
      LaneMask mask;
      Attender<T> engine = pass_.Engine(in, out, engines_);
      if (laned_) {
        ByLanes(in, plan.bands, threads, &engine, &mask);
      } else if (columns_.strided) {
        engine.ends().SaveTo(partial_);
        Classes(in, plan.columns, &engine, &mask);
        engine.ends().SaveTo({});
        engine.ends().ResumeFrom(partial_);
      }
      if (!laned_) Bands(in, plan, &engine, &mask);
    });
  }

 private:
  KeyStore<T> Gathered(Index head, Index residue) const {
    return gathered_.At(p_, (head * columns_.classes + residue) * class_rows_);
  }

  KeyStrip Strip(Index head, Index strip) const {
    const Index at = head * lanes_.strips() + strip;
    return lanes_.Strip(strip, strip_keys_ + at * lanes_.KeyWords(),
                        strip_values_ + at * lanes_.ValueWords());
  }

  // A few K/V heads at a time, which are then still near.
  void ByLanes(const Inputs& in, const RunPlan& bands, int threads, Attender<T>* engine,
               LaneMask* mask) const {
    constexpr Index kNearBytes = 1 << 19;
    const Index bytes = lanes_.strips() * (lanes_.KeyWords() + lanes_.ValueWords()) * 4;
    const Index heads = p_.batch * p_.kv_heads, most = kNearBytes * threads / bytes;
    for (Index head = 0, end; head < heads; head = end) {
      end = std::min(heads, head + std::max<Index>(most, 1));
      Pack(in, head, end);
      AttendLanes(in, bands, head, end, engine, mask);
    }
    engine->Flush();
  }

  void Pack(const Inputs& in, Index head_begin, Index head_end) const {
    constexpr Index kChunk = 16;
    const Index strips = lanes_.strips(), chunks = (lanes_.rows() + kChunk - 1) / kChunk;
#pragma omp for schedule(static)
    for (Index i = head_begin * chunks * strips; i < head_end * chunks * strips; ++i) {
      const Index head = i / (chunks * strips), begin = i / strips % chunks * kChunk;
      const Index b = head / p_.kv_heads;
      lanes_.Pack(in, b, head % p_.kv_heads, Strip(head, i % strips), begin,
                  std::min(begin + kChunk, lanes_.rows()), pass_.KeyLimit(p_, in, b));
    }
  }

  // Keys a stride apart by lanes, then the band of each block.
  void AttendLanes(const Inputs& in, const RunPlan& bands, Index head_begin, Index head_end,
                   Attender<T>* engine, LaneMask* mask) const {
    const Index columns = lanes_.columns(), each = p_.heads / p_.kv_heads;
    const Index groups = (lanes_.BlockRows(0) + kBlocks - 1) / kBlocks;
    const Index items = each * columns * groups;  // of a K/V head
#pragma omp for schedule(dynamic) nowait
    for (Index item = head_begin * items; item < head_end * items; ++item) {
      const Index head = item / items, b = head / p_.kv_heads, g = head % p_.kv_heads;
      const Index h = g * each + item / (columns * groups) % each;
      const Index x = item / groups % columns;
      const Index r = (groups - 1 - item % groups) * kBlocks;  // if causal, the longest first
      const Index limit = pass_.KeyLimit(p_, in, b);
      const int count = static_cast<int>(std::min<Index>(kBlocks, lanes_.BlockRows(x) - r));
      if (count < kBlocks) engine->Flush();  // lanes compute on the idle slots, too
      for (int i = 0; i < count; ++i)
        engine->Open(i, b, h, lanes_.First(x, r + i), lanes_.Rows(x, r + i));
      if (count > 0)
        lanes_.Attend(x, r, limit, [&](Index strip) { return Strip(head, strip); }, engine);
      const KeySource<T> keys = pass_.Keys(in, b, g);
      for (int i = 0; i < count; ++i) {
        engine->Resume(i);
        engine->ExpectEnd(lanes_.First(x, r + i - kBlocks));
        bands.ForEach(lanes_.Block(x, r + i), limit, mask,
                      [&](Index begin, Index end, const LaneMask* m) {
                        engine->FetchLater(keys, end, std::min(end + p_.mask.stride, limit), 6);
                        engine->Attend(keys, begin, end, m);
                      });
        engine->End();
      }
    }
  }

  void Gather(const Inputs& in) const {
    constexpr Index kChunk = 128;
    const Index heads = p_.batch * p_.kv_heads, classes = columns_.classes;
    const Index chunks = (class_rows_ + kChunk - 1) / kChunk;
#pragma omp for schedule(static)
    for (Index i = 0; i < heads * classes * chunks; ++i) {
      const Index head = i / (classes * chunks), residue = i / chunks % classes;
      const Index b = head / p_.kv_heads, g = head % p_.kv_heads, begin = i % chunks * kChunk;
      ColumnKeys keys = columns_.keys;
      if (columns_.strided) keys.residue = residue;
      const Index end = std::min(begin + kChunk, keys.Below(pass_.KeyLimit(p_, in, b)));
      const KeyStore<T> store = Gathered(head, residue);
      if (keys.width == 1) {
        store.Fill(p_, in, b, g, keys.Key(0), keys.stride, begin, end);
        continue;
      }
      for (Index r = begin; r < end; r += 2) {  // bf16 is stored in pairs
        const Index key = keys.Key(r), step = r + 1 < end ? keys.Key(r + 1) - key : 0;
        store.Fill(p_, in, b, g, key - r * step, step, r, std::min(r + 2, end));
      }
    }
  }

  // Bands, and the gathered columns that all queries share.
  void Bands(const Inputs& in, const StridedPlan& plan, Attender<T>* engine, LaneMask* mask) const {
    pass_.ForEachBlock([&](Index b, Index h, Index first, int rows) {
      const Index g = p_.KvHead(h), limit = pass_.KeyLimit(p_, in, b);
      const KeySource<T> keys = pass_.Keys(in, b, g);
      engine->Begin(b, h, first, rows);
      plan.bands.ForEach(
          first / kQueries, limit, mask,
          [&](Index begin, Index end, const LaneMask* m) { engine->Attend(keys, begin, end, m); });
      if (columns_.strided) return;
      const KeySource<T> gathered = Gathered(b * p_.kv_heads + g, 0).Source(p_, in, b, g);
      plan.columns.ForEach(first / kQueries, columns_.keys.Below(limit), mask,
                           [&](Index begin, Index end, const LaneMask* m) {
                             engine->Attend(gathered, begin, end, m);
                           });
    });
    engine->Flush();
  }

  // kStrided: of each class its queries on its keys. A class is one thread's.
  void Classes(const Inputs& in, const RunPlan& plan, Attender<T>* engine, LaneMask* mask) const {
    const Index step = columns_.step, classes = columns_.QueryClasses(p_);
#pragma omp for schedule(dynamic) nowait
    for (Index item = 0; item < p_.batch * p_.heads * classes; ++item) {
      const Index b = item / (p_.heads * classes), h = item / classes % p_.heads;
      const Index g = p_.KvHead(h), limit = pass_.KeyLimit(p_, in, b);
      const ColumnKeys keys = columns_.Class(p_, item % classes);
      const Index seen = keys.Below(limit);
      Index block = item % classes * columns_.ClassBlocks(p_);
      for (Index first = item % classes; first < p_.queries; first += kQueries * step, ++block) {
        const int rows =
            static_cast<int>(std::min<Index>(kQueries, (p_.queries - first + step - 1) / step));
        engine->Begin(b, h, first, rows, step);
        if (keys.residue >= columns_.classes) continue;  // no key has it
        const KeySource<T> rows_of_class =
            Gathered(b * p_.kv_heads + g, keys.residue).Source(p_, in, b, g);
        plan.ForEach(block, seen, mask, [&](Index begin, Index end, const LaneMask* m) {
          engine->Attend(rows_of_class, begin, end, m);
        });
      }
    }
    engine->Flush();
#pragma omp barrier  // the next pass may do these queries on other threads
  }

  const Problem& p_;
  const StridedColumns columns_;
  const StridedLanes<T> lanes_;
  const bool laned_;
  Arena arena_;
  const BlockPass<T> pass_;
  KeyStore<T> gathered_;
  Index class_rows_;
  Partial partial_;
  float *strip_keys_ = nullptr, *strip_values_ = nullptr;
  std::byte* engines_;
};

}  // namespace sparse_strided

std::size_t SparseStridedWorkspace(const Problem& p, const AttendOptions& options, bool lanes,
                                   int threads) {
  return WithElement(p, [&](auto element) {
    return sparse_strided::Kernel<decltype(element)>(p, options, lanes, nullptr).Bytes(threads);
  });
}

void SparseStridedRun(const Problem& p, const Inputs& in, const Output& out,
                      const AttendOptions& options, bool lanes, const Context& context) {
  WithElement(p, [&](auto element) {
    sparse_strided::Kernel<decltype(element)>(p, options, lanes, context.workspace)
        .Run(in, out, *static_cast<const StridedPlan*>(context.plan), context.threads);
  });
}

std::shared_ptr<const void> SparseStridedPlan(const Problem& p, bool lanes) {
  return WithElement(p, [&](auto element) {
    return std::make_shared<StridedPlan>(MakeStridedPlan<decltype(element)>(p, lanes));
  });
}

Cost SparseStridedCost(const Problem& p, bool lanes) {
  const double pairs = static_cast<double>(p.batch * p.heads) * WithElement(p, [&](auto element) {
                         return StridedPairs<decltype(element)>(p, lanes);
                       });
  const StridedColumns columns(p);
  const double columns_of_row = static_cast<double>(p.head_dim + p.v_dim);
  Cost cost = p.Useful();
  cost.flops = 2 * columns_of_row * pairs;
  cost.exps = pairs;
  const Index gathered = columns.strided ? p.keys : columns.rows;
  cost.bytes +=
      2.0 * SizeOf(p.dtype) * columns_of_row * static_cast<double>(p.batch * p.kv_heads * gathered);
  return cost;
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {
namespace {

HWY_EXPORT(SparseStridedRun);
HWY_EXPORT(SparseStridedWorkspace);
HWY_EXPORT(SparseStridedCost);
HWY_EXPORT(SparseStridedPlan);

AttendOptions OptionsOf(const Options& options) { return {.key_block = options["key_block"]}; }

std::string Refuse(const Problem& p, const Options&) {
  if (p.keys >= std::numeric_limits<std::int32_t>::max()) return "2^31 keys or more";
  if (p.positions.key_step != 1) return "positions with key steps other than 1 are not served";
  return Unserved(
      p, {.patterns = {Mask::Pattern::kStrided, Mask::Pattern::kColumns, Mask::Pattern::kFixed},
          .bf16 = true,
          .key_lengths = true});
}

ATTN_KERNEL(
        .name = "sparse_strided",
        .idea = "band and every stride-th key, gathered once into dense rows", .provides = kLse,
        .options = {{"key_block", 96, 16, 1024, "keys whose scores are in flight at once"},
                    {"lanes", 1, 0, 1, "1: strided by lanes where they fit; 0: by classes"}},
        .refuse = Refuse,
        .executed =
            [](const Problem& p, const Options& o) {
              return HWY_DYNAMIC_DISPATCH(SparseStridedCost)(p, o["lanes"] != 0);
            },
        .workspace =
            [](const Problem& p, const Options& o, int threads) {
              return HWY_DYNAMIC_DISPATCH(SparseStridedWorkspace)(p, OptionsOf(o), o["lanes"] != 0,
                                                                  threads);
            },
        .plan = [](const Problem& p, const Options& o,
                   int) { return HWY_DYNAMIC_DISPATCH(SparseStridedPlan)(p, o["lanes"] != 0); },
        .run =
            [](const Problem& p, const Inputs& in, const Output& out, const Context& c) {
              HWY_DYNAMIC_DISPATCH(SparseStridedRun)(p, in, out, OptionsOf(*c.options),
                                                     (*c.options)["lanes"] != 0, c);
            },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
