// SPDX-License-Identifier: Apache-2.0
// What is computed, never how: shapes, score, mask, positions, and the cost of the useful work.
//
//   out[b,h,i,:] = sum_j softmax_j(logit[b,h,i,j]) v[b,g,j,:],   j over the admitted keys,
//   logit = softcap(scale * score(q[b,h,i,:], k[b,g,j,:])) + bias[b,h,i,j],   g = h /
//   (heads/kv_heads)
//
// softcap(x) = c * tanh(x / c) when c > 0. A row that admits no key, or whose logits are all -inf,
// gives out = 0 and log-sum-exp = -inf.
#pragma once

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/contract/tensor.h"

namespace attnbench {

enum class Score : std::uint8_t {
  kScaledDot,  // q.k / sqrt(head_dim)             Vaswani et al. 2017, eq. 1
  kDot,        // q.k                              Luong et al. 2015, eq. 8 "dot"
  kGeneral,    // q.(W k)                          Luong "general",  W [head_dim, head_dim]
  kConcat,  // v.tanh(W [q; k])                 Luong "concat",   W [hidden, 2*head_dim], v [hidden]
  kAdditive,  // v.tanh(W q + U k)                Bahdanau et al. 2014, A.1.2; W, U [hidden,
              // head_dim]
  kLocation,  // (W q)[j]                         Luong eq. 9,      W [keys, head_dim]
};

// Tiles a content-dependent or static selection admits: pairs (i, j) with (i / query_tile,
// j / key_tile) in the list. Row r's tiles are column[row_begin[r]] ... column[row_begin[r+1] - 1],
// ascending. The same list serves every batch and head.
struct TileList {
  Index query_tile = 0, key_tile = 0;
  std::vector<Index> row_begin, column;
  bool Contains(Index query, Index key) const;
};

// One predicate, the only definition of who may look at whom. p is the query's position, j the
// key's.
struct Mask {
  enum class Pattern : std::uint8_t {
    kFull,
    kLocal,    // |p - j| <= window: a half-width. Causal 256 admits 257 keys. Longformer's w =
               // 2*window.
    kStrided,  // local, or (p - j) mod stride = 0             Child et al. 2019, "strided"
    kColumns,  // local, or j mod stride = offset
    kFixed,    // p/stride = j/stride (floor), or j mod stride >= stride - columns    Child, "fixed"
    kTiles,    // tiles->Contains(query index, key index)
  };
  static constexpr Index kLastColumn = -1;  // offset: stride - 1

  Pattern pattern = Pattern::kFull;
  Index window = 0, stride = 0, offset = kLastColumn, columns = 0;
  Index sinks = 0;      // keys at positions 0 ... sinks-1 are admitted too (StreamingLLM)
  bool causal = false;  // cuts j > p from all of the above
  std::shared_ptr<const TileList> tiles;

  Index Offset() const { return offset == kLastColumn ? stride - 1 : offset; }
  // Positions, not indices; not for kTiles, which is a matter of indices (see Problem::Admits).
  bool Admits(Index query_position, Index key_position) const;
};

// Positions are affine in the index: origin + index * step. Steps other than 1 express shards of a
// ring and splits over keys.
struct Positions {
  static constexpr Index kBottomRight = std::numeric_limits<Index>::min();
  Index query_origin =
      kBottomRight;  // default: keys - queries, so that the last query sees all keys
  Index query_step = 1, key_origin = 0, key_step = 1;
};

// The admitted keys of one query in closed form, as key *indices*:
//   [0, limit) and ( [band_begin, band_end) or [0, sinks) or j mod stride in [residue,
//   residue+width) ).
// stride 0: no columns. Band and sinks are clipped to [0, limit).
struct AdmittedKeys {
  Index limit = 0, band_begin = 0, band_end = 0, sinks = 0;
  Index stride = 0, residue = 0, width = 0;

  bool Contains(Index key) const;
  Index Count() const;
};

struct Cost {
  double flops = 0, exps = 0, bytes = 0;
};

// How a layer tells one position from another; without any, self-attention is blind to order.
// Defined in kernels/position.h.
enum class Encoding : std::uint8_t {
  kNone,
  kSinusoidal,  // added to the sequence                   Vaswani et al. 2017, 3.5
  kLearned,     // a weight a position and column, added   the same, "learned positional embeddings"
  kRotary,      // queries and keys turned by angle        Su et al. 2021
  kAlibi,       // logits fall off linearly with distance  Press et al. 2021
};

// What a layer has on top of the attention inside it: Y = layer(X). Sequences are X [batch,
// queries, d_model] and, for cross-attention, a second one [batch, keys, d_model].
struct LayerShape {
  static constexpr const char* kAuto = "auto";  // the one made for the pattern, else flash, ...

  Index d_model = 0;  // 0: no layer, the problem is attention itself
  Index d_out = 0;    // columns of Y; default d_model
  Index width = 0;    // of a convolution: how many positions it sees
  Encoding encoding = Encoding::kNone;
  bool cross = false;
  std::string attention = kAuto;  // the kernel inside

  explicit operator bool() const { return d_model > 0; }
};

struct Problem {
  static constexpr double kDefaultScale = -std::numeric_limits<double>::infinity();

  Index batch = 1, heads = 1, kv_heads = 0 /* = heads */;
  Index queries = 0, keys = 0;  // either defaults to the other
  Index head_dim = 0, v_dim = 0 /* = head_dim */;
  Index hidden = 0;  // of kConcat, kAdditive
  Score score = Score::kScaledDot;
  double scale = kDefaultScale;  // = 1/sqrt(head_dim) for kScaledDot, else 1
  double softcap = 0;            // 0: none
  Mask mask;
  Positions positions;
  DType dtype = DType::kF32, out_dtype = DType::kF32;
  bool has_bias = false, has_key_lengths = false, has_centers = false;  // what Inputs will carry
  LayerShape layer;  // then head_dim defaults to d_model / heads, and all above is what is inside

  // Fills in the defaults marked above. Kernels only ever see resolved, valid problems.
  Problem& Resolve();
  // Empty, or what is wrong: one line that starts with the field's name.
  std::string Invalid() const;

  // Output::out is [batch][out_heads][queries][out_columns].
  Index out_heads() const { return layer ? 1 : heads; }
  Index out_columns() const { return layer ? layer.d_out : v_dim; }

  Index KvHead(Index head) const { return head / (heads / kv_heads); }
  Index QueryPosition(Index query) const {
    return positions.query_origin + query * positions.query_step;
  }
  Index KeyPosition(Index key) const { return positions.key_origin + key * positions.key_step; }
  // The mask on indices. Key lengths, which are inputs, cut further.
  bool Admits(Index query, Index key) const {
    if (mask.pattern != Mask::Pattern::kTiles)
      return mask.Admits(QueryPosition(query), KeyPosition(key));
    if (mask.causal && KeyPosition(key) > QueryPosition(query)) return false;
    return (mask.sinks > 0 && KeyPosition(key) < mask.sinks) || mask.tiles->Contains(query, key);
  }
  // Whether Admitted() may be called: every pattern but kTiles, with key_step = 1.
  bool HasClosedForm() const {
    return mask.pattern != Mask::Pattern::kTiles && positions.key_step == 1;
  }
  // key_limit: number of keys there are for this batch (key_lengths[b], or keys).
  AdmittedKeys Admitted(Index query, Index key_limit) const;

  // Admitted (query, key) pairs over batch and heads. key_lengths: [batch] or null.
  double AdmittedPairs(const Index* key_lengths = nullptr) const;
  // Admitted pairs only, each tensor moved once: no kernel can inflate it.
  Cost Useful(const Index* key_lengths = nullptr) const;
};

const char* Name(DType dtype);
const char* Name(Score score);
const char* Name(Mask::Pattern pattern);
const char* Name(Encoding encoding);
// False when the name is unknown.
bool Parse(const std::string& name, DType* dtype);
bool Parse(const std::string& name, Score* score);
bool Parse(const std::string& name, Mask::Pattern* pattern);
bool Parse(const std::string& name, Encoding* encoding);

}  // namespace attnbench
