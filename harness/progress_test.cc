// SPDX-License-Identifier: Apache-2.0
#include "harness/progress.h"

#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "harness/axis.h"

namespace attnbench {
namespace {

// A case with each field of `values` set, resolved as an experiment's cases are.
Case Made(const std::string& kernel, const std::map<std::string, Value>& values) {
  Case c;
  c.kernel = kernel;
  std::istringstream names(CaseFieldNames());
  for (std::string name; std::getline(names >> std::ws, name, ',');)
    if (values.contains(name)) {
      EXPECT_EQ(SetCaseField(name, values.at(name), &c), "") << name;
    }
  c.problem.Resolve();
  return c;
}

TEST(Label, TellsApartWhatAnyAxisDoes) {
  const std::map<std::string, Value> attention = {{"keys", 96},
                                                  {"head_dim", 16},
                                                  {"heads", 4},
                                                  {"pattern", std::string("tiles")},
                                                  {"score", std::string("additive")},
                                                  {"dtype", std::string("bf16")},
                                                  {"tile", 8},
                                                  {"offset", 1},
                                                  {"columns", 1},
                                                  {"sinks", 1},
                                                  {"window", 1},
                                                  {"stride", 4}};
  const std::map<std::string, Value> layer = {
      {"keys", 96}, {"d_model", 16}, {"heads", 4}, {"width", 3}};
  const std::map<std::string, Value> others = {{"batch", 2},
                                               {"heads", 2},
                                               {"kv_heads", 2},
                                               {"queries", 7},
                                               {"keys", 128},
                                               {"head_dim", 8},
                                               {"v_dim", 8},
                                               {"d_model", 32},
                                               {"d_out", 8},
                                               {"width", 5},
                                               {"encoding", std::string("alibi")},
                                               {"cross", true},
                                               {"attention", std::string("naive")},
                                               {"hidden", 9},
                                               {"dtype", std::string("f32")},
                                               {"out_dtype", std::string("f32")},
                                               {"score", std::string("dot")},
                                               {"scale", 0.3},
                                               {"softcap", 30.0},
                                               {"bias", true},
                                               {"key_lengths", true},
                                               {"centers", true},
                                               {"pattern", std::string("local")},
                                               {"window", 2},
                                               {"stride", 8},
                                               {"offset", 2},
                                               {"columns", 2},
                                               {"sinks", 2},
                                               {"tile", 16},
                                               {"band", 1},
                                               {"dilation", 2},
                                               {"global_tiles", 1},
                                               {"random_tiles", 1},
                                               {"causal", true},
                                               {"threads", 2},
                                               {"ranks", 2},
                                               {"cache", std::string("cold")},
                                               {"head", 1},
                                               {"logit_scale", 2.0}};
  std::istringstream names(CaseFieldNames());
  for (std::string name; std::getline(names >> std::ws, name, ',');) {
    if (name == "kind" || name == "layer") continue;  // the kernel's name says it; of tensors alone
    ASSERT_TRUE(others.contains(name)) << name << ": a new axis, of which this test knows no value";
    const bool of_layers = name == "attention" || name == "cross" || name == "encoding" ||
                           name == "width" || name.starts_with("d_");
    auto values = of_layers ? layer : attention;
    const std::string kernel = of_layers ? "self_attention" : "naive";
    const std::string before = Label(Made(kernel, values));
    values[name] = others.at(name);
    EXPECT_NE(Label(Made(kernel, values)), before) << name;
  }
}

TEST(Label, SaysOnlyWhatIsNotAsUsual) {
  EXPECT_EQ(Label(Made("flash", {{"keys", 96}, {"head_dim", 16}})), "flash keys=96 d=16");
  Case c = Made("block_sparse", {{"keys", 96},
                                 {"head_dim", 16},
                                 {"pattern", std::string("tiles")},
                                 {"tile", 8},
                                 {"band", 1},
                                 {"global_tiles", 2},
                                 {"causal", true}});
  EXPECT_EQ(Label(c), "block_sparse keys=96 d=16 tiles tile=8 band=1 global_tiles=2 causal");
  c = Made("flash", {{"keys", 96}, {"head_dim", 16}});
  c.input.kind = "tensors";
  c.input.layer = 3;
  EXPECT_EQ(Label(c), "flash keys=96 d=16 layer=3");
}

}  // namespace
}  // namespace attnbench
