// SPDX-License-Identifier: Apache-2.0
// Random problems and options for the conformance suite, and the pieces that the edge cases share
// with them.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "harness/conform.h"

namespace attnbench {

using Pattern = Mask::Pattern;

std::string Label(const Problem& p) {
  std::string label =
      std::to_string(p.queries) + "x" + std::to_string(p.keys) + ",d=" + std::to_string(p.head_dim);
  if (p.layer) label += ",d_model=" + std::to_string(p.layer.d_model);
  if (p.v_dim && p.v_dim != p.head_dim) label += ",v=" + std::to_string(p.v_dim);
  if (p.dtype == DType::kBF16) label += ",bf16";
  if (p.mask.pattern != Pattern::kFull) label += std::string(",") + Name(p.mask.pattern);
  if (p.mask.window) label += ",window=" + std::to_string(p.mask.window);
  if (p.mask.stride) label += ",stride=" + std::to_string(p.mask.stride);
  if (p.mask.offset != Mask::kLastColumn) label += ",offset=" + std::to_string(p.mask.offset);
  if (p.mask.columns) label += ",columns=" + std::to_string(p.mask.columns);
  if (p.mask.sinks) label += ",sinks=" + std::to_string(p.mask.sinks);
  if (p.mask.causal) label += ",causal";
  return label;
}

std::shared_ptr<const TileList> RandomTiles(Index queries, Index keys, Index query_tile,
                                            Index key_tile, double density, std::uint64_t seed) {
  auto tiles = std::make_shared<TileList>();
  tiles->query_tile = query_tile, tiles->key_tile = key_tile;
  Random random(seed);
  tiles->row_begin.push_back(0);
  for (Index row = 0; row < (queries + query_tile - 1) / query_tile; ++row) {
    for (Index column = 0; column < (keys + key_tile - 1) / key_tile; ++column)
      if (random.Chance(density)) tiles->column.push_back(column);
    tiles->row_begin.push_back(std::ssize(tiles->column));
  }
  return tiles;
}

EdgeCase FuzzCase(std::uint64_t seed) {
  Random random(seed);
  const auto size = [&](Index most) {  // small sizes and those beside powers of two are likelier
    if (random.Chance(0.4)) return random.Between(1, std::min<Index>(most, 20));
    if (random.Chance(0.4))
      return std::min(
          most, std::max<Index>(1, (Index{1} << random.Between(3, 8)) + random.Between(-1, 1)));
    return random.Between(1, most);
  };
  EdgeCase c{.group = "fuzz", .seed = seed, .random = true};
  Problem& p = c.problem;
  p.batch = random.Between(1, 3);
  p.kv_heads = random.Between(1, 3);
  p.heads = p.kv_heads * random.Between(1, 3);
  p.queries = size(300), p.keys = random.Chance(0.5) ? p.queries : size(300);
  p.head_dim = size(130), p.v_dim = random.Chance(0.7) ? p.head_dim : size(130);
  if (random.Chance(0.3)) p.dtype = p.out_dtype = DType::kBF16;
  if (p.dtype == DType::kBF16 && random.Chance(0.2)) p.out_dtype = DType::kF32;
  if (random.Chance(0.15)) p.score = static_cast<Score>(random.Between(1, 5));
  if (p.score == Score::kConcat || p.score == Score::kAdditive) p.hidden = random.Between(1, 20);
  p.mask.pattern = random.Chance(0.4) ? Pattern::kFull : static_cast<Pattern>(random.Between(1, 5));
  p.mask.causal = random.Chance(0.5);
  p.mask.window = size(300);
  p.mask.stride = size(100);
  if (random.Chance(0.5)) p.mask.offset = random.Below(p.mask.stride);
  p.mask.columns = random.Between(1, p.mask.stride);
  if (random.Chance(0.3)) p.mask.sinks = size(100);
  if (p.mask.pattern == Pattern::kTiles)
    p.mask.tiles = RandomTiles(p.queries, p.keys, size(128), size(128), random.Uniform(), seed);
  if (random.Chance(0.2))
    p.positions = {random.Between(-50, 350), random.Between(1, 2), random.Between(-50, 50),
                   random.Between(1, 2)};
  if (random.Chance(0.15)) p.has_bias = true;
  if (random.Chance(0.15)) p.has_key_lengths = true;
  if (random.Chance(0.1)) p.softcap = 20;
  // The rule's |logit| does not see how large the arguments of a tanh are, or the summands that a
  // trained score cancels: those stay of order one.
  const bool dot = p.score == Score::kScaledDot || p.score == Score::kDot;
  c.input.logit_scale = dot ? std::pow(10.0, random.Between(-1, 3)) : 1;
  c.layout = static_cast<Layout>(random.Below(3));
  p.Resolve();
  c.name = "seed=" + std::to_string(seed) + "," + Label(p) + ",batch=" + std::to_string(p.batch) +
           ",heads=" + std::to_string(p.heads) + ":" + std::to_string(p.kv_heads);
  return c;
}

Options FuzzOptions(const Kernel& kernel, const Problem& problem, std::uint64_t seed) {
  Random random(~seed);  // another stream than the problem's
  Options options(kernel.options);
  if (random.Chance(0.25)) return options;
  const auto draw = [&](const Option& o) {
    if (o.max - o.min < 16) return random.Between(o.min, o.max);
    if (random.Chance(0.4)) return random.Between(o.min, std::min(o.max, o.min + 64));
    if (random.Chance(0.7))
      return std::clamp((Index{1} << random.Between(0, 12)) + random.Between(-1, 1), o.min, o.max);
    return random.Between(o.min, o.max);
  };
  for (const Option& option : kernel.options) {
    if (random.Chance(0.4)) continue;
    const Options before = options;
    if (std::string wrong = options.Set(option.name, draw(option)); !wrong.empty())
      throw std::logic_error(wrong);
    if (kernel.refuse && !kernel.refuse(problem, options).empty()) options = before;
  }
  return options;
}

}  // namespace attnbench
