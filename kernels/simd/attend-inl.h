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
// Or several blocks in turn, so that keys are used again while they are near:
//     a.Open(slot, batch, head, first_query, rows);        // slot = FreeSlot(i), for each block i
//     a.Resume(slot); a.Attend(...);                       // as often as there are keys
//     a.Resume(slot); a.End();                             // for each
//
// A block may have any number of runs, from any sources, in any order; a key must not be attended
// twice. Where it gains, work is pipelined one step deep, also from one block into the next: a
// source's values must stay until the second Attend after it, or Flush. Outputs, lse, GQA, strides,
// dtype of the output, rows without keys and non-finite rows are the engine's matter. If the inputs
// carry a bias, rows of a source must be key indices.
//
// A step is one block of keys: scores (ScoreTiles), their masks and maximum, then the output
// product (OutputTile) with the exponentials inside; pipelined, the scores with the exponentials of
// the step before inside, then the output product of the step before. Either way the maximum is
// known before its exponentials, nothing is ever redone.
//
// The maximum is lazy: scores are kept relative to a per-query reference that starts at 0 and
// moves only when a block passes it by 2^16 (or its first keys all lie under 2^-16).

#if defined(ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_
#undef ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_
#else
#define ATTNBENCH_KERNELS_SIMD_ATTEND_INL_H_
#endif

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/simd/attend.h"
#include "kernels/simd/mask_scores-inl.h"
#include "kernels/simd/query_block-inl.h"
#include "kernels/simd/seen_run-inl.h"
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
      : p_(problem), in_(inputs), options_(options), ends_(problem, inputs, output, options) {
    Arena arena(workspace);
    for (int slot = 0; slot <= std::max(1, options.group); ++slot)
      ends_.Take(&arena, &blocks_[slot]);
    for (float*& s : scores_) s = arena.Take<float>(KeyBlock(options_) * kQueries);
    tail_ = arena.Take<T>(kRows * ends_.QueryWords() * W::kElements);
    bytes_ = arena.bytes();
  }
  static std::size_t Bytes(const Problem& problem, const AttendOptions& options) {
    return Attender(problem, {}, {}, options, nullptr).bytes_;
  }
  // Where blocks start and end, if not with queries and outputs.
  BlockEnds<T>& ends() { return ends_; }
  // The blocks of the slots, none of them pending, for what attends several at once before they get
  // keys of their own.
  QueryBlock* blocks() {
    Drain();
    return blocks_;
  }

  // Starts the block of queries first, first + step, ..., `rows` <= kQueries of them; ends the one
  // before.
  void Begin(Index batch, Index head, Index first, int rows, Index step = 1) {
    End();
    const Index further = 2 * first - blocks_[slot_].first;  // if blocks go on as they did
    slot_ = 1 - slot_;
    Open(slot_, batch, head, first, rows, step);
    ExpectEnd(further);
  }

  // The i-th slot without a step pending, for the next group of at most options.group blocks: the
  // first scores of the next block then make the last probabilities of this one.
  int FreeSlot(int i) const { return i + (pending_.block && pending_.block <= &blocks_[i]); }

  // The same beside the blocks of the other slots.
  void Open(int slot, Index batch, Index head, Index first, int rows, Index step = 1) {
    QueryBlock* block = &blocks_[slot];
    if (pending_.block == block) Drain();  // the blocks between had no keys
    block->batch = batch, block->head = head, block->first = first;
    block->step = step, block->rows = rows;
    block->open = true;
    ends_.Start(block);
    Resume(slot);
  }
  void Resume(int slot) {
    current_ = &blocks_[slot];
    fetched_ = current_->rows;
  }

  // The current block gets its last keys; the queries from `next` on come after it. Both are
  // fetched meanwhile.
  void ExpectEnd(Index next) {
    ahead_ = *current_;
    ahead_.first = next;
    fetched_ = options_.prefetch ? 0 : current_->rows;
  }

  // The current block, if any, gets no more keys. If its last step is pending, Retire writes it
  // out.
  void End() {
    if (!current_) return;
    current_->open = false;
    if (pending_.block != current_) ends_.Finish(*current_);
    current_ = nullptr;
  }

  // Rows that will be wanted soon, to be fetched meanwhile, `rate` for each tile of keys.
  void FetchLater(const KeySource<T>& source, Index begin, Index end, Index rate) {
    later_ = source, later_at_ = begin, later_end_ = end, later_rate_ = rate;
  }

  // Steps of about the same size: the last one would else be the dearest a key.
  void Attend(const KeySource<T>& source, Index begin, Index end, const LaneMask* mask = nullptr) {
    const SeenRun run = Seen<W::kElements>(begin, end, mask, current_->rows);
    const Index keys = run.end - run.begin, key_block = KeyBlock(options_);
    if (keys <= 0) return;
    const Index steps = (keys + key_block - 1) / key_block;
    const Index step = ((keys + steps - 1) / steps + kRows - 1) / kRows * kRows;
    for (Index at = run.begin; at < run.end; at += step)
      Step(source, at, std::min(step, run.end - at), run, mask);
  }

  void Flush() {
    Drain();
    End();
  }

 private:
  using W = Words<T>;

  // With 16 registers the exponentials would push accumulators out.
  static constexpr bool kCanPipeline = W::kElements == 2 || HWY_TARGET <= HWY_AVX3;
  bool Pipelined() const { return kCanPipeline && options_.pipelining; }

  struct Pending {
    QueryBlock* block = nullptr;
    float* s = nullptr;
    const T* v = nullptr;
    Index v_stride = 0;  // of a word: a row, or a pair of rows
    WordSpan words = {};
  };

  // Of this block's outputs and the next one's queries, and of later keys, the lines of a few rows
  // for each tile: at once, they would keep the loads of keys waiting.
  void FetchAhead(Index tiles) {
    for (Index i = 0; i < tiles && fetched_ < current_->rows; ++i, ++fetched_) {
      ends_.FetchOutput(*current_, fetched_);
      ends_.FetchInput(ahead_, fetched_);
    }
    for (Index i = 0; i < later_rate_ * tiles && later_at_ < later_end_; ++i, ++later_at_) {
      FetchLines(later_.k + later_at_ * later_.k_stride, p_.head_dim * sizeof(T));
      FetchLines(later_.v + later_at_ * later_.v_stride, p_.v_dim * sizeof(T));
    }
  }

  // Rows [begin, begin + keys) of the run.
  void Step(const KeySource<T>& source, Index begin, Index keys, const SeenRun& run,
            const LaneMask* mask);

  // f of the form of the exponentials. What nobody measures is not compiled.
  template <class F>
  void WithForm(F f) const {
    using std::integral_constant;
    const int form = options_.exp_form;
    if constexpr (W::kElements == 2) {
      if (form == 0 || form == W::kFastForm) return f(integral_constant<int, W::kFastForm>());
      if (form == 3) return f(integral_constant<int, 3>());
    } else if constexpr (kHasExpTable) {
      if (form == 0 || form == W::kFastForm) return f(integral_constant<int, W::kFastForm>());
      if (form == kByTable + 2) return f(integral_constant<int, kByTable + 2>());
    } else {
      if (p_.dtype == DType::kBF16) return f(integral_constant<int, 3>());
    }
    f(integral_constant<int, 5>());
  }

  Index PendingWords() const { return Pipelined() && pending_.block ? pending_.words.end : 0; }

  // Scores of the new block into s, and probabilities of the pending one in place.
  template <int kForm>
  void Scores(const KeySource<T>& source, Index begin, const WordSpan& span, ScoreRows rows,
              float* s) {
    Work work{pending_.s, pending_.s};
    Index todo = PendingWords();
    const Index words = ends_.QueryWords(), slots = words / kSlot;
    Index left = span.end / kRows;  // whole tiles to come
    // `tiles` of them, of the vectors from `v` on; few at a time, to fetch between.
    const auto run = [&](auto width, int v, Index at, Index tiles, const T* k, Index stride) {
      while (tiles > 0) {
        constexpr Index kTogether = 4;
        Index count = std::min(tiles, kTogether);
        const auto score = [&](auto rate) {
          if (rate > 0) count = std::min(count, todo / (rate * slots));
          FetchAhead(count);
          work = ScoreTiles<T, width, rate, rate ? kForm : 0>(rows.From(v), k, stride, words, count,
                                                              s + at * kQueries + v * kLanes, work);
          todo -= rate * slots * count;
        };
        // As many exponentials a slot as let the remaining tiles do them all.
        using std::integral_constant;
        Index rate = 0;
        if (Pipelined() && slots > 0 && todo >= slots) {
          rate = todo >= 4 * slots && todo > 2 * slots * left ? 4
                 : todo >= 2 * slots && todo > slots * left   ? 2
                                                              : 1;
        }
        if constexpr (kCanPipeline) {
          if (rate == 4) score(integral_constant<int, 4>());
          if (rate == 2) score(integral_constant<int, 2>());
          if (rate == 1) score(integral_constant<int, 1>());
        }
        if (rate == 0) score(integral_constant<int, 0>());
        tiles -= count, left -= count, at += count * kRows, k += count * kRows * stride;
      }
    };
    const auto rows_of = [&](Index from, Index to, auto width, int v) {
      const T* k = source.k + (begin + from) * source.k_stride;
      const Index tiles = (to - from) / kRows, at = from + tiles * kRows;
      run(width, v, from, tiles, k, source.k_stride);
      if (at >= to) return;
      // The last row again and again: its score changes no maximum.
      const Index stride = words * W::kElements;
      for (Index r = 0; r < kRows; ++r) {
        std::copy_n(source.k + (begin + std::min(at + r, to - 1)) * source.k_stride, stride,
                    tail_ + r * stride);
      }
      rows.ahead = 0;
      run(width, v, at, 1, tail_, stride);
    };
    constexpr std::integral_constant<int, 1> kOne;
    rows_of(0, span.both_begin, kOne, 0);
    rows_of(span.both_begin, span.both_end, std::integral_constant<int, kVectors>(), 0);
    rows_of(span.both_end, span.end, kOne, kVectors - 1);
    for (; todo > 0; --todo) work.Word<T, kForm>();
  }

  // The pending block's share of the output. Its probabilities are ready if pipelined; else the
  // tile of the first columns makes them.
  void Retire();

  void Drain();

  const Problem& p_;
  const Inputs in_;
  const AttendOptions options_;
  BlockEnds<T> ends_;
  QueryBlock blocks_[kMostBlocks + 1];
  QueryBlock* current_ = nullptr;
  int slot_ = 0;      // of Begin's last block
  QueryBlock ahead_;  // where the next block is likely to be
  int fetched_ = 0;   // rows of these two
  KeySource<T> later_;
  Index later_at_ = 0, later_end_ = 0, later_rate_ = 0;
  Pending pending_;
  float* scores_[2];
  T* tail_;
  std::size_t bytes_ = 0;
};

// What is large of it is compiled once, by attend.cc.

template <class T>
void Attender<T>::Step(const KeySource<T>& source, Index begin, Index keys, const SeenRun& run,
                       const LaneMask* mask) {
  float* s = scores_[Pipelined() && pending_.s == scores_[0]];
  HWY_ALIGN float max[kQueries];
  HWY_ALIGN float sum[kQueries];
  std::fill_n(max, kQueries, -HUGE_VALF);
  std::fill_n(sum, kQueries, 0.0f);
  const ScoreRows rows{
      current_->q,
      current_->start,
      max,
      sum,
      ends_.LogitFactor(),
      options_.prefetch ? kRows * source.k_stride * static_cast<Index>(sizeof(T)) : 0};
  const WordSpan span{std::clamp<Index>(run.both_begin - begin, 0, keys),
                      std::clamp<Index>(run.both_end - begin, 0, keys), keys};
  WithForm([&](auto form) { Scores<form>(source, begin, span, rows, s); });
  Retire();
  const bool exact = keys < 64;
  for (int q = 0; q < kQueries; q += kLanes) PoisonSum(*current_, q, hn::Load(DF(), sum + q));
  MaskScores(in_, *current_, mask, {run, begin, keys, s, max});
  for (int q = 0; q < kQueries; q += kLanes) {
    const VF most = hn::Load(DF(), max + q);
    ends_.MoveReference(current_, q, most, exact, s + q, keys, kQueries);
  }
  if (keys % W::kElements) std::fill_n(s + keys * kQueries, kQueries, -HUGE_VALF);
  const auto words = [](Index count) { return (count + W::kElements - 1) / W::kElements; };
  pending_ = {current_,
              s,
              source.v + begin * source.v_stride,
              W::kElements * source.v_stride,
              {words(span.both_begin), words(span.both_end), words(span.end)}};
  if (!Pipelined()) Retire();
}

template <class T>
void Attender<T>::Retire() {
  QueryBlock* b = pending_.block;
  if (!b) return;
  Index c = 0;
  const auto tile = [&](auto columns, auto first, auto form) {
    OutputTile<T, columns, first, form>(pending_.s, pending_.v + c * W::kElements,
                                        pending_.v_stride, pending_.words, b->empty,
                                        b->o + c * kQueries, b->sum);
    c += columns;
  };
  using std::integral_constant;
  constexpr integral_constant<int, 0> kNone;
  const auto first = [&](auto form) {
    if (p_.v_dim >= kFirstColumns)
      tile(integral_constant<int, kFirstColumns>(), std::true_type(), form);
    else
      tile(integral_constant<int, 1>(), std::true_type(), form);
  };
  if (Pipelined())
    first(kNone);
  else
    WithForm(first);
  const auto others = [&](auto columns) {
    const bool wide = columns > 1 && columns > options_.tile_columns;
    while (!wide && c + columns <= p_.v_dim) tile(columns, std::false_type(), kNone);
  };
  others(integral_constant<int, kRows>());
  others(integral_constant<int, 4>());
  others(integral_constant<int, 2>());
  others(integral_constant<int, 1>());
  b->empty = false;
  pending_.block = nullptr;
  if (!b->open) ends_.Finish(*b);
}

template <class T>
void Attender<T>::Drain() {
  if (!pending_.block) return;
  WithForm([&](auto form) {
    Work work{pending_.s, pending_.s};
    for (Index todo = PendingWords(); todo > 0; --todo) work.template Word<T, form>();
  });
  Retire();
}

extern template class Attender<float>;
#if HWY_TARGET <= HWY_AVX3_ZEN4
extern template class Attender<BFloat16>;
#endif

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#endif
