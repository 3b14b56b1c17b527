// SPDX-License-Identifier: Apache-2.0
// Exact attention of blocks of queries over runs of keys: the engine under flash, local_window and
// sparse_strided. Online softmax; a block's scores never leave the first-level cache.
//
//   Attender<float> a(problem, inputs, output, options, workspace);   // AttenderBytes() of it
//   for each block of at most kQueries queries that this thread does:
//     a.Begin(batch, head, first_query, rows, query_step);
//     a.Attend(source, begin, end);           // rows [begin, end) of a KeySource, seen by all
//     a.Attend(source, begin, end, &mask);    // rows seen as a LaneMask says; read at once
//   a.Flush();                                // outputs are whole only now
//
// A block may have any number of runs, from any sources, in any order; a key must not be attended
// twice. Work is pipelined one step deep, also from one block into the next: a source's values
// must stay until the second Attend after it, or Flush. Outputs, lse, GQA, strides, dtype of the
// output, rows without keys and non-finite rows are the engine's matter. If the inputs carry a
// bias, rows of a source must be key indices.
//
// A step is one block of keys: scores (ScoreTile) with the exponentials of the step before inside,
// then the output product (OutputTile) of the step before. So the block's maximum is known before
// its exponentials, nothing is ever redone, and n = 64 pipelines as n = 8192 does.
//
// The maximum is lazy: scores are kept relative to a per-query reference that starts at 0 and
// moves only when a block passes it by 2^16 (or its first keys all lie under 2^-16).

#if defined(ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_
#endif

#include <cmath>

#include "hwy/highway.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/key_store-inl.h"
#include "kernels/simd/lane_mask-inl.h"
#include "kernels/simd/tiles-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {

inline Index KeyBlock(const AttendOptions& options) {
  return std::max<Index>(kRows, options.key_block / kRows * kRows);
}

template <class T>
class Attender {
 public:
  Attender(const Problem& problem, const Inputs& inputs, const Output& output,
           const AttendOptions& options, std::byte* workspace)
      : p_(problem), in_(inputs), out_(output), options_(options) {
    Layout(workspace);
  }
  static std::size_t Bytes(const Problem& problem, const AttendOptions& options) {
    return Attender(problem, {}, {}, options, nullptr).bytes_;
  }

  // Starts the block of queries first, first + step, ..., `rows` <= kQueries of them.
  void Begin(Index batch, Index head, Index first, int rows, Index step = 1) {
    EndBlock();
    Block* next = last_ == &blocks_[0] ? &blocks_[1] : &blocks_[0];
    if (pending_.block == next) Drain();  // the block between had no keys
    current_ = last_ = next;
    next->batch = batch, next->head = head, next->first = first, next->step = step;
    next->rows = rows;
    next->empty = true;
    PackQueries(*next);
    std::fill_n(next->start, kQueries, 0.0f);
    std::fill_n(next->sum, kQueries, 0.0f);
    std::fill_n(next->low, kQueries, -Threshold());
  }

  void Attend(const KeySource<T>& source, Index begin, Index end, const LaneMask* mask = nullptr) {
    const Index key_block = KeyBlock(options_);
    const Index skip = W::kElements == 2 ? begin % 2 : 0;  // values come in pairs of rows
    for (Index at = begin - skip; at < end; at += key_block)
      Step(source, at, std::min(key_block, end - at), begin, mask);
  }

  void Flush() {
    Drain();
    EndBlock();
  }

 private:
  using W = Words<T>;

  struct Block {
    Index batch = 0, head = 0, first = 0, step = 1;
    int rows = 0;
    bool empty = true;  // o holds nothing yet
    float* q;           // [words][kQueries]; float32: times scale * log2(e)
    float* o;           // [v_dim][kQueries]
    float* start;       // minus the reference that scores are relative to
    float* sum;         // of the probabilities
    float* low;         // -threshold until the first admitted key, then -inf
  };
  struct Pending {
    Block* block = nullptr;
    float* s = nullptr;
    const T* v = nullptr;
    Index v_stride = 0, words = 0;  // of v: a word is a row, or a pair of rows
  };

  Index QueryWords() const { return (p_.head_dim + W::kElements - 1) / W::kElements; }
  float LogitFactor() const { return static_cast<float>(p_.scale * 1.4426950408889634); }
  float Threshold() const { return options_.lazy_max ? 16.0f : 0.0f; }

  void Layout(std::byte* workspace) {
    Arena arena(workspace);
    for (Block& b : blocks_) {
      b.q = arena.Take<float>(QueryWords() * kQueries);
      b.o = arena.Take<float>(p_.v_dim * kQueries);
      b.start = arena.Take<float>(kQueries);
      b.sum = arena.Take<float>(kQueries);
      b.low = arena.Take<float>(kQueries);
    }
    for (float*& s : scores_) s = arena.Take<float>(KeyBlock(options_) * kQueries);
    tail_ = arena.Take<T>(kRows * QueryWords() * W::kElements);
    bytes_ = arena.bytes();
  }

  // Vector v of the block's rows in a tensor.
  template <class TX, class Tensor>
  LaneRows<TX> RowsOf(const Tensor& tensor, const Block& b, int v) const {
    return {tensor.template Row<std::remove_const_t<TX>>(b.batch, b.head,
                                                         b.first + v * kLanes * b.step),
            tensor.row_stride * b.step, std::clamp(b.rows - v * kLanes, 0, kLanes)};
  }

  // Lanes beyond the block's rows repeat the last one; their results are dropped.
  HWY_NOINLINE void PackQueries(const Block& b) {
    for (int v = 0; v < kVectors; ++v) {
      float* to = b.q + v * kLanes;
      if (v * kLanes >= b.rows) {
        for (Index c = 0; c < QueryWords(); ++c) hn::Store(hn::Zero(DF()), DF(), to + c * kQueries);
      } else if constexpr (W::kElements == 2) {
        const auto rows = RowsOf<const BFloat16>(in_.q, b, v);
        if (options_.prefetch) rows.Prefetch(p_.head_dim);
        TransposePairs(rows, p_.head_dim, to, kQueries);
      } else if (p_.dtype == DType::kBF16) {
        TransposeIn(RowsOf<const BFloat16>(in_.q, b, v), p_.head_dim, LogitFactor(), to, kQueries);
      } else {
        const auto rows = RowsOf<const float>(in_.q, b, v);
        if (options_.prefetch) rows.Prefetch(p_.head_dim);
        TransposeIn(rows, p_.head_dim, LogitFactor(), to, kQueries);
      }
    }
  }

  // Rows [begin, begin + keys), those before `from` masked.
  void Step(const KeySource<T>& source, Index begin, Index keys, Index from, const LaneMask* mask) {
    float* s = scores_[pending_.s == scores_[0]];
    HWY_ALIGN float max[kQueries];
    HWY_ALIGN float sum[kQueries];
    std::fill_n(max, kQueries, -HUGE_VALF);
    std::fill_n(sum, kQueries, 0.0f);
    const ScoreRows rows{current_->q, current_->start, max, sum, LogitFactor()};
    switch (options_.exp_degree) {
      case 3:
        Scores<3>(source, begin, keys, rows, s);
        break;
      case 4:
        Scores<4>(source, begin, keys, rows, s);
        break;
      default:
        Scores<5>(source, begin, keys, rows, s);
    }
    Retire();
    PoisonSum(*current_, sum);
    if (mask || in_.bias || begin < from) Modify(begin, keys, from, mask, s, max);
    UpdateReference(keys, W::kElements == 2 && keys < 64, s, max);
    if (keys % W::kElements) std::fill_n(s + keys * kQueries, kQueries, -HUGE_VALF);
    pending_ = {current_, s, source.v + begin * source.v_stride, W::kElements * source.v_stride,
                (keys + W::kElements - 1) / W::kElements};
  }

  Index PendingUnits() const {
    return pending_.block ? pending_.words * kVectors / W::kUnitOut : 0;
  }

  // Scores of the new block into s, and probabilities of the pending one in place.
  template <int kDegree>
  void Scores(const KeySource<T>& source, Index begin, Index keys, const ScoreRows& rows,
              float* s) {
    Work work{pending_.s, pending_.s};
    Index units = PendingUnits();
    const Index words = QueryWords(), slots = words / W::kSlot;
    Index tiles = (keys + kRows - 1) / kRows;
    for (Index j = 0; j < keys; j += kRows, --tiles) {
      const T* k = source.k + (begin + j) * source.k_stride;
      Index stride = source.k_stride;
      if (keys - j < kRows) {  // the last row again and again: its score changes no maximum
        stride = words * W::kElements;
        for (Index r = 0; r < kRows; ++r)
          std::copy_n(k + std::min(r, keys - j - 1) * source.k_stride, stride, tail_ + r * stride);
        k = tail_;
      }
      const auto tile = [&](auto per_slot) {
        work = ScoreTile<T, per_slot, kDegree>(rows, k, stride, words, s + j * kQueries, work);
        units -= per_slot * slots;
      };
      using std::integral_constant;
      if (!options_.pipelining || units < slots || slots == 0) {
        tile(integral_constant<int, 0>());
      } else if (units >= 4 * slots && units > 2 * slots * tiles) {
        tile(integral_constant<int, 4>());
      } else if (units >= 2 * slots && units > slots * tiles) {
        tile(integral_constant<int, 2>());
      } else {
        tile(integral_constant<int, 1>());
      }
    }
    for (; units > 0; --units) work.Unit<T, kDegree>();
  }

  // The pending block's share of the output; its probabilities are ready.
  void Retire() {
    Block* b = pending_.block;
    if (!b) return;
    const auto tile = [&](auto columns, Index c) {
      float* o = b->o + c * kQueries;
      const T* v = pending_.v + c * W::kElements;
      if (c == 0)
        OutputTile<T, columns, true>(pending_.s, v, pending_.v_stride, pending_.words, b->empty, o,
                                     b->sum);
      else
        OutputTile<T, columns, false>(pending_.s, v, pending_.v_stride, pending_.words, b->empty, o,
                                      b->sum);
    };
    using std::integral_constant;
    Index c = 0;
    for (; c + kRows <= p_.v_dim; c += kRows) tile(integral_constant<int, kRows>(), c);
    for (; c + 4 <= p_.v_dim; c += 4) tile(integral_constant<int, 4>(), c);
    for (; c + 2 <= p_.v_dim; c += 2) tile(integral_constant<int, 2>(), c);
    if (c < p_.v_dim) tile(integral_constant<int, 1>(), c);
    b->empty = false;
    pending_.block = nullptr;
    if (b != current_) WriteOut(*b);
  }

  void Drain() {
    if (!pending_.block) return;
    Work work{pending_.s, pending_.s};
    for (Index units = PendingUnits(); units > 0; --units) {
      options_.exp_degree == 3   ? work.Unit<T, 3>()
      : options_.exp_degree == 4 ? work.Unit<T, 4>()
                                 : work.Unit<T, 5>();
    }
    Retire();
  }

  // The current block gets no more keys. If its last step is pending, Retire writes it out.
  void EndBlock() {
    if (!current_) return;
    Block* b = current_;
    current_ = nullptr;
    if (pending_.block != b) WriteOut(*b);
  }

  // NaN or Inf among the scores makes the row's sum NaN, whatever the exponential makes of it.
  void PoisonSum(const Block& b, const float* sum) {
    for (int q = 0; q < kQueries; q += kLanes) {
      const VF l = hn::Load(DF(), b.sum + q);
      hn::Store(hn::MulAdd(hn::Load(DF(), sum + q), hn::Zero(DF()), l), DF(), b.sum + q);
    }
  }

  // Bias and mask; the maximum anew, over what is admitted.
  HWY_NOINLINE void Modify(Index begin, Index keys, Index from, const LaneMask* mask, float* s,
                           float* max) {
    const DF d;
    const VF minus_inf = hn::Set(d, -HUGE_VALF);
    const Block& b = *current_;
    for (int q = 0; q < kQueries; q += kLanes) hn::Store(minus_inf, d, max + q);
    for (Index j = 0; j < keys; ++j) {
      for (int q = 0; q < kQueries; q += kLanes) {
        VF x = hn::Load(d, s + j * kQueries + q);
        if (in_.bias) x = hn::Add(x, Bias(b, q, begin + j));
        if (begin + j < from) x = minus_inf;
        if (mask) x = hn::IfThenElse(Admitted(d, *mask, q, begin + j), x, minus_inf);
        hn::Store(x, d, s + j * kQueries + q);
        hn::Store(hn::Max(x, hn::Load(d, max + q)), d, max + q);
        if (in_.bias) {  // not by PoisonSum: -inf is a bias as good as any
          const auto bad = hn::Or(hn::IsNaN(x), hn::Eq(x, hn::Set(d, HUGE_VALF)));
          hn::BlendedStore(hn::Set(d, NAN), bad, d, b.sum + q);
        }
      }
    }
  }

  VF Bias(const Block& b, int q, Index key) const {
    HWY_ALIGN float column[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const int row = std::min(q + lane, b.rows - 1);
      column[lane] = in_.bias.Row<float>(b.batch, b.head, b.first + row * b.step)[key];
    }
    return hn::Mul(hn::Load(DF(), column), hn::Set(DF(), 1.44269504f));
  }

  // Moves the reference where the new block's scores are too far from it, which rescales what the
  // block has so far. Rare when lazy. exact: a query's first reference is its maximum, whose
  // probability then is 1, free of rounding; that matters in bf16 to rows of few keys.
  void UpdateReference(Index keys, bool exact, float* s, const float* max) {
    const DF d;
    Block& b = *current_;
    const VF nothing = hn::Set(d, -3e38f), minus_inf = hn::Set(d, -HUGE_VALF);
    for (int q = 0; q < kQueries; q += kLanes) {
      const VF m = hn::Load(d, max + q), low = hn::Load(d, b.low + q);
      const auto seen = hn::Gt(m, nothing);
      VF high = hn::Set(d, Threshold());
      if (exact) high = hn::IfThenElse(hn::Gt(low, nothing), nothing, high);
      hn::Store(hn::IfThenElse(seen, minus_inf, low), d, b.low + q);
      const auto move = hn::Or(hn::Gt(m, high), hn::And(seen, hn::Lt(m, low)));
      if (hn::AllFalse(d, move)) continue;
      const VF delta = hn::IfThenElseZero(move, m);
      hn::Store(hn::Sub(hn::Load(d, b.start + q), delta), d, b.start + q);
      for (Index j = 0; j < keys; ++j) {
        float* x = s + j * kQueries + q;
        hn::Store(hn::Sub(hn::Load(d, x), delta), d, x);
      }
      // A downward move is a first one: there is nothing to scale, and the factor stays finite.
      const VF factor = Exp2<5>(d, hn::Min(hn::Neg(delta), hn::Zero(d)));
      hn::Store(hn::Mul(hn::Load(d, b.sum + q), factor), d, b.sum + q);
      if (b.empty) continue;
      for (Index c = 0; c < p_.v_dim; ++c) {
        float* o = b.o + c * kQueries + q;
        hn::Store(hn::Mul(hn::Load(d, o), factor), d, o);
      }
    }
  }

  // Divides by the sums and transposes into the output's rows. Rows that are not finite are done
  // again by the definition; rows without keys are told by their sums.
  template <class TO>
  HWY_INLINE void WriteOutAs(const Block& b) {
    const DF d;
    for (int v = 0; v * kLanes < b.rows; ++v) {
      const LaneRows<TO> rows = RowsOf<TO>(out_.out, b, v);
      if (options_.prefetch) rows.Prefetch(p_.v_dim);
      const float* o = b.o + v * kLanes;
      const VF sum = hn::Load(d, b.sum + v * kLanes);
      VF check = hn::Mul(sum, hn::Zero(d));  // NaN if anything is not finite
      if (!b.empty) {
        check = hn::Add(check, ZeroOrNaN(o));
        TransposeOut(o, kQueries, p_.v_dim, hn::Div(hn::Set(d, 1.0f), sum), rows);
      }
      // No admitted key: the sum holds at most one 2^-126 a key.
      const auto usual = hn::Ge(hn::Add(sum, check), hn::Set(d, 1e-20f));
      HWY_ALIGN float finite[kLanes];
      hn::Store(check, d, finite);
      for (int lane = 0; lane < rows.count; ++lane) {
        const int q = v * kLanes + lane;
        const Index query = b.first + q * b.step;
        if (!b.empty && hn::AllTrue(d, usual) && !out_.lse) break;
        if (finite[lane] != 0.0f) {
          RecomputeRow(p_, in_, out_, b.batch, b.head, query);
          continue;
        }
        const bool none = b.empty || b.sum[q] < 1e-20f;
        if (none) std::fill_n(rows.template Row<true>(lane), p_.v_dim, TO{});
        if (out_.lse)
          out_.lse[(b.batch * p_.heads + b.head) * p_.queries + query] =
              none ? -HUGE_VALF : (std::log2(b.sum[q]) - b.start[q]) * 0.693147180559945f;
      }
    }
  }
  // Sums over the columns in four chains: one would wait for itself.
  HWY_INLINE VF ZeroOrNaN(const float* o) const {
    const DF d;
    const VF zero = hn::Zero(d);
    VF sums[4] = {zero, zero, zero, zero};
    Index c = 0;
    for (; c + 4 <= p_.v_dim; c += 4) {
      Unroll<4>([&](auto i) ATTNBENCH_INLINED {
        sums[i] = hn::MulAdd(hn::Load(d, o + (c + i) * kQueries), zero, sums[i]);
      });
    }
    for (; c < p_.v_dim; ++c) sums[0] = hn::MulAdd(hn::Load(d, o + c * kQueries), zero, sums[0]);
    return hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
  }
  HWY_NOINLINE void WriteOut(const Block& b) {
    out_.out.dtype == DType::kBF16 ? WriteOutAs<BFloat16>(b) : WriteOutAs<float>(b);
  }

  const Problem& p_;
  const Inputs in_;
  const Output out_;
  const AttendOptions options_;
  Block blocks_[2];
  Block* current_ = nullptr;
  Block* last_ = nullptr;
  Pending pending_;
  float* scores_[2];
  T* tail_;
  std::size_t bytes_ = 0;
};

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
