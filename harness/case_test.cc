// SPDX-License-Identifier: Apache-2.0
#include "harness/case.h"

#include <gtest/gtest.h>

namespace attnbench {
namespace {

Case Sample() {
  Case c;
  c.kernel = "flash";
  c.options = {{"key_block", 64}};
  c.problem.heads = 4;
  c.problem.kv_heads = 2;
  c.problem.queries = 7;
  c.problem.keys = 129;
  c.problem.head_dim = 40;
  c.problem.mask.pattern = Mask::Pattern::kColumns;
  c.problem.mask.window = 3;
  c.problem.mask.stride = 16;
  c.problem.mask.causal = true;
  c.problem.Resolve();
  c.seed = 12345678901234567890u;
  c.threads = 2;
  return c;
}

TEST(Case, SurvivesTheWayThroughJson) {
  Case c = Sample();
  c.problem.positions.query_step = 2;
  c.problem.has_bias = true;
  c.cache = "cold";
  c.input = {.kind = "tensors", .file = "x.safetensors", .layer = 3, .head = 5, .content = "abc"};
  Case back;
  ASSERT_EQ(FromJson(nlohmann::json::parse(ToJson(c).dump()), &back), "");
  EXPECT_EQ(ToJson(back), ToJson(c));
  EXPECT_EQ(Hash(back), Hash(c));
}

TEST(Case, TilesSurviveAndCount) {
  Case c = Sample();
  auto tiles = std::make_shared<TileList>();
  *tiles = {.query_tile = 4, .key_tile = 64, .row_begin = {0, 1, 2}, .column = {0, 2}};
  c.problem.mask = {.pattern = Mask::Pattern::kTiles, .tiles = tiles};
  Case back;
  ASSERT_EQ(FromJson(ToJson(c), &back), "");
  EXPECT_EQ(Hash(back), Hash(c));
  auto others = std::make_shared<TileList>(*tiles);
  others->column = {0, 1};
  Case other = c;
  other.problem.mask.tiles = others;
  EXPECT_NE(Hash(other), Hash(c));
}

// Records of all machines are compared by this hash: a change of it breaks every stored run.
TEST(Case, HashIsStable) {
  EXPECT_EQ(HashText(""), "cbf29ce484222325");
  EXPECT_EQ(HashText("a"), "af63dc4c8601ec8c");
  Case c;
  c.kernel = "flash";
  c.problem.keys = 128;
  c.problem.head_dim = 64;
  c.problem.Resolve();
  EXPECT_EQ(Hash(c), "aa8df460a65f3cde");
}

TEST(Case, HashSeesWhatDefinesTheMeasurementAndNothingElse) {
  const Case c = Sample();
  Case other = c;
  other.options["key_block"] = 128;
  EXPECT_NE(Hash(other), Hash(c));
  EXPECT_EQ(ProblemHash(other), ProblemHash(c));
  other = c;
  other.kernel = "naive";
  EXPECT_NE(Hash(other), Hash(c));
  EXPECT_EQ(ProblemHash(other), ProblemHash(c));
  other = c;
  other.problem.mask.causal = false;
  EXPECT_NE(ProblemHash(other), ProblemHash(c));
  other = c;
  other.input = {.kind = "tensors", .file = "here", .content = "1"};
  Case moved = other;
  moved.input.file = "there";
  EXPECT_EQ(Hash(moved), Hash(other)) << "where the file lies does not matter";
  moved.input.content = "2";
  EXPECT_NE(Hash(moved), Hash(other)) << "what it holds does";
}

TEST(Case, SaysWhatIsWrong) {
  nlohmann::json j = ToJson(Sample());
  Case c;
  j["problem"]["dtype"] = "f8";
  EXPECT_EQ(FromJson(j, &c), "dtype: unknown name 'f8'");
  j = ToJson(Sample());
  j["problem"]["kv_heads"] = 3;
  EXPECT_EQ(FromJson(j, &c).substr(0, 9), "kv_heads:");
  j = ToJson(Sample());
  j["threads"] = "two";
  EXPECT_NE(FromJson(j, &c), "");
  EXPECT_NE(FromJson(nlohmann::json::object(), &c), "");
  EXPECT_NE(FromJson(nlohmann::json::array(), &c), "");
}

}  // namespace
}  // namespace attnbench
