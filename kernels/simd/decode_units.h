// SPDX-License-Identifier: Apache-2.0
// How decoding is cut into work: units of query rows that share a K/V head, the keys that they
// see, and blocks of those keys.
#pragma once

#include <algorithm>

#include "kernels/contract/kernel.h"

namespace attnbench::decode_units {

constexpr Index kUnitRows = 64;

inline Index RoundUp(Index x, Index to) { return (x + to - 1) / to * to; }

// Query rows that share a K/V head: row r is query first + r over the heads of the group, so that
// neighbours differ in head first and see the same keys.
struct Unit {
  Index batch, kv_head, first, rows;
  Index group;  // heads a K/V head
  Index Head(Index row) const { return kv_head * group + (first + row) % group; }
  Index Query(Index row) const { return (first + row) / group; }
};

inline Index UnitCount(const Problem& p) {
  const Index rows = p.heads / p.kv_heads * p.queries;
  return p.batch * p.kv_heads * ((rows + kUnitRows - 1) / kUnitRows);
}
inline Unit UnitAt(const Problem& p, Index index) {
  const Index group = p.heads / p.kv_heads, rows = group * p.queries;
  const Index units = (rows + kUnitRows - 1) / kUnitRows;
  const Index first = index % units * kUnitRows, head = index / units;
  return {head / p.kv_heads, head % p.kv_heads, first, std::min(kUnitRows, rows - first), group};
}

// The keys that any row of a unit sees: sinks, then the band; and those that all of them see.
struct Span {
  Index begin[2] = {0, 0}, end[2] = {0, 0};
  Index inner_begin = 0, inner_end = 0;
  Index Keys() const { return end[0] - begin[0] + end[1] - begin[1]; }
  Index Blocks(Index block) const {
    return std::max<Index>(
        1, (end[0] - begin[0] + block - 1) / block + (end[1] - begin[1] + block - 1) / block);
  }
  void Block(Index i, Index block, Index* from, Index* to) const {
    const Index first = (end[0] - begin[0] + block - 1) / block;
    const int part = i >= first;
    *from = begin[part] + (i - part * first) * block;
    *to = std::min(*from + block, end[part]);
  }
};
inline Span SpanOf(const Problem& p, const Unit& unit, Index key_limit) {
  Span s;
  Index sinks = 0, begin = key_limit, end = 0;
  s.inner_end = key_limit;
  for (Index i = unit.Query(0); i <= unit.Query(unit.rows - 1); ++i) {
    const AdmittedKeys a = p.Admitted(i, key_limit);
    sinks = std::max(sinks, a.sinks);
    s.inner_begin = std::max(s.inner_begin, a.band_begin);
    s.inner_end = std::min(s.inner_end, a.band_end);
    if (a.band_end == a.band_begin) continue;
    begin = std::min(begin, a.band_begin);
    end = std::max(end, a.band_end);
  }
  if (begin <= sinks) begin = 0, end = std::max(end, sinks), sinks = 0;
  s.end[0] = sinks, s.begin[1] = std::min(begin, end), s.end[1] = end;
  return s;
}

// What is known of a unit's rows after some of its blocks.
struct Part {
  float* out;        // [rows][out_stride], not divided by sum
  float* reference;  // [rows], log2
  float* sum;        // [rows]
};

// How rows of queries are cut into tiles.
struct RowTiles {
  Index whole;         // from so many on the rest is one tile
  bool three_and_two;  // five are
};

struct Layout {
  Index rows;  // of a unit at most, in whole tiles
  Index q_stride, out_stride;
  Index key_block;  // keys summed on their own, and split over threads
  Index chunk;      // keys whose logits are in flight
  bool widen;       // bf16 that must become f32 first
  RowTiles tiles;
  bool far;  // K and V come from memory, not from a cache

  struct Thread {
    std::byte* q;                    // packed, tile by tile
    float *reference, *sum, *check;  // lanes of a tile's RowState
    float* logits;                   // [rows][chunk]: then weights
    float* correction;               // [rows]
    float* out;                      // [rows][out_stride]: of a block
    float *k, *v;                    // widened
    Part parts[3];                   // handed over by the stretch before; to the one after; whole
  };
  Thread Take(Arena* arena, const Problem& p) const {
    Thread t;
    t.q = arena->Take<std::byte>(rows * q_stride * 4);
    t.reference = arena->Take<float>(rows * 16);
    t.sum = arena->Take<float>(rows * 16);
    t.check = arena->Take<float>(rows * 16);
    t.logits = arena->Take<float>(rows * chunk);
    t.correction = arena->Take<float>(rows);
    t.out = arena->Take<float>(rows * out_stride);
    t.k = widen ? arena->Take<float>(chunk * p.head_dim) : nullptr;
    t.v = widen ? arena->Take<float>(chunk * p.v_dim) : nullptr;
    for (Part& part : t.parts) {
      part.out = arena->Take<float>(rows * out_stride);
      part.reference = arena->Take<float>(rows);
      part.sum = arena->Take<float>(rows);
    }
    return t;
  }
};

}  // namespace attnbench::decode_units
