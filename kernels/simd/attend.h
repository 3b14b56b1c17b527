// SPDX-License-Identifier: Apache-2.0
// What the SIMD attention engine (attend-inl.h) is told: where rows of keys and values lie, which
// of them a block of queries sees, and how to go about it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/contract/kernel.h"

namespace attnbench {

// Rows of keys and values that the engine can read: row i of k at k + i * k_stride, of v likewise.
// A BFloat16 source's v is interleaved: rows i and i + 1, i even, column by column, from
// v + i * v_stride on. Dense tensors, gathered buffers and strided views are all sources; KeyStore
// (key_store-inl.h) makes them.
template <class T>
struct KeySource {
  const T* k = nullptr;
  Index k_stride = 0;
  const T* v = nullptr;
  Index v_stride = 0;
};

// Which rows of a source each query of a block sees, where it is not all of them. Lane q is query
// `first + q * step` of Attender::Begin; rows are row numbers of the source. Lanes beyond the
// block's queries do as the last one.
struct LaneMask {
  static constexpr int kLanes = 64;

  // Lane q admits rows [begin[q], end[q]). If not `ranges`, also j < sinks[q] and
  // (j - residue[q]) mod stride < width (stride 0: no columns), all of them under limit[q]: the
  // form of AdmittedKeys.
  bool ranges = true;
  alignas(64) std::int32_t begin[kLanes] = {};
  alignas(64) std::int32_t end[kLanes] = {};
  alignas(64) std::int32_t limit[kLanes] = {};
  alignas(64) std::int32_t sinks[kLanes] = {};
  std::int64_t residue[kLanes] = {};
  std::int32_t stride = 0, width = 0;
  bool same_residue = false;  // residue[0] is that of all lanes

  // Instead of the above, when set and not `ranges`: slow, for what has no closed form. Row `key` <
  // limit[lane].
  bool (*admits)(const void* context, int lane, Index key) = nullptr;
  const void* context = nullptr;

  void Set(int lane, const AdmittedKeys& a) {
    limit[lane] = Clamp(a.limit);
    begin[lane] = Clamp(a.band_begin);
    end[lane] = Clamp(a.band_end);
    sinks[lane] = Clamp(a.sinks);
    residue[lane] = a.residue;
    stride = Clamp(a.stride);
    width = Clamp(a.width);
  }
  // Not ranges: [begin[q], end[q]) and the rows under sinks[q], of those under `end`.
  void SetLeading(std::int32_t rows) {
    ranges = false, stride = 0, admits = nullptr;
    std::fill_n(limit, kLanes, rows);
  }

 private:
  static std::int32_t Clamp(Index x) {
    return static_cast<std::int32_t>(
        std::clamp<Index>(x, 0, std::numeric_limits<std::int32_t>::max()));
  }
};

// What one pass over some of the keys leaves of every query, for a later pass over the others: rows
// [batch][heads][queries] of float32, not yet divided by their sums.
struct Partial {
  float* out = nullptr;
  Index row_stride = 0;    // of out
  float* start = nullptr;  // minus the reference that the row's scores were relative to
  float* sum = nullptr;    // of its probabilities

  explicit operator bool() const { return out != nullptr; }
};

// How, never what: the options of the flash kernel. The result does not depend on them beyond
// rounding.
struct AttendOptions {
  Index key_block = 64;    // keys whose scores are in flight at once
  int group = 1;           // blocks of queries that take turns at a chunk of keys, <= kMostBlocks
  Index chunk_bytes = 0;   // of such a chunk's keys and values; 0: all keys
  int exp_form = 0;        // of 2^x (exp2-inl.h); 0: the fastest that is exact enough
  bool lazy_max = true;    // move the maximum only when a score passes it by 2^16
  bool pipelining = true;  // exponentials of one block inside the scores of the next, where that
                           // gains (kCanPipeline)
  bool prefetch = true;    // rows of k a tile ahead; a block's rows of q and out, meanwhile
  bool pack = false;       // copy k and v into dense rows first, also where they could be read
  int tile_columns = 8;    // of v in a register tile of the output, at most
};

constexpr int kMostBlocks = 8;

// One row by the definition, scalar, in double: what the engine falls back to when a row is not
// finite, so that NaN and Inf come through exactly where they are admitted, and nowhere else.
void RecomputeRow(const Problem& problem, const Inputs& inputs, const Output& output, Index batch,
                  Index head, Index query);

}  // namespace attnbench
