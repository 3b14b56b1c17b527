// SPDX-License-Identifier: Apache-2.0
#include "harness/tile_lists.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "harness/inputs.h"

namespace attnbench {
namespace {

constexpr double kMostTiles = 1 << 22;  // of a list
constexpr double kMostDraws = 1 << 30;  // tiles that random ones are drawn from, over all rows

Index Floor(Index a, Index b) { return a / b - (a % b < 0); }  // b > 0
Index Ceil(Index a, Index b) { return -Floor(-a, b); }

}  // namespace

std::string Invalid(const TileSpec& s, Index queries, Index keys) {
  const std::tuple<const char*, Index, Index> fields[] = {{"tile", s.tile, 0},
                                                          {"band", s.band, TileSpec::kNoBand},
                                                          {"dilation", s.dilation, 1},
                                                          {"global_tiles", s.global_tiles, 0},
                                                          {"random_tiles", s.random_tiles, 0}};
  for (const auto& [name, value, low] : fields) {
    if (value < low) return std::string(name) + ": must be at least " + std::to_string(low);
    if (value > (Index{1} << 40)) return std::string(name) + ": too large";
  }
  if (std::max(queries, keys) > (Index{1} << 40)) return "tile: the sequence is too long";
  if (s.tile < 1) return "tile: missing (pattern 'tiles' is made of tiles of that side)";
  if (s.band == TileSpec::kNoBand && s.global_tiles == 0 && s.random_tiles == 0)
    return "tile: without band, global_tiles or random_tiles no tile is admitted";
  const Index rows = Ceil(queries, s.tile), columns = Ceil(keys, s.tile);
  const Index band = s.band == TileSpec::kNoBand ? 0 : 2 * std::min(s.band, columns) + 1;
  const double row = static_cast<double>(std::min(
      columns, band + std::min(s.global_tiles, columns) + std::min(s.random_tiles, columns)));
  const double all =
      row * static_cast<double>(rows) +
      static_cast<double>(std::min(s.global_tiles, rows)) * static_cast<double>(columns);
  if (all > kMostTiles)
    return "tile: the list would have over " + std::to_string(static_cast<Index>(kMostTiles)) +
           " tiles";
  if (s.random_tiles > 0 && static_cast<double>(rows) * static_cast<double>(columns) > kMostDraws)
    return "random_tiles: too many tiles to draw them from; make tiles larger";
  return "";
}

TileList MakeTiles(const TileSpec& s, Index queries, Index keys, bool causal) {
  const Index rows = Ceil(queries, s.tile), columns = Ceil(keys, s.tile);
  TileList list{.query_tile = s.tile, .key_tile = s.tile, .row_begin = {0}, .column = {}};
  std::vector<Index> mine, others;
  for (Index row = 0; row < rows; ++row) {
    const Index first = row * s.tile + keys - queries;  // position of the row's first query
    const Index centre = Floor(first, s.tile);
    mine.clear();
    if (row < s.global_tiles) {
      for (Index c = 0; c < columns; ++c) mine.push_back(c);
    } else {
      for (Index c = 0; c < std::min(s.global_tiles, columns); ++c) mine.push_back(c);
      const Index from = std::max(-s.band, Ceil(-centre, s.dilation));
      const Index to = std::min(s.band, Floor(columns - 1 - centre, s.dilation));
      for (Index b = from; b <= to; ++b) mine.push_back(centre + b * s.dilation);
      std::sort(mine.begin(), mine.end());
      mine.erase(std::unique(mine.begin(), mine.end()), mine.end());
    }
    if (s.random_tiles > 0) {
      // The row's own stream: a longer sequence has the same rows, and more.
      Random random(static_cast<std::uint64_t>(row) + 1);
      const Index last = std::min(first + s.tile, keys) - 1;
      const Index end = causal ? std::clamp((last + s.tile) / s.tile, Index{0}, columns) : columns;
      others.clear();
      for (Index c = 0; c < end; ++c)
        if (!std::binary_search(mine.begin(), mine.end(), c)) others.push_back(c);
      for (Index i = 0; i < s.random_tiles && i < std::ssize(others); ++i) {
        std::swap(others[i], others[i + random.Below(std::ssize(others) - i)]);
        mine.push_back(others[i]);
      }
      std::sort(mine.begin(), mine.end());
    }
    list.column.insert(list.column.end(), mine.begin(), mine.end());
    list.row_begin.push_back(std::ssize(list.column));
  }
  return list;
}

std::shared_ptr<const TileList> SharedTiles(const TileSpec& spec, Index queries, Index keys,
                                            bool causal) {
  static std::mutex mutex;
  static std::map<std::tuple<TileSpec, Index, Index, bool>, std::weak_ptr<const TileList>> made;
  const std::lock_guard lock(mutex);
  std::weak_ptr<const TileList>& known = made[{spec, queries, keys, causal}];
  std::shared_ptr<const TileList> list = known.lock();
  if (!list) {
    list = std::make_shared<TileList>(MakeTiles(spec, queries, keys, causal));
    known = list;
  }
  return list;
}

}  // namespace attnbench
