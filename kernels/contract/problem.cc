// SPDX-License-Identifier: Apache-2.0
#include "kernels/contract/problem.h"

#include <cmath>
#include <iterator>

namespace attnbench {
namespace {

// Floored division and modulo: positions may be negative (queries > keys).
Index FloorDiv(Index a, Index b) { return a / b - (a % b != 0 && (a % b < 0) != (b < 0)); }
Index Mod(Index a, Index b) { return a - FloorDiv(a, b) * b; }

// How many j in [begin, end), begin >= 0, have j mod stride in [residue, residue + width).
Index CountResidues(Index begin, Index end, Index stride, Index residue, Index width) {
  if (end <= begin) return 0;
  auto below = [&](Index n) {
    return (n / stride) * width + std::clamp(n % stride - residue, Index{0}, width);
  };
  return below(end) - below(begin);
}

// Keys under `limit` that query i sees of the tiles and the sinks; key positions ascend.
Index KeysOfTiles(const Problem& p, Index i, Index limit) {
  const TileList& t = *p.mask.tiles;
  const Index origin = p.positions.key_origin, row = i / t.query_tile;
  const auto keys_before = [&](Index position) {
    const Index distance = std::max(Index{0}, position - origin);
    return (distance + p.positions.key_step - 1) / p.positions.key_step;
  };
  if (p.mask.causal) limit = std::min(keys_before(p.QueryPosition(i) + 1), limit);
  const Index sinks = p.mask.sinks > 0 ? std::min(keys_before(p.mask.sinks), limit) : Index{0};
  Index keys = sinks;
  for (Index at = t.row_begin[row]; at < t.row_begin[row + 1]; ++at) {
    const Index begin = std::max(sinks, t.column[at] * t.key_tile);
    keys += std::max(Index{0}, std::min(limit, (t.column[at] + 1) * t.key_tile) - begin);
  }
  return keys;
}

constexpr const char* kDTypes[] = {"f32", "bf16", "f64"};
constexpr const char* kScores[] = {"scaled_dot", "dot",      "general",
                                   "concat",     "additive", "location"};
constexpr const char* kPatterns[] = {"full", "local", "strided", "columns", "fixed", "tiles"};
constexpr const char* kEncodings[] = {"none", "sinusoidal", "learned", "rotary", "alibi"};

template <class Enum, std::size_t N>
bool ParseIn(const char* const (&names)[N], const std::string& name, Enum* value) {
  for (std::size_t i = 0; i < N; ++i) {
    if (name == names[i]) {
      *value = static_cast<Enum>(i);
      return true;
    }
  }
  return false;
}

}  // namespace

const char* Name(DType dtype) { return kDTypes[static_cast<int>(dtype)]; }
const char* Name(Score score) { return kScores[static_cast<int>(score)]; }
const char* Name(Mask::Pattern pattern) { return kPatterns[static_cast<int>(pattern)]; }
const char* Name(Encoding encoding) { return kEncodings[static_cast<int>(encoding)]; }
bool Parse(const std::string& name, DType* dtype) { return ParseIn(kDTypes, name, dtype); }
bool Parse(const std::string& name, Score* score) { return ParseIn(kScores, name, score); }
bool Parse(const std::string& name, Mask::Pattern* p) { return ParseIn(kPatterns, name, p); }
bool Parse(const std::string& name, Encoding* e) { return ParseIn(kEncodings, name, e); }

bool TileList::Contains(Index query, Index key) const {
  const Index row = query / query_tile;
  if (row + 1 >= std::ssize(row_begin)) return false;
  return std::binary_search(column.begin() + row_begin[row], column.begin() + row_begin[row + 1],
                            key / key_tile);
}

bool Mask::Admits(Index p, Index j) const {
  if (causal && j > p) return false;
  if (sinks > 0 && j < sinks) return true;  // positions may be negative
  const bool local = std::abs(p - j) <= window;
  switch (pattern) {
    case Pattern::kFull:
      return true;
    case Pattern::kLocal:
      return local;
    case Pattern::kStrided:
      return local || Mod(p - j, stride) == 0;
    case Pattern::kColumns:
      return local || Mod(j, stride) == Offset();
    case Pattern::kFixed:
      return FloorDiv(p, stride) == FloorDiv(j, stride) || Mod(j, stride) >= stride - columns;
    case Pattern::kTiles:
      break;
  }
  return false;
}

bool AdmittedKeys::Contains(Index key) const {
  if (key < 0 || key >= limit) return false;
  if ((key >= band_begin && key < band_end) || key < sinks) return true;
  // The residues may wrap past stride when key positions do not start at 0.
  return stride > 0 && Mod(key - residue, stride) < width;
}

Index AdmittedKeys::Count() const {
  // Sinks and band as disjoint intervals, then the columns outside both.
  const Index second = std::max(band_begin, sinks);
  const Index intervals = sinks + std::max(Index{0}, band_end - second);
  if (stride == 0) return intervals;
  auto residues = [&](Index begin, Index end) {
    const Index tail = std::max(Index{0}, residue + width - stride);  // what wraps around
    return CountResidues(begin, end, stride, residue, width - tail) +
           CountResidues(begin, end, stride, 0, tail);
  };
  return intervals + residues(0, limit) - residues(0, sinks) - residues(second, band_end);
}

AdmittedKeys Problem::Admitted(Index query, Index key_limit) const {
  const Index origin = positions.key_origin;
  const Index p = QueryPosition(query) - origin;  // the query's position, in key indices
  AdmittedKeys a;
  a.limit = mask.causal ? std::clamp(p + 1, Index{0}, key_limit) : key_limit;
  Index begin = 0, end = 0;
  switch (mask.pattern) {
    case Mask::Pattern::kFull:
      end = a.limit;
      break;
    case Mask::Pattern::kLocal:
    case Mask::Pattern::kStrided:
    case Mask::Pattern::kColumns:
      begin = p - mask.window;
      end = p + mask.window + 1;
      break;
    case Mask::Pattern::kFixed:
      begin = FloorDiv(p + origin, mask.stride) * mask.stride - origin;
      end = begin + mask.stride;
      break;
    case Mask::Pattern::kTiles:
      break;
  }
  a.band_begin = std::clamp(begin, Index{0}, a.limit);
  a.band_end = std::clamp(end, a.band_begin, a.limit);
  a.sinks = mask.sinks > 0 ? std::clamp(mask.sinks - origin, Index{0}, a.limit) : 0;
  if (mask.pattern == Mask::Pattern::kStrided) {
    a.stride = mask.stride, a.residue = Mod(p, mask.stride), a.width = 1;
  } else if (mask.pattern == Mask::Pattern::kColumns) {
    a.stride = mask.stride, a.residue = Mod(mask.Offset() - origin, mask.stride), a.width = 1;
  } else if (mask.pattern == Mask::Pattern::kFixed) {
    a.stride = mask.stride, a.width = mask.columns;
    a.residue = Mod(mask.stride - mask.columns - origin, mask.stride);
  }
  return a;
}

Problem& Problem::Resolve() {
  if (keys == 0) keys = queries;
  if (queries == 0) queries = keys;
  if (kv_heads == 0) kv_heads = heads;
  if (layer) {
    if (layer.d_out == 0) layer.d_out = layer.d_model;
    if (head_dim == 0 && heads > 0 && layer.d_model % heads == 0) head_dim = layer.d_model / heads;
  }
  if (v_dim == 0) v_dim = head_dim;
  if (scale == kDefaultScale)
    scale = score == Score::kScaledDot && head_dim > 0
                ? 1.0 / std::sqrt(static_cast<double>(head_dim))
                : 1.0;
  if (positions.query_origin == Positions::kBottomRight) positions.query_origin = keys - queries;
  return *this;
}

std::string Problem::Invalid() const {
  auto at_least = [](const char* field, Index value, Index low) -> std::string {
    if (value >= low) return "";
    return std::string(field) + ": must be at least " + std::to_string(low) + ", is " +
           std::to_string(value);
  };
  if (layer && head_dim == 0)
    return "heads: " + std::to_string(heads) + " do not divide d_model (" +
           std::to_string(layer.d_model) + "); give head_dim";
  if (layer && !layer.cross && queries != keys)
    return "keys: must equal queries within one sequence (cross = true attends over a second)";
  const std::pair<const char*, Index> sizes[] = {{"d_model", layer ? layer.d_model : 1},
                                                 {"d_out", layer ? layer.d_out : 1},
                                                 {"batch", batch},
                                                 {"heads", heads},
                                                 {"kv_heads", kv_heads},
                                                 {"queries", queries},
                                                 {"keys", keys},
                                                 {"head_dim", head_dim},
                                                 {"v_dim", v_dim}};
  for (auto [field, value] : sizes) {
    if (auto e = at_least(field, value, 1); !e.empty()) return e;
    if (value > (Index{1} << 40)) return std::string(field) + ": too large";
  }
  if (heads % kv_heads != 0)
    return "kv_heads: heads (" + std::to_string(heads) + ") must be a multiple of kv_heads (" +
           std::to_string(kv_heads) + ")";
  if (static_cast<double>(batch) * heads * std::max(queries, keys) * std::max(head_dim, v_dim) >
      9e15)
    return "queries: the tensors are larger than any memory";
  if ((score == Score::kConcat || score == Score::kAdditive) && hidden < 1)
    return "hidden: score '" + std::string(Name(score)) + "' needs hidden >= 1";
  if (!std::isfinite(scale)) return "scale: must be finite";
  if (!std::isfinite(softcap) || softcap < 0) return "softcap: must be finite and at least 0";
  if (dtype == DType::kF64) return "dtype: f64 is the oracle's output only; use f32 or bf16";
  if (dtype == DType::kF32 && out_dtype == DType::kBF16)
    return "out_dtype: f32 inputs give f32 (or, from the oracle, f64) outputs";
  if (positions.query_step == 0 || positions.key_step == 0) return "positions: steps must not be 0";
  const std::pair<const char*, Index> distances[] = {{"window", mask.window},
                                                     {"stride", mask.stride},
                                                     {"columns", mask.columns},
                                                     {"sinks", mask.sinks},
                                                     {"positions", positions.query_origin},
                                                     {"positions", positions.key_origin},
                                                     {"positions", positions.query_step},
                                                     {"positions", positions.key_step}};
  for (auto [field, value] : distances)  // so that sums of them cannot overflow
    if (std::abs(value) > (Index{1} << 40)) return std::string(field) + ": too large";
  const auto pattern = mask.pattern;
  const bool windowed = pattern == Mask::Pattern::kLocal || pattern == Mask::Pattern::kStrided ||
                        pattern == Mask::Pattern::kColumns;
  const bool strided = pattern == Mask::Pattern::kStrided || pattern == Mask::Pattern::kColumns ||
                       pattern == Mask::Pattern::kFixed;
  if (windowed) {
    if (auto e = at_least("window", mask.window, 1); !e.empty()) return e;
  }
  if (strided) {
    if (auto e = at_least("stride", mask.stride, 1); !e.empty()) return e;
  }
  if (pattern == Mask::Pattern::kColumns && mask.offset != Mask::kLastColumn &&
      (mask.offset < 0 || mask.offset >= mask.stride))
    return "offset: must be in 0 ... stride-1, is " + std::to_string(mask.offset);
  if (pattern == Mask::Pattern::kFixed && (mask.columns < 1 || mask.columns > mask.stride))
    return "columns: must be in 1 ... stride, is " + std::to_string(mask.columns);
  if (mask.sinks < 0) return "sinks: must be at least 0, is " + std::to_string(mask.sinks);
  if (pattern == Mask::Pattern::kTiles) {
    if (!mask.tiles || mask.tiles->query_tile < 1 || mask.tiles->key_tile < 1)
      return "tiles: pattern 'tiles' needs a tile list with positive tile sizes";
    const TileList& t = *mask.tiles;
    const Index rows = (queries + t.query_tile - 1) / t.query_tile;
    if (std::ssize(t.row_begin) != rows + 1 || t.row_begin.front() != 0 ||
        t.row_begin.back() != std::ssize(t.column) ||
        !std::is_sorted(t.row_begin.begin(), t.row_begin.end()))
      return "tiles: row_begin must have one entry per row of tiles plus one, ascending from 0";
    const Index columns_of_tiles = (keys + t.key_tile - 1) / t.key_tile;
    for (Index row = 0; row < rows; ++row) {
      for (Index i = t.row_begin[row]; i < t.row_begin[row + 1]; ++i) {
        if (t.column[i] < 0 || t.column[i] >= columns_of_tiles ||
            (i > t.row_begin[row] && t.column[i] <= t.column[i - 1]))
          return "tiles: columns must ascend strictly within a row and lie within the keys";
      }
    }
  }
  return "";
}

double Problem::AdmittedPairs(const Index* key_lengths) const {
  double pairs = 0;
  double previous = 0;
  for (Index b = 0; b < batch; ++b) {
    const Index limit = key_lengths ? key_lengths[b] : keys;
    if (b > 0 && (!key_lengths || key_lengths[b] == key_lengths[b - 1])) {
      pairs += previous;
      continue;
    }
    double here = 0;
    if (mask.pattern == Mask::Pattern::kFull && !mask.causal) {
      here = static_cast<double>(queries) * limit;
    } else if (HasClosedForm()) {
      for (Index i = 0; i < queries; ++i) here += Admitted(i, limit).Count();
    } else if (mask.pattern == Mask::Pattern::kTiles && positions.key_step >= 1) {
      for (Index i = 0; i < queries; ++i) here += KeysOfTiles(*this, i, limit);
    } else {
      for (Index i = 0; i < queries; ++i)
        for (Index j = 0; j < limit; ++j) here += Admits(i, j);
    }
    previous = here;
    pairs += here;
  }
  return pairs * heads;
}

Cost Problem::Useful(const Index* key_lengths) const {
  const double pairs = AdmittedPairs(key_lengths);
  const double query_rows = static_cast<double>(batch) * heads * queries;
  const double key_rows = static_cast<double>(batch) * kv_heads * keys;
  const double d = head_dim, h = hidden;
  Cost cost;
  cost.exps = pairs;
  switch (score) {
    case Score::kScaledDot:
    case Score::kDot:
      cost.flops = 2 * d * pairs;
      break;
    case Score::kGeneral:
      cost.flops = 2 * d * pairs + 2 * d * d * query_rows;
      break;
    case Score::kConcat:
    case Score::kAdditive:  // W q and U k once a row, then per pair: add, tanh, multiply by v, add
      cost.flops = 3 * h * pairs + 2 * h * d * (query_rows + key_rows);
      cost.exps += h * pairs;
      break;
    case Score::kLocation:
      cost.flops = 2 * d * pairs;
      break;
  }
  cost.flops += 2.0 * v_dim * pairs;
  cost.bytes = SizeOf(dtype) * (query_rows * d + key_rows * (d + v_dim)) +
               SizeOf(out_dtype) * query_rows * v_dim;
  return cost;
}

}  // namespace attnbench
