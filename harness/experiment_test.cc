// SPDX-License-Identifier: Apache-2.0
#include "harness/experiment.h"

#include <gtest/gtest.h>

#include <set>

#include "harness/testing.h"
#include "harness/user_error.h"

namespace attnbench {
namespace {

std::vector<std::int64_t> Range(const std::string& text) {
  std::vector<Value> values;
  EXPECT_EQ(ParseRange(text, &values), "");
  std::vector<std::int64_t> integers;
  for (const Value& value : values) integers.push_back(std::get<std::int64_t>(value));
  return integers;
}

TEST(Axis, RangesIncludeTheirEnd) {
  EXPECT_EQ(Range("256:2048:*2"), (std::vector<std::int64_t>{256, 512, 1024, 2048}));
  EXPECT_EQ(Range("256:2047:*2"), (std::vector<std::int64_t>{256, 512, 1024}));
  EXPECT_EQ(Range("16:64:+16"), (std::vector<std::int64_t>{16, 32, 48, 64}));
  EXPECT_EQ(Range("5:5:+1"), (std::vector<std::int64_t>{5}));
}

TEST(Axis, RangesAtTheEndOfTheIntegersEnd) {
  EXPECT_EQ(Range("4611686018427387904:9223372036854775807:*2").size(), 1u);
  EXPECT_EQ(Range("9223372036854775806:9223372036854775807:+1").size(), 2u);
}

TEST(Axis, BadRangesAreRefused) {
  std::vector<Value> values;
  for (const char* text :
       {"1:2", "1:2:3", "1:2:*", "a:2:*2", "1:b:*2", "1:2:*x", "4:2:*2", "0:8:*2", "1:8:*1",
        "1:8:+0", "1:8:+-1", "0:100000:+1", ":", "::", "1:8:*2x"})
    EXPECT_NE(ParseRange(text, &values), "") << text;
}

// The message of the error that loading `text` ends with; "" when it loads.
std::string ErrorOf(const std::string& text, const Overrides& overrides = {}) {
  const TemporaryFolder folder;
  const std::string path = folder.Write("x.toml", text);
  try {
    LoadExperiment(path, overrides);
  } catch (const UserError& e) {
    const std::string message = e.what();
    return message.starts_with(folder.path()) ? message.substr(folder.path().size() + 1) : message;
  }
  return "";
}

std::vector<Case> CasesOf(const std::string& text, const Overrides& overrides = {}) {
  const TemporaryFolder folder;
  return LoadExperiment(folder.Write("x.toml", text), overrides).cases;
}

const std::string kGood =
    "[axes]\nkeys = \"128:512:*2\"\nhead_dim = [32, 64]\n"
    "[[kernel]]\nname = \"naive\"\n";

TEST(Experiment, IsTheProductOfItsAxes) {
  const auto cases = CasesOf(kGood);
  EXPECT_EQ(cases.size(), 6u);
  std::set<std::pair<Index, Index>> points;
  for (const Case& c : cases) {
    points.insert({c.problem.keys, c.problem.head_dim});
    EXPECT_EQ(c.problem.queries, c.problem.keys);
    EXPECT_EQ(c.problem.v_dim, c.problem.head_dim);
    EXPECT_EQ(c.problem.Invalid(), "");
  }
  EXPECT_EQ(points.size(), 6u);
}

TEST(Experiment, ZippedAxesAdvanceTogether) {
  const auto cases = CasesOf(
      "[axes]\nkeys = [8, 16]\nhead_dim = [32, 64]\nv_dim = [16, 48]\nzip = [[\"head_dim\", "
      "\"v_dim\"]]\n[[kernel]]\nname = \"naive\"\n");
  ASSERT_EQ(cases.size(), 4u);
  for (const Case& c : cases) EXPECT_EQ(c.problem.v_dim, c.problem.head_dim == 32 ? 16 : 48);
}

TEST(Experiment, AKernelsOwnListsAreAxesAndItsFieldsReplace) {
  const auto cases = CasesOf(kGood +
                             "[[kernel]]\nname = \"naive\"\ncausal = true\nhead_dim = 16\n"
                             "mask = {pattern = \"local\", window = [4, 8]}\n"
                             "where = {keys = [128, 256]}\n");
  ASSERT_EQ(cases.size(), 6u + 4u);
  for (std::size_t i = 6; i < cases.size(); ++i) {
    EXPECT_EQ(cases[i].problem.head_dim, 16);
    EXPECT_TRUE(cases[i].problem.mask.causal);
    EXPECT_LE(cases[i].problem.keys, 256);
  }
}

TEST(Experiment, AStarStandsForWhatNoOtherEntryNames) {
  const auto cases = CasesOf(
      "[axes]\nkeys = 8\nhead_dim = 8\n[[kernel]]\nname = \"*\"\nexcept = [\"reference\"]\n"
      "[[kernel]]\nname = \"naive\"\ncausal = true\n");
  std::set<std::string> names;
  for (const Case& c : cases) EXPECT_TRUE(names.insert(c.kernel).second) << c.kernel;
  EXPECT_EQ(names.size(), Kernels().size() - 1);
  EXPECT_FALSE(names.count("reference"));
}

TEST(Experiment, OptionsAreResolvedIntoTheCase) {
  const auto cases = CasesOf(
      "[axes]\nkeys = 8\nhead_dim = 8\n[[kernel]]\nname = \"blis_blocked\"\n"
      "options = {query_block = [32, 64]}\n");
  ASSERT_EQ(cases.size(), 2u);
  EXPECT_EQ(cases[0].options.at("query_block"), 32);
  const auto defaults =
      CasesOf("[axes]\nkeys = 8\nhead_dim = 8\n[[kernel]]\nname = \"blis_blocked\"\n");
  EXPECT_EQ(Hash(defaults[0]), Hash(cases[1])) << "a default that is written out is the same case";
}

TEST(Experiment, OverridesReplaceAxesAndFilterKernels) {
  Overrides overrides;
  overrides.kernels = {"naive", "reference"};  // the file does not name the second
  overrides.axes = {ParseAxisArgument("keys=16:64:*2"), ParseAxisArgument("dtype=bf16")};
  const auto cases = CasesOf(kGood, overrides);
  ASSERT_EQ(cases.size(), 12u);
  for (const Case& c : cases) {
    EXPECT_EQ(c.problem.dtype, DType::kBF16);
    EXPECT_EQ(c.problem.out_dtype, DType::kBF16);
    EXPECT_LE(c.problem.keys, 64);
  }
  // A window only where there is a mask to have one.
  const std::string two =
      kGood + "[[kernel]]\nname = \"naive\"\nmask = {pattern = \"local\", window = 4}\n";
  for (const Case& c : CasesOf(two, {{}, {ParseAxisArgument("window=9")}}))
    EXPECT_EQ(c.problem.mask.window, c.problem.mask.pattern == Mask::Pattern::kLocal ? 9 : 0);
}

TEST(Experiment, DuplicatesCollapse) {
  EXPECT_EQ(CasesOf(kGood + "[[kernel]]\nname = \"naive\"\n").size(), 6u);
}

TEST(Experiment, ErrorsNameFileLineAndField) {
  const struct {
    std::string text, message;
  } bad[] = {
      {"[axes\n", "x.toml:1: not valid TOML"},
      {"", "x.toml:1: kernel: no [[kernel]]"},
      {"colour = 1\n" + kGood, "x.toml:1: colour: unknown field"},
      {"[sweep]\nrounds = 0\n" + kGood, "x.toml:2: sweep.rounds: must be at least 1"},
      {"[sweep]\nround = 1\n" + kGood, "x.toml:2: sweep.round: unknown field"},
      {"[sweep]\nbudget_s = -1\n" + kGood, "x.toml:2: sweep.budget_s: must be"},
      {"[sweep]\nbudget_s = inf\n" + kGood, "x.toml:2: sweep.budget_s: must be"},
      {"[sweep]\nisolation = \"none\"\n" + kGood, "x.toml:2: sweep.isolation: must be"},
      {"[input]\nkind = \"uniform\"\n" + kGood, "x.toml:2: input.kind: must be"},
      {"[input]\nkind = \"tensors\"\n" + kGood, "x.toml:1: input: kind = \"tensors\" needs"},
      {"[axes]\nkeys = 8\nhead_dim = 8\nheight = 3\n", "x.toml:4: height: unknown field"},
      {"[axes]\nkeys = -8\n", "x.toml:2: keys: must be at least 1, is -8"},
      {"[axes]\nkeys = 1.5\n", "x.toml:2: keys: must be an integer"},
      {"[axes]\nkeys = []\n", "x.toml:2: keys: is an empty list"},
      {"[axes]\nkeys = \"8:4:*2\"\n", "x.toml:2: keys: range '8:4:*2'"},
      {"[axes]\ndtype = \"f8\"\n", "x.toml:2: dtype: unknown name 'f8' (known: f32, bf16, f64)"},
      {"[axes]\nkeys = 8\nhead_dim = 8\nheads = 3\nkv_heads = 2\n[[kernel]]\nname = \"naive\"\n",
       "x.toml:5: kv_heads: heads (3) must be a multiple"},
      {"[axes]\nhead_dim = 8\n[[kernel]]\nname = \"naive\"\n", "x.toml: axes.keys: missing"},
      {"[axes]\nkeys = 8\n[[kernel]]\nname = \"naive\"\n", "x.toml: axes.head_dim: missing"},
      {"[axes]\nkeys = 1099511627776\nhead_dim = 8\n[[kernel]]\nname = \"naive\"\n",
       "x.toml:2: keys: "},
      {kGood + "[[kernel]]\nname = \"nave\"\n", "x.toml:7: name: unknown kernel 'nave' (known: "},
      {kGood + "[[kernel]]\ncausal = true\n", "x.toml:6: name: missing"},
      {kGood + "[[kernel]]\nname = \"naive\"\nmask = {pattern = \"local\", window = 0}\n",
       "x.toml:8: window: must be at least 1, is 0"},
      {kGood + "[[kernel]]\nname = \"naive\"\nmask = {pattern = \"columns\", window = 1, stride = "
               "-2}\n",
       "x.toml:8: stride: must be at least 1"},
      {kGood + "[[kernel]]\nname = \"naive\"\nmask = {window = 4}\n",
       "x.toml:8: window: pattern 'full' has no window"},
      {kGood + "[[kernel]]\nname = \"naive\"\nmask = {widow = 4}\n",
       "x.toml:8: mask.widow: unknown"},
      {kGood + "[[kernel]]\nname = \"naive\"\noptions = {block = 4}\n",
       "x.toml:8: options: unknown option 'block'"},
      {kGood + "[[kernel]]\nname = \"blis_blocked\"\noptions = {query_block = 0}\n",
       "x.toml:8: options: option 'query_block' must be in"},
      {kGood + "[[kernel]]\nname = \"naive\"\nwhere = {threads = 1}\n",
       "x.toml:8: where.threads: is no axis"},
      {"[axes]\nkeys = [8, 16]\nhead_dim = [8]\nzip = [[\"keys\", \"head_dim\"]]\n[[kernel]]\nname "
       "= "
       "\"naive\"\n",
       "x.toml:3: head_dim: has 1 values, but keys, zipped with it, has 2"},
  };
  for (const auto& [text, message] : bad)
    EXPECT_EQ(ErrorOf(text).substr(0, message.size()), message) << text;
  EXPECT_EQ(ErrorOf(kGood), "");
  EXPECT_EQ(ErrorOf(kGood, {{"nave"}, {}}).substr(0, 32), "-k nave: unknown kernel 'nave' (");
}

TEST(Experiment, LayersHaveTheirOwnFields) {
  const std::string text =
      "[axes]\nkeys = [8, 16]\nd_model = 12\n[[kernel]]\nname = [\"rnn\", \"lstm\"]\n"
      "[[kernel]]\nname = \"self_attention\"\nkind = \"layer\"\nheads = 3\n"
      "encoding = [\"none\", \"rotary\"]\nattention = \"naive\"\n"
      "[[kernel]]\nname = \"convolution\"\nwidth = 3\n";
  const auto cases = CasesOf(text);
  ASSERT_EQ(cases.size(), 2u + 2 + 4 + 2);
  for (const Case& c : cases) {
    EXPECT_EQ(c.kind, "layer");
    Case copy;
    EXPECT_EQ(FromJson(ToJson(c), &copy), "");
    EXPECT_EQ(Hash(copy), Hash(c));
  }
  const Problem& attends = cases[5].problem;
  EXPECT_EQ(attends.head_dim, 4);
  EXPECT_EQ(attends.queries, attends.keys);
  EXPECT_EQ(attends.layer.attention, "naive");
  // What computes the attention inside is no part of the problem; which layer it is, is.
  Case other = cases[5];
  other.problem.layer.attention = "flash";
  EXPECT_EQ(ProblemHash(other), ProblemHash(cases[5]));
  EXPECT_NE(Hash(other), Hash(cases[5]));
  EXPECT_NE(ProblemHash(cases[0]), ProblemHash(cases[2]));
}

TEST(Experiment, ErrorsOfLayersNameTheField) {
  const std::string axes = "[axes]\nkeys = 8\nd_model = 12\n[[kernel]]\n";
  const struct {
    std::string text, message;
  } bad[] = {
      {axes + "name = \"naive\"\n", "x.toml:3: d_model: 'naive' is no layer"},
      {axes + "name = \"lstm\"\nkind = \"attention\"\n", "x.toml:6: kind: 'lstm' is a layer"},
      {axes + "name = \"lstm\"\nkind = \"kernel\"\n", "x.toml:6: kind: must be 'attention' or"},
      {axes + "name = \"self_attention\"\nheads = 5\n", "x.toml:6: heads: 5 do not divide d_model"},
      {axes + "name = \"self_attention\"\nencoding = \"odd\"\n", "x.toml:6: encoding: unknown"},
      {axes + "name = \"self_attention\"\nattention = \"lstm\"\n", "x.toml:6: attention: must be"},
      {axes + "name = \"self_attention\"\nqueries = 4\n", "x.toml:2: keys: must equal queries"},
      {axes + "name = []\n", "x.toml:5: name: must be a name or a list"},
      {"[axes]\nkeys = 8\n[[kernel]]\nname = \"gru\"\n", "x.toml: axes.d_model: missing"},
  };
  for (const auto& [text, message] : bad)
    EXPECT_EQ(ErrorOf(text).substr(0, message.size()), message) << text;
}

TEST(Experiment, TheFilesOfTheProjectLoad) {
  for (const char* name : {"quick", "scaling", "width", "table1", "decode"}) {
    const Experiment experiment =
        LoadExperiment(std::string(ATTNBENCH_SOURCE_DIR) + "/experiments/" + name + ".toml");
    EXPECT_EQ(experiment.name, name);
    EXPECT_FALSE(experiment.title.empty());
    EXPECT_GT(experiment.cases.size(), 20u);
  }
}

}  // namespace
}  // namespace attnbench
