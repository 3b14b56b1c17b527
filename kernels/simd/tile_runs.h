// SPDX-License-Identifier: Apache-2.0
// The keys that a block of consecutive queries sees under a list of tiles, as runs for
// Attender::Attend: what key_runs.h finds for patterns with a closed form. The work grows with the
// tiles that the block has, not with the keys there are.
#pragma once

#include <array>

#include "kernels/simd/attend.h"

namespace attnbench {

namespace tile_runs {

constexpr Index kNone = std::numeric_limits<Index>::max();

// A row of tiles and where in it the runs have come to: [begin, end) are keys of tiles that touch.
struct Cursor {
  Index next = 0, last = 0;  // tiles that are still to come
  Index begin = kNone, end = kNone;

  // The next keys in [low, limit), if any.
  void Advance(const TileList& tiles, Index low, Index limit) {
    begin = end = kNone;
    while (next < last) {
      // Columns ascend, so those that touch the first one are found by halves.
      Index from = next, to = last;
      while (to - from > 1) {
        const Index middle = (from + to) / 2;
        (tiles.column[middle] - tiles.column[next] == middle - next ? from : to) = middle;
      }
      const Index left = std::max(low, tiles.column[next] * tiles.key_tile);
      const Index right = std::min(limit, (tiles.column[from] + 1) * tiles.key_tile);
      next = to;
      if (left >= right) continue;
      begin = left, end = right;
      return;
    }
  }
  // Where what comes after [begin, end) begins at the earliest.
  Index Following(const TileList& tiles) const {
    return next < last ? tiles.column[next] * tiles.key_tile : kNone;
  }
};

// Keys at positions up to `position`, or none; key steps are positive.
inline Index KeysUpTo(const Problem& p, Index position, Index key_limit) {
  if (position < p.positions.key_origin) return 0;
  return std::min(key_limit, (position - p.positions.key_origin) / p.positions.key_step + 1);
}

}  // namespace tile_runs

// Calls run(begin, end, mask) as ForEachKeyRun does, for pattern kTiles under `tiles`.
template <class Run>
void ForEachTileRun(const Problem& p, const TileList& tiles, Index first, int rows, Index key_limit,
                    LaneMask* mask, Run run) {
  using tile_runs::Cursor, tile_runs::kNone;
  // A row of tiles of a vector's queries has runs of its own; lower ones share theirs, each query
  // with a range within.
  const bool low_tiles = tiles.query_tile < 8;
  const Index top = first / tiles.query_tile, bottom = (first + rows - 1) / tiles.query_tile;
  const Index sinks =
      p.mask.sinks > 0 ? tile_runs::KeysUpTo(p, p.mask.sinks - 1, key_limit) : Index{0};
  std::array<Cursor, LaneMask::kLanes> cursors;
  const auto count = static_cast<std::size_t>(bottom - top + 1);
  for (std::size_t r = 0; r < count; ++r) {
    Cursor& c = cursors[r];
    c.next = tiles.row_begin[top + r], c.last = tiles.row_begin[top + r + 1];
    c.Advance(tiles, sinks, key_limit);
  }
  // Lanes of one row of tiles are neighbours, the first of them first_lane[r]. Causal, lane q sees
  // keys under seen[q].
  std::array<int, LaneMask::kLanes + 1> first_lane;
  for (std::size_t r = 0; r < count; ++r)
    first_lane[r] = static_cast<int>(
        std::max(Index{0}, (top + static_cast<Index>(r)) * tiles.query_tile - first));
  first_lane[count] = LaneMask::kLanes;
  std::array<std::int32_t, LaneMask::kLanes> seen;
  for (int lane = 0; lane < LaneMask::kLanes && p.mask.causal; ++lane) {
    const Index query = first + std::min(lane, rows - 1);
    seen[lane] =
        static_cast<std::int32_t>(tile_runs::KeysUpTo(p, p.QueryPosition(query), key_limit));
  }
  // range(r): what row r of tiles sees of the run.
  const auto emit = [&](Index begin, Index end, auto range) {
    mask->ranges = true;
    bool all = true;
    for (std::size_t r = 0; r < count; ++r) {
      const auto [from, to] = range(static_cast<Index>(r));
      all &= from == begin && to == end;
      const int low = first_lane[r], lanes = first_lane[r + 1] - low;
      std::fill_n(mask->begin + low, lanes, static_cast<std::int32_t>(std::min(from, to)));
      std::fill_n(mask->end + low, lanes, static_cast<std::int32_t>(to));
    }
    if (p.mask.causal) {
      std::int32_t least = seen[0];
      for (int lane = 0; lane < LaneMask::kLanes; ++lane) {
        least = std::min(least, seen[lane]);
        mask->end[lane] = std::min(mask->end[lane], seen[lane]);
        mask->begin[lane] = std::min(mask->begin[lane], mask->end[lane]);
      }
      all &= least >= end;
    }
    run(begin, end, all ? nullptr : mask);
  };
  if (sinks > 0) emit(0, sinks, [&](Index) { return std::pair(Index{0}, sinks); });
  for (;;) {
    Index begin = kNone;
    for (std::size_t r = 0; r < count; ++r) begin = std::min(begin, cursors[r].begin);
    if (begin == kNone) return;
    Index end = begin + 1;
    if (low_tiles) {
      // All that overlaps, up to where a row would begin a second range.
      for (bool grows = true; grows;) {
        grows = false;
        for (std::size_t r = 0; r < count; ++r) {
          if (cursors[r].begin >= end || cursors[r].end <= end) continue;
          end = cursors[r].end, grows = true;
        }
      }
      for (std::size_t r = 0; r < count; ++r)
        if (cursors[r].begin < end) end = std::min(end, cursors[r].Following(tiles));
    } else {
      end = kNone;
      for (std::size_t r = 0; r < count; ++r)
        end = std::min(end, cursors[r].begin > begin ? cursors[r].begin : cursors[r].end);
    }
    emit(begin, end, [&](Index r) {
      const Cursor& c = cursors[static_cast<std::size_t>(r)];
      return std::pair(std::min(c.begin, end), std::min(c.end, end));
    });
    for (std::size_t r = 0; r < count; ++r) {
      Cursor& c = cursors[r];
      if (c.end <= end)
        c.Advance(tiles, sinks, key_limit);
      else if (c.begin < end)
        c.begin = end;
    }
  }
}

}  // namespace attnbench
