// SPDX-License-Identifier: Apache-2.0
// The edge cases of the conformance suite: where attention kernels have gone wrong before. A group
// is a function that returns problems; what is special about each stands in its name.
#include <cmath>
#include <limits>
#include <utility>

#include "harness/conform.h"
#include "harness/tile_lists.h"

namespace attnbench {
namespace {

using Pattern = Mask::Pattern;
using Cases = std::vector<EdgeCase>;

struct Shape {
  Index queries, keys, head_dim = 64, heads = 2;
};

Problem ProblemOf(const Shape& s, bool causal = false) {
  Problem p;
  p.queries = s.queries, p.keys = s.keys, p.head_dim = s.head_dim, p.heads = s.heads;
  p.mask.causal = causal;
  return p;
}

// Both dtypes of a problem; inputs differ from case to case.
void Add(Cases* cases, const char* group, Problem p, const std::string& note = "",
         EdgeCase extra = {}, bool with_bf16 = true) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    if (dtype == DType::kBF16 && !with_bf16) continue;
    EdgeCase c = extra;
    c.group = group;
    c.problem = p;
    c.problem.dtype = c.problem.out_dtype = dtype;
    c.problem.Resolve();
    c.name = Label(c.problem) + (note.empty() ? "" : "," + note);
    c.seed = 1000 + cases->size();
    cases->push_back(std::move(c));
  }
}

Mask MaskOf(Pattern pattern, Index window, Index stride = 0, Index offset = Mask::kLastColumn,
            Index columns = 0) {
  Mask mask;
  mask.pattern = pattern, mask.window = window, mask.stride = stride, mask.offset = offset;
  mask.columns = columns;
  return mask;
}

std::vector<Mask> MasksToTry() {
  return {MaskOf(Pattern::kLocal, 1),
          MaskOf(Pattern::kLocal, 16),
          MaskOf(Pattern::kLocal, 63),
          MaskOf(Pattern::kLocal, 64),
          MaskOf(Pattern::kLocal, 1000),
          MaskOf(Pattern::kStrided, 1, 1),
          MaskOf(Pattern::kStrided, 3, 7),
          MaskOf(Pattern::kStrided, 16, 64),
          MaskOf(Pattern::kStrided, 40, 30),
          MaskOf(Pattern::kStrided, 2, 1000),
          MaskOf(Pattern::kColumns, 1, 5, 0),
          MaskOf(Pattern::kColumns, 16, 16, 3),
          MaskOf(Pattern::kColumns, 32, 64),
          MaskOf(Pattern::kColumns, 1, 1000, 2),
          MaskOf(Pattern::kFixed, 0, 1, Mask::kLastColumn, 1),
          MaskOf(Pattern::kFixed, 0, 16, Mask::kLastColumn, 3),
          MaskOf(Pattern::kFixed, 0, 64, Mask::kLastColumn, 1),
          MaskOf(Pattern::kFixed, 0, 9, Mask::kLastColumn, 9)};
}

Cases Lengths() {
  Cases cases;
  for (Index n : {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 61, 63, 64, 65, 97, 127, 128, 129, 251, 320})
    for (bool causal : {false, true}) Add(&cases, "lengths", ProblemOf({n, n}, causal));
  return cases;
}

Cases Rectangles() {
  Cases cases;
  for (auto [queries, keys] : {std::pair<Index, Index>{1, 7},
                               {1, 64},
                               {1, 257},
                               {2, 1},
                               {5, 64},
                               {64, 5},
                               {130, 70},
                               {3, 200},
                               {65, 129},
                               {129, 65},
                               {200, 1}})
    for (bool causal : {false, true})  // more queries than keys, causal: the first rows are empty
      Add(&cases, "rectangles", ProblemOf({queries, keys, 32}, causal));
  return cases;
}

Cases HeadDims() {
  Cases cases;
  for (Index d :
       {1, 2, 3, 5, 8, 15, 16, 17, 24, 31, 33, 40, 48, 63, 65, 80, 96, 100, 128, 160, 256})
    Add(&cases, "head_dims", ProblemOf({37, 70, d}, d % 2 == 0));
  for (auto [d, v_dim] : {std::pair<Index, Index>{64, 1},
                          {64, 32},
                          {64, 80},
                          {32, 64},
                          {5, 17},
                          {17, 5},
                          {128, 64},
                          {1, 3}}) {
    Problem p = ProblemOf({70, 70, d}, true);
    p.v_dim = v_dim;
    Add(&cases, "head_dims", p);
  }
  return cases;
}

// Keys and values of a head beyond 1 MiB: kernels that take them in parts, or block queries over
// them, do so here.
Cases Large() {
  Cases cases;
  std::vector<Mask> masks = MasksToTry();
  masks.push_back(Mask{});
  for (const Mask& mask : masks)
    for (bool causal : {false, true}) {
      Problem p = ProblemOf({100, 700, 256, 4});
      p.kv_heads = 2;
      p.mask = mask;
      p.mask.causal = causal, p.mask.sinks = 3;
      Add(&cases, "large", p);
    }
  return cases;
}

Cases Heads() {
  Cases cases;
  struct Group {
    Index batch, heads, kv_heads, queries;
  };
  for (auto [batch, heads, kv_heads, queries] :
       {Group{2, 4, 2, 37}, {1, 6, 1, 37}, {3, 3, 3, 5}, {2, 8, 2, 1}, {1, 8, 1, 3}, {5, 1, 1, 1}})
    for (bool causal : {false, true}) {
      Problem p = ProblemOf({queries, 90, 32, heads}, causal);
      p.batch = batch, p.kv_heads = kv_heads;
      Add(&cases, "heads", p,
          "batch=" + std::to_string(batch) + ",heads=" + std::to_string(heads) + ":" +
              std::to_string(kv_heads));
    }
  return cases;
}

Cases Layouts() {
  Cases cases;
  for (Layout layout : {Layout::kPadded, Layout::kTokenMajor})
    for (Shape s : {Shape{1, 1, 3}, {33, 65, 17}, {64, 64, 64}, {1, 130, 64}, {130, 130, 48}})
      for (bool causal : {false, true}) {
        Problem p = ProblemOf(s, causal);
        p.batch = 2, p.heads = 4, p.kv_heads = 2;
        Add(&cases, "layouts", p, layout == Layout::kPadded ? "nan_padded" : "token_major",
            {.layout = layout});
      }
  return cases;
}

Cases Masks() {
  Cases cases;
  for (Mask mask : MasksToTry())
    for (auto [queries, keys] :
         {std::pair<Index, Index>{130, 130}, {1, 100}, {70, 200}, {100, 40}, {1, 1}})
      for (bool causal : {false, true}) {
        Problem p = ProblemOf({queries, keys, 16, 1});
        p.mask = mask;
        p.mask.causal = causal;
        Add(&cases, "masks", p);
        p.mask.sinks = 3;
        if (queries == keys) Add(&cases, "masks", p);
      }
  for (bool causal : {false, true}) {  // sinks reach beyond a full mask's, and beyond the keys
    Problem p = ProblemOf({70, 70, 16, 1}, causal);
    p.mask = MaskOf(Pattern::kLocal, 5);
    p.mask.causal = causal, p.mask.sinks = 100;
    Add(&cases, "masks", p);
  }
  return cases;
}

Cases Tiles() {
  Cases cases;
  for (auto [query_tile, key_tile] : {std::pair<Index, Index>{64, 64}, {32, 16}, {1, 1}, {7, 100}})
    for (double density : {0.0, 0.3, 1.0})
      for (bool causal : {false, true}) {
        Problem p = ProblemOf({130, 150, 32, 2}, causal);
        p.mask.pattern = Pattern::kTiles;
        p.mask.sinks = causal ? 2 : 0;
        p.mask.tiles = RandomTiles(130, 150, query_tile, key_tile, density, cases.size() + 1);
        Add(&cases, "tiles", p,
            std::to_string(query_tile) + "x" + std::to_string(key_tile) + "@" +
                std::to_string(density).substr(0, 3));
      }
  // Dilated windows: residue classes that do not see each other, and lengths that end within one.
  for (Index dilation : {2, 3, 70})
    for (bool causal : {false, true})
      for (bool lengths : {false, true}) {
        const TileSpec spec{.tile = 1, .band = 20, .dilation = dilation};
        Problem p = ProblemOf({130, 150, 32, 2}, causal);
        p.mask.pattern = Pattern::kTiles, p.has_key_lengths = lengths;
        p.mask.tiles = SharedTiles(spec, 130, 150, causal);
        Add(&cases, "tiles", p, "dilated=" + std::to_string(dilation));
      }
  return cases;
}

Cases PositionsGroup() {
  Cases cases;
  std::vector<Mask> masks = MasksToTry();
  masks.push_back(Mask{});
  for (const Positions& at :
       {Positions{0, 1, 0, 1}, Positions{-5, 1, 0, 1}, Positions{-500, 1, 0, 1},
        Positions{500, 1, 0, 1}, Positions{0, 2, 0, 1}, Positions{10, 1, 37, 1},
        Positions{0, 1, -20, 1}, Positions{0, 1, 1, 3}, Positions{69, -1, 0, 1}})
    for (std::size_t m = 0; m < masks.size(); m += at.query_step == 1 && at.key_step == 1 ? 2 : 4)
      for (bool causal : {false, true}) {
        Problem p = ProblemOf({70, 90, 16, 1});
        p.mask = masks[m];
        p.mask.causal = causal, p.mask.sinks = m % 3;
        p.positions = at;
        Add(&cases, "positions", p,
            "p=" + std::to_string(at.query_origin) + "+" + std::to_string(at.query_step) +
                "i,j=" + std::to_string(at.key_origin) + "+" + std::to_string(at.key_step) + "i");
      }
  return cases;
}

Cases KeyLengths() {
  Cases cases;
  for (Shape s : {Shape{40, 130, 32, 2}, {1, 70, 64, 2}, {64, 64, 64, 2}})
    for (bool causal : {false, true})
      for (bool empty : {false, true}) {
        Problem p = ProblemOf(s, causal);
        p.batch = 4, p.has_key_lengths = true;
        Add(&cases, "key_lengths", p, empty ? "one_empty" : "",
            {.layout = Layout::kPadded, .empty_batch = empty});
        p.mask.pattern = Pattern::kLocal, p.mask.window = 20;
        Add(&cases, "key_lengths", p, empty ? "one_empty" : "",
            {.layout = Layout::kPadded, .empty_batch = empty});
      }
  return cases;
}

Cases Bias() {
  Cases cases;
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (Shape s : {Shape{40, 130, 32, 2}, {1, 70, 64, 2}, {66, 66, 17, 2}})
    for (bool causal : {false, true}) {
      Problem p = ProblemOf(s, causal);
      p.has_bias = true;
      Add(&cases, "bias", p);
      Add(&cases, "bias", p, "padded", {.layout = Layout::kPadded});
      Add(&cases, "bias", p, "one_-inf", {.poison = -kInf, .poisoned = 'b'});
      Add(&cases, "bias", p, "row_-inf", {.poison = -kInf, .poisoned = 'B'});
    }
  return cases;
}

Cases Logits() {
  Cases cases;
  for (Shape s : {Shape{70, 70, 64, 2}, {1, 200, 64, 2}, {130, 130, 16, 2}})
    for (bool causal : {false, true}) {
      Problem p = ProblemOf(s, causal);
      for (double logit_scale : {100.0, 3000.0}) {  // 3000: logits beyond +-1e4
        EdgeCase extra;
        extra.input.logit_scale = logit_scale;
        Add(&cases, "logits", p, "logit_scale=" + std::to_string(int(logit_scale)), extra);
      }
      EdgeCase outliers;
      outliers.input.kind = "outliers";
      Add(&cases, "logits", p, "outliers", outliers);
      for (double scale : {0.0, -0.5, 2.0}) {
        p.scale = scale;
        Add(&cases, "logits", p, "scale=" + std::to_string(scale).substr(0, 4));
      }
      p.scale = Problem::kDefaultScale;
      for (double softcap : {0.5, 30.0}) {
        p.softcap = softcap;
        Add(&cases, "logits", p, "softcap=" + std::to_string(softcap).substr(0, 4));
      }
      p.softcap = 0;
    }
  return cases;
}

// Non-finite inputs come through where the oracle says so, and nowhere else. In v the mask is
// full: 0 * NaN within a tile that is partly masked may be NaN.
Cases NonFinite() {
  Cases cases;
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (double value : {std::nan(""), kInf, -kInf})
    for (char tensor : {'q', 'k', 'v'})
      for (bool causal : {false, true}) {
        if (tensor == 'v' && causal) continue;
        for (Shape s : {Shape{70, 70, 64, 2}, {1, 33, 16, 2}})
          Add(&cases, "non_finite", ProblemOf(s, causal),
              std::string(1, tensor) + "=" +
                  (std::isnan(value) ? "nan"
                   : value > 0       ? "inf"
                                     : "-inf"),
              {.poison = value, .poisoned = tensor});
      }
  return cases;
}

Cases Scores() {
  Cases cases;
  for (Score score :
       {Score::kDot, Score::kGeneral, Score::kConcat, Score::kAdditive, Score::kLocation})
    for (Shape s : {Shape{1, 1, 4}, {7, 30, 16}, {33, 20, 24}, {40, 70, 33}})
      for (Index hidden : {1, 9, 32}) {
        if (score != Score::kConcat && score != Score::kAdditive && hidden != 1) continue;
        Problem p = ProblemOf(s);
        p.score = score, p.hidden = hidden;
        Add(&cases, "scores", p, std::string(Name(score)) + ",hidden=" + std::to_string(hidden));
      }
  for (bool causal : {false, true}) {
    Problem p = ProblemOf({20, 60, 16}, causal);  // Luong: keys = values = encoder states
    p.score = Score::kDot;
    Add(&cases, "scores", p, "dot,v_is_k", {.alias_kv = true});
    Problem local_p = ProblemOf({20, 60, 16}, causal);
    local_p.score = Score::kDot, local_p.has_centers = true;
    local_p.mask.pattern = Pattern::kLocal, local_p.mask.window = 10;
    Add(&cases, "scores", local_p, "dot,centers");
  }
  return cases;
}

Cases Long() {
  Cases cases;
  for (bool causal : {false, true})
    for (Index d : {64, 80}) {
      Add(&cases, "long", ProblemOf({1100, 1100, d, 1}, causal));
      Add(&cases, "long", ProblemOf({3, 5000, d, 1}, causal));
    }
  for (const Mask& mask :
       {MaskOf(Pattern::kLocal, 256), MaskOf(Pattern::kColumns, 64, 64),
        MaskOf(Pattern::kStrided, 64, 64), MaskOf(Pattern::kFixed, 0, 128, Mask::kLastColumn, 8)})
    for (bool causal : {false, true}) {
      Problem p = ProblemOf({1500, 1500, 64, 1});
      p.mask = mask;
      p.mask.causal = causal;
      Add(&cases, "long", p);
    }
  return cases;
}

const std::vector<std::pair<std::string, Cases (*)()>>& Groups() {
  static const std::vector<std::pair<std::string, Cases (*)()>> groups = {
      {"lengths", Lengths},
      {"rectangles", Rectangles},
      {"head_dims", HeadDims},
      {"large", Large},
      {"heads", Heads},
      {"layouts", Layouts},
      {"masks", Masks},
      {"tiles", Tiles},
      {"positions", PositionsGroup},
      {"key_lengths", KeyLengths},
      {"bias", Bias},
      {"logits", Logits},
      {"non_finite", NonFinite},
      {"scores", Scores},
      {"long", Long}};
  return groups;
}

}  // namespace

std::vector<std::string> EdgeGroups() {
  std::vector<std::string> names;
  for (const auto& [name, make] : Groups()) names.push_back(name);
  return names;
}

std::vector<EdgeCase> EdgeCases(const std::string& group) {
  for (const auto& [name, make] : Groups())
    if (name == group) return make();
  return {};
}

}  // namespace attnbench
