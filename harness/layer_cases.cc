// SPDX-License-Identifier: Apache-2.0
// Problems of layers for the conformance suite: chosen shapes, and random ones.
#include <cmath>

#include "harness/conform.h"

namespace attnbench {
namespace {

using Pattern = Mask::Pattern;

void Add(std::vector<EdgeCase>* cases, Problem p, const std::string& note = "") {
  EdgeCase c{.group = "layers", .problem = p};
  c.problem.Resolve();
  c.name = Label(c.problem) + (note.empty() ? "" : "," + note);
  c.seed = 5000 + cases->size();
  c.layout = cases->size() % 2 ? Layout::kPadded : Layout::kPacked;
  cases->push_back(std::move(c));
}

Problem Self(Index n, Index d_model, Index heads) {
  Problem p;
  p.queries = n, p.heads = heads, p.layer.d_model = d_model;
  return p;
}

}  // namespace

std::vector<EdgeCase> LayerCases() {
  std::vector<EdgeCase> cases;
  for (Index n : {1, 2, 3, 16, 17, 65, 130})
    for (Index batch : {1, 3}) {
      Problem p = Self(n, 24, 2);
      p.batch = batch;
      Add(&cases, p, "batch=" + std::to_string(batch));
    }
  for (Index d_model : {1, 7, 64, 96}) Add(&cases, Self(33, d_model, 1));
  for (Index d_out : {1, 50}) {
    Problem p = Self(33, 20, 1);
    p.layer.d_out = d_out;
    Add(&cases, p, "d_out=" + std::to_string(d_out));
  }
  for (Index kv_heads : {1, 2, 4}) {
    Problem p = Self(40, 32, 4);
    p.kv_heads = kv_heads;
    Add(&cases, p, "kv_heads=" + std::to_string(kv_heads));
  }
  for (int encoding = 0; encoding < 5; ++encoding)
    for (bool causal : {false, true})
      for (Index keys : {45, 20}) {
        Problem p = Self(45, 24, 3);
        p.keys = keys, p.layer.cross = keys != 45;
        p.layer.encoding = static_cast<Encoding>(encoding), p.mask.causal = causal;
        Add(&cases, p, Name(p.layer.encoding));
      }
  for (Pattern pattern : {Pattern::kLocal, Pattern::kStrided, Pattern::kColumns, Pattern::kFixed})
    for (bool causal : {false, true})
      for (Index sinks : {0, 3}) {
        Problem p = Self(70, 16, 2);
        p.mask.pattern = pattern, p.mask.causal = causal, p.mask.sinks = sinks;
        p.mask.window = 5, p.mask.stride = 8, p.mask.columns = 2;
        Add(&cases, p);
      }
  for (const Kernel* kernel : Kernels()) {
    if (kernel->host != "cpp") continue;
    Problem p = Self(50, 24, 2);
    p.layer.attention = kernel->name;
    Add(&cases, p, "attention=" + p.layer.attention);
    p.mask.pattern = Pattern::kColumns, p.mask.window = 4, p.mask.stride = 7;
    Add(&cases, p, "attention=" + p.layer.attention);
    p.score = Score::kDot, p.mask = {};
    Add(&cases, p, "dot,attention=" + p.layer.attention);
  }
  return cases;
}

EdgeCase FuzzLayerCase(std::uint64_t seed) {
  Random random(seed);
  EdgeCase c{.group = "layer_fuzz", .seed = seed, .random = true};
  Problem& p = c.problem;
  p.batch = random.Between(1, 3);
  p.kv_heads = random.Between(1, 3);
  p.heads = p.kv_heads * random.Between(1, 3);
  p.layer.cross = random.Chance(0.3);
  p.queries = random.Between(1, 150);
  p.keys = p.layer.cross ? random.Between(1, 150) : p.queries;
  p.head_dim = 2 * random.Between(1, 40);
  if (random.Chance(0.2)) p.v_dim = random.Between(1, 60);
  p.layer.d_model = random.Between(1, 120);
  if (random.Chance(0.3)) p.layer.d_out = random.Between(1, 120);
  p.layer.encoding = static_cast<Encoding>(random.Below(5));
  p.mask.pattern = static_cast<Pattern>(random.Below(5));
  p.mask.causal = random.Chance(0.5);
  p.mask.window = random.Between(1, 40), p.mask.stride = random.Between(1, 40);
  p.mask.columns = random.Between(1, p.mask.stride);
  if (random.Chance(0.3)) p.mask.sinks = random.Between(1, 10);
  c.layout = random.Chance(0.5) ? Layout::kPadded : Layout::kPacked;
  p.Resolve();
  c.name = "seed=" + std::to_string(seed) + "," + Label(p) + ",batch=" + std::to_string(p.batch) +
           ",heads=" + std::to_string(p.heads) + ":" + std::to_string(p.kv_heads) + "," +
           Name(p.layer.encoding);
  return c;
}

// A layer that does not attend meets the same lengths, widths and batches without what it lacks.
std::vector<EdgeCase> WithoutAttention(const EdgeCase& c) {
  EdgeCase plain = c;
  Problem& p = plain.problem;
  const bool causal = p.mask.causal;
  p.heads = p.kv_heads = 1;
  p.head_dim = p.v_dim = p.layer.d_model;
  p.keys = p.queries;
  p.mask = {};
  p.positions = {};
  p.scale = Problem::kDefaultScale;
  p.score = Score::kScaledDot;
  p.layer.encoding = Encoding::kNone;
  p.layer.cross = false;
  p.layer.attention = LayerShape::kAuto;
  p.Resolve();
  std::vector<EdgeCase> near = {plain};
  p.layer.width = 1 + static_cast<Index>(c.seed % 6);
  p.mask.causal = causal;
  near.push_back(plain);
  return near;
}

}  // namespace attnbench
