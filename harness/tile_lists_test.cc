// SPDX-License-Identifier: Apache-2.0
#include "harness/tile_lists.h"

#include <gtest/gtest.h>

#include "harness/case.h"

namespace attnbench {
namespace {

std::vector<Index> RowOf(const TileList& list, Index row) {
  return {list.column.begin() + list.row_begin[row], list.column.begin() + list.row_begin[row + 1]};
}

TEST(TileLists, BandsFollowTheDiagonalAndGlobalRowsSeeAll) {
  const TileList list = MakeTiles({.tile = 16, .band = 1, .global_tiles = 1}, 80, 80, false);
  EXPECT_EQ(RowOf(list, 0), (std::vector<Index>{0, 1, 2, 3, 4}));
  EXPECT_EQ(RowOf(list, 1), (std::vector<Index>{0, 1, 2}));
  EXPECT_EQ(RowOf(list, 3), (std::vector<Index>{0, 2, 3, 4}));
  EXPECT_EQ(RowOf(list, 4), (std::vector<Index>{0, 3, 4}));
}

TEST(TileLists, QueriesEndWithTheKeys) {
  const TileList list = MakeTiles({.tile = 1, .band = 0}, 2, 5, false);
  EXPECT_EQ(RowOf(list, 0), std::vector<Index>{3});
  EXPECT_EQ(RowOf(list, 1), std::vector<Index>{4});
}

TEST(TileLists, DilatedBandsLeaveGaps) {
  const TileList list = MakeTiles({.tile = 1, .band = 2, .dilation = 3}, 20, 20, false);
  EXPECT_EQ(RowOf(list, 10), (std::vector<Index>{4, 7, 10, 13, 16}));
  EXPECT_EQ(RowOf(list, 1), (std::vector<Index>{1, 4, 7}));
}

TEST(TileLists, RandomTilesAreNewOnesInThePastIfCausalAndTheSameAtAnyLength) {
  const TileSpec spec{.tile = 8, .band = 0, .global_tiles = 1, .random_tiles = 3};
  const TileList list = MakeTiles(spec, 160, 160, true), longer = MakeTiles(spec, 320, 320, true);
  Problem p;
  p.queries = p.keys = 160, p.head_dim = 1;
  p.mask.pattern = Mask::Pattern::kTiles;
  p.mask.tiles = std::make_shared<TileList>(list);
  ASSERT_EQ(p.Resolve().Invalid(), "") << "ascending, within the keys, none twice";
  for (Index row = 4; row < 20; ++row) {
    const auto tiles = RowOf(list, row);
    EXPECT_EQ(tiles.size(), 5u) << row;
    EXPECT_EQ(tiles.back(), row);
    EXPECT_EQ(tiles, RowOf(longer, row)) << row;
  }
  EXPECT_NE(RowOf(list, 18), RowOf(list, 19));
}

TEST(TileLists, OneListServesAllWhoAskForIt) {
  const TileSpec spec{.tile = 8, .band = 1};
  const auto list = SharedTiles(spec, 64, 64, false);
  EXPECT_EQ(SharedTiles(spec, 64, 64, false), list);
  EXPECT_NE(SharedTiles(spec, 64, 72, false), list);
  EXPECT_NE(SharedTiles({.tile = 8, .band = 2}, 64, 64, false), list);
  EXPECT_EQ(list->column, MakeTiles(spec, 64, 64, false).column);
}

TEST(TileLists, WhatIsWrongIsNamed) {
  EXPECT_EQ(Invalid({}, 8, 8).substr(0, 5), "tile:");
  EXPECT_EQ(Invalid({.tile = 4}, 8, 8).substr(0, 5), "tile:");
  EXPECT_EQ(Invalid({.tile = 4, .band = -2}, 8, 8).substr(0, 5), "band:");
  EXPECT_EQ(Invalid({.tile = 4, .band = 1, .dilation = 0}, 8, 8).substr(0, 9), "dilation:");
  EXPECT_EQ(Invalid({.tile = 1, .band = Index{1} << 20}, 1 << 20, 1 << 20).substr(0, 5), "tile:");
  EXPECT_EQ(Invalid({.tile = 64, .band = 1}, 100, 100), "");
  // Few columns, and rows without end: each has its global tile all the same.
  EXPECT_EQ(Invalid({.tile = 1, .global_tiles = 1}, Index{1} << 30, 64).substr(0, 5), "tile:");
  EXPECT_EQ(Invalid({.tile = 1, .random_tiles = 1}, Index{1} << 23, 64).substr(0, 5), "tile:");
}

TEST(TileLists, TravelAsTheirNumbersAndCount) {
  Case c;
  c.kernel = "block_sparse";
  c.problem.keys = 1000, c.problem.head_dim = 8;
  c.problem.mask.pattern = Mask::Pattern::kTiles;
  c.tiles = {.tile = 64, .band = 1, .random_tiles = 2};
  c.problem.Resolve();
  c.problem.mask.tiles = std::make_shared<TileList>(MakeTiles(c.tiles, 1000, 1000, false));
  EXPECT_FALSE(ToJson(c)["problem"]["mask"].contains("tiles"));
  Case back;
  ASSERT_EQ(FromJson(ToJson(c), &back), "");
  EXPECT_EQ(back.problem.mask.tiles->column, c.problem.mask.tiles->column);
  EXPECT_EQ(Hash(back), Hash(c));
  back.tiles.random_tiles = 3;
  EXPECT_NE(Hash(back), Hash(c));
}

TEST(TileLists, PairsAreCountedAsThePredicateAdmitsThem) {
  for (const bool causal : {false, true})
    for (const Index sinks : {0, 5}) {
      Problem p;
      p.queries = 50, p.keys = 70, p.head_dim = 1, p.heads = 3;
      p.mask.pattern = Mask::Pattern::kTiles, p.mask.sinks = sinks, p.mask.causal = causal;
      p.mask.tiles = std::make_shared<TileList>(
          MakeTiles({.tile = 16, .band = 1, .random_tiles = 1}, 50, 70, causal));
      p.Resolve();
      double pairs = 0;
      for (Index i = 0; i < 50; ++i)
        for (Index j = 0; j < 63; ++j) pairs += p.Admits(i, j);
      const Index length = 63;
      EXPECT_EQ(p.AdmittedPairs(&length), 3 * pairs) << causal << sinks;
    }
}

}  // namespace
}  // namespace attnbench
