// SPDX-License-Identifier: Apache-2.0
// sparse_strided: a band (or a block) around the query and every stride-th key beyond it.
//
// columns, fixed: the columns are the same for all queries, so they are gathered once a head into a
// dense buffer, which a block of queries attends beside its band, each query where its own band
// ends.
// strided: (p - j) mod stride = 0 splits keys and queries into residue classes. Gathered class by
// class, it is dense attention inside each class: a first pass, over blocks of a class, leaves what
// it has of each query, and a second pass, over blocks of neighbours and their bands, goes on from
// there. The class leaves out what the band has.
//
// strided loses where classes are short (n / stride keys): causal, window 64 and stride 64, it
// computes 1.25 times what it admits at n = 4096, and visits every query twice. Tried and lost: two
// partial outputs merged by log-sum-exp, which reads and writes all of them once more.
//
// Papers: Child et al. 2019 (Sparse Transformer: strided, fixed), Xiao et al. 2023 (sinks).
// Engine: simd/attend-inl.h, as in flash.
// Cost: 2 a (d + d_v) flops, a the admitted pairs, and as many more as blocks stick out of the
// band. Workspace O(n (d + d_v)): the gathered columns (n / stride rows), or the classes (n rows)
// and one partial output.
#include <numeric>

#include "kernels/simd/sparse_runs.h"
#include "kernels/simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_strided.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/block_pass-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace sparse_strided {

// What every block needs to know of a problem's columns.
struct Columns {
  explicit Columns(const Problem& p) : strided(p.mask.pattern == Mask::Pattern::kStrided) {
    const Index stride = p.mask.stride;
    if (strided) {
      keys = {stride, 0, 1};
      step = stride / std::gcd(stride, std::abs(p.positions.query_step));
      classes = std::min(stride, p.keys);
      rows = (p.keys + stride - 1) / stride;
    } else {
      const AdmittedKeys a = p.Admitted(0, p.keys);
      keys = {a.stride, a.residue, a.width};
      rows = keys.Below(p.keys);
    }
  }
  // The class of a query: keys residue, residue + stride, ...
  ColumnKeys Class(const Problem& p, Index query) const {
    const Index x = p.QueryPosition(query) - p.positions.key_origin;
    return {p.mask.stride, (x % p.mask.stride + p.mask.stride) % p.mask.stride, 1};
  }

  bool strided;
  ColumnKeys keys;    // strided: of the class with residue 0
  Index step = 1;     // from one query of a class to the next
  Index classes = 1;  // that have keys; else all columns are one class
  Index rows;         // gathered, of a class
};

template <class T>
class Kernel {
 public:
  Kernel(const Problem& p, const AttendOptions& options, std::byte* workspace)
      : p_(p), columns_(p), arena_(workspace), pass_(p, options, &arena_) {
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

  void Run(const Inputs& in, const Output& out, int threads) const {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Gather(in);
      pass_.CopyKeys(in);
      LaneMask mask;
      Attender<T> engine = pass_.Engine(in, out, engines_);
      if (columns_.strided) {
        engine.ends().SaveTo(partial_);
        Classes(in, &engine, &mask);
        engine.ends().SaveTo({});
        engine.ends().ResumeFrom(partial_);
      }
      Bands(in, &engine, &mask);
    }
  }

 private:
  KeyStore<T> Gathered(Index head, Index residue) const {
    return gathered_.At(p_, (head * columns_.classes + residue) * class_rows_);
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
  void Bands(const Inputs& in, Attender<T>* engine, LaneMask* mask) const {
    pass_.ForEachBlock([&](Index b, Index h, Index first, int rows) {
      const Index g = p_.KvHead(h), limit = pass_.KeyLimit(p_, in, b);
      const KeySource<T> keys = pass_.Keys(in, b, g);
      engine->Begin(b, h, first, rows);
      ForEachBandRun(p_, first, rows, limit, mask, [&](Index begin, Index end, const LaneMask* m) {
        engine->Attend(keys, begin, end, m);
      });
      if (columns_.strided) return;
      const KeySource<T> gathered = Gathered(b * p_.kv_heads + g, 0).Source(p_, in, b, g);
      ForEachColumnRun(p_, columns_.keys, first, 1, rows, limit, mask,
                       [&](Index begin, Index end, const LaneMask* m) {
                         engine->Attend(gathered, begin, end, m);
                       });
    });
    engine->Flush();
  }

  // kStrided: of each class its queries on its keys. A class is one thread's.
  void Classes(const Inputs& in, Attender<T>* engine, LaneMask* mask) const {
    const Index step = columns_.step, classes = std::min(step, p_.queries);
#pragma omp for schedule(dynamic) nowait
    for (Index item = 0; item < p_.batch * p_.heads * classes; ++item) {
      const Index b = item / (p_.heads * classes), h = item / classes % p_.heads;
      const Index g = p_.KvHead(h), limit = pass_.KeyLimit(p_, in, b);
      const ColumnKeys keys = columns_.Class(p_, item % classes);
      for (Index first = item % classes; first < p_.queries; first += kQueries * step) {
        const int rows =
            static_cast<int>(std::min<Index>(kQueries, (p_.queries - first + step - 1) / step));
        engine->Begin(b, h, first, rows, step);
        if (keys.residue >= columns_.classes) continue;  // no key has it
        const KeySource<T> rows_of_class =
            Gathered(b * p_.kv_heads + g, keys.residue).Source(p_, in, b, g);
        ForEachColumnRun(p_, keys, first, step, rows, limit, mask,
                         [&](Index begin, Index end, const LaneMask* m) {
                           engine->Attend(rows_of_class, begin, end, m);
                         });
      }
    }
    engine->Flush();
#pragma omp barrier  // the next pass may do these queries on other threads
  }

  const Problem& p_;
  const Columns columns_;
  Arena arena_;
  const BlockPass<T> pass_;
  KeyStore<T> gathered_;
  Index class_rows_;
  Partial partial_;
  std::byte* engines_;
};

}  // namespace sparse_strided

std::size_t SparseStridedWorkspace(const Problem& p, const AttendOptions& options, int threads) {
  return WithElement(p, [&](auto element) {
    return sparse_strided::Kernel<decltype(element)>(p, options, nullptr).Bytes(threads);
  });
}

void SparseStridedRun(const Problem& p, const Inputs& in, const Output& out,
                      const AttendOptions& options, const Context& context) {
  WithElement(p, [&](auto element) {
    sparse_strided::Kernel<decltype(element)>(p, options, context.workspace)
        .Run(in, out, context.threads);
  });
}

Cost SparseStridedCost(const Problem& p) {
  const sparse_strided::Columns columns(p);
  Cost cost = AttendBlocksCost(
      p, [&](const Problem&, Index first, int rows, Index key_limit, LaneMask* mask, auto run) {
        ForEachBandRun(p, first, rows, key_limit, mask, run);
        if (!columns.strided)
          ForEachColumnRun(p, columns.keys, first, 1, rows, key_limit, mask, run);
      });
  double pairs = 0;
  for (Index i = 0; columns.strided && i < std::min(columns.step, p.queries); ++i) {
    for (Index first = i; first < p.queries; first += kQueries * columns.step) {
      const int rows = static_cast<int>(
          std::min<Index>(kQueries, (p.queries - first + columns.step - 1) / columns.step));
      pairs += ComputedPairs(rows, [&](LaneMask* mask, auto run) {
        ForEachColumnRun(p, columns.Class(p, i), first, columns.step, rows, p.keys, mask, run);
      });
    }
  }
  pairs *= static_cast<double>(p.batch * p.heads);
  const double columns_of_row = static_cast<double>(p.head_dim + p.v_dim);
  cost.flops += 2 * columns_of_row * pairs;
  cost.exps += pairs;
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

AttendOptions OptionsOf(const Problem& p, const Options& options) {
  return {.key_block = options["key_block"], .exp_degree = p.dtype == DType::kBF16 ? 3 : 5};
}

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
        .options = {{"key_block", 64, 16, 1024, "keys whose scores are in flight at once"}},
        .refuse = Refuse,
        .executed = [](const Problem& p,
                       const Options&) { return HWY_DYNAMIC_DISPATCH(SparseStridedCost)(p); },
        .workspace =
            [](const Problem& p, const Options& o, int threads) {
              return HWY_DYNAMIC_DISPATCH(SparseStridedWorkspace)(p, OptionsOf(p, o), threads);
            },
        .run =
            [](const Problem& p, const Inputs& in, const Output& out, const Context& c) {
              HWY_DYNAMIC_DISPATCH(SparseStridedRun)(p, in, out, OptionsOf(p, *c.options), c);
            },
        .target = DispatchedTarget);

}  // namespace
}  // namespace attnbench
#endif
