// SPDX-License-Identifier: Apache-2.0
// Lists of tiles for pattern "tiles", made from a few numbers, so that experiment files and records
// need not hold the list itself.
#pragma once

#include <compare>
#include <memory>
#include <string>

#include "kernels/contract/problem.h"

namespace attnbench {

// Tiles of `tile` x `tile` pairs; all else counts tiles. Which ones a row of tiles has:
//   band, dilation  the `band` nearest to each side of its own, `dilation` apart; the band of -1
//                   is none, of 0 its own tile (Longformer; tile = 1: in keys, as they have it)
//   global_tiles    the first ones, whose queries in turn see all keys (Longformer, BigBird)
//   random_tiles    so many more, drawn of those that it lacks (BigBird)
struct TileSpec {
  static constexpr Index kNoBand = -1;
  Index tile = 0;  // 0: there is no spec
  Index band = kNoBand, dilation = 1, global_tiles = 0, random_tiles = 0;
  explicit operator bool() const { return tile > 0; }
  auto operator<=>(const TileSpec&) const = default;
};

// Empty, or what is wrong: one line that begins with the field's name.
std::string Invalid(const TileSpec& spec, Index queries, Index keys);

// Rows of tiles are centred where default positions put their first query: queries end with the
// keys. causal: random tiles are drawn of those that begin no later than the row ends.
TileList MakeTiles(const TileSpec& spec, Index queries, Index keys, bool causal);

// The same, one list for all that hold it at a time: the kernels and heads of an experiment.
std::shared_ptr<const TileList> SharedTiles(const TileSpec& spec, Index queries, Index keys,
                                            bool causal);

}  // namespace attnbench
