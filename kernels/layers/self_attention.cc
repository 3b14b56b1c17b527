// SPDX-License-Identifier: Apache-2.0
// self_attention: the multi-head attention layer, around any attention kernel.
//
//   Q = X Wq   K = M Wk   V = M Wv      M = X, or the second sequence of cross-attention
//   Y = concat_h(attention(Q_h, K_h, V_h)) Wo
//
// Heads share one product each way: Q, K and V lie [batch][row][head][column], as the products
// leave them, and the kernel inside reads them by their strides. Fewer kv_heads than heads is
// grouped-query attention (one: multi-query); the mask and its window are the problem's; a position
// encoding is added to the sequences (sinusoidal, learned), turns Q and K (rotary) or is a bias on
// the logits (ALiBi).
//
// Papers: Vaswani et al. 2017, 3.2.2 and table 1 ("self-attention", "restricted"); Shazeer 2019
// (multi-query); Ainslie et al. 2023 (grouped-query). Cost: 8 n d^2 flops of projections (heads
// times head_dim = d) and 4 n^2 d of attention: the square outweighs them from n = 2 d on. Memory:
// Q, K, V and the heads' outputs, and what the kernel inside needs.
#include <algorithm>
#include <cmath>

#include "kernels/layers/layer.h"
#include "kernels/position.h"
#include "kernels/simd/gemm.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

const std::vector<Option> kOptions = {
    {"output_projection", 1, 0, 1, "0: the heads' outputs side by side are Y, without Wo"}};

bool Projects(const Options& options) { return options["output_projection"] != 0; }

// The attention inside.
Problem Inner(const Problem& p) {
  Problem inner = p;
  inner.layer = {};
  inner.has_bias = p.layer.encoding == Encoding::kAlibi;
  return inner;
}

// Empty, or why the kernel cannot stand inside.
std::string Objection(const Kernel& kernel, const Problem& inner) {
  if (kernel.select) return "it selects by content";
  return kernel.refuse ? kernel.refuse(inner, Options(kernel.options)) : "";
}

const Kernel* InnerKernel(const Problem& p, const Problem& inner) {
  if (p.layer.attention != LayerShape::kAuto) return FindKernel(p.layer.attention);
  const bool local = p.mask.pattern == Mask::Pattern::kLocal;
  const bool sparse = !local && p.mask.pattern != Mask::Pattern::kFull;
  const char* first = local ? "local_window" : sparse ? "sparse_strided" : "flash";
  for (const char* name : {first, "flash", "blis_blocked", "naive"})
    if (const Kernel* kernel = FindKernel(name); kernel && Objection(*kernel, inner).empty())
      return kernel;
  return FindKernel("reference");
}

struct Plan {
  Plan(const Problem& p, int threads)
      : inner(Inner(p)), positions(p), kernel(InnerKernel(p, inner)), options(kernel->options) {
    if (kernel->plan) inner_plan = kernel->plan(inner, options, threads);
  }
  Problem inner;
  PositionTables positions;
  const Kernel* kernel;
  Options options;
  std::shared_ptr<const void> inner_plan;
};

bool Additive(const Problem& p) {
  return p.layer.encoding == Encoding::kSinusoidal || p.layer.encoding == Encoding::kLearned;
}

struct Scratch {
  float *x, *memory;  // with their positions added, where these are
  float *q, *k, *v;
  float* heads;  // the heads' outputs, where they are not Y itself
  std::byte* inner;
};
Scratch Layout(const Problem& p, const Options& options, std::size_t inner_bytes, Arena& arena) {
  const auto take = [&](bool needed, Index rows, Index columns) {
    return needed ? arena.Take<float>(p.batch * rows * columns) : nullptr;
  };
  Scratch s;
  s.x = take(Additive(p), p.queries, p.layer.d_model);
  s.memory = take(Additive(p) && p.layer.cross, p.keys, p.layer.d_model);
  s.q = take(true, p.queries, p.heads * p.head_dim);
  s.k = take(true, p.keys, p.kv_heads * p.head_dim);
  s.v = take(true, p.keys, p.kv_heads * p.v_dim);
  s.heads = take(Projects(options), p.queries, p.heads * p.v_dim);
  s.inner = arena.Take<std::byte>(inner_bytes);
  return s;
}

// A sequence and its position encoding. `learned`: [rows][d_model].
ConstTensor WithPositions(const Problem& p, const PositionTables& tables, const ConstTensor& x,
                          Index rows, const float* learned, float* sum, int threads) {
  if (!Additive(p)) return x;
  const Index d = p.layer.d_model, all = p.batch * rows;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (Index r = 0; r < all; ++r) {
    const Index i = r % rows;
    const float* from = x.Row<float>(r / rows, 0, i);
    float* to = sum + r * d;
    if (learned)
      for (Index c = 0; c < d; ++c) to[c] = from[c] + learned[i * d + c];
    else
      tables.AddSinusoid(i, from, to);
  }
  return {sum, DType::kF32, rows * d, rows * d, d};
}

// [batch][row][head][column] = rows of x times a matrix; as a tensor by heads.
ConstTensor Project(const ConstTensor& x, const float* w, Index batch, Index rows, Index d_model,
                    Index heads, Index head_dim, float* to, int threads) {
  const Index columns = heads * head_dim;
  for (Index b = 0; b < batch; ++b)
    ParallelGemm(rows, columns, d_model, 1.0f, {x.Row<float>(b, 0, 0), x.row_stride}, {w, columns},
                 Transpose::kNo, {to + b * rows * columns, columns}, threads);
  return {to, DType::kF32, rows * columns, head_dim, columns};
}

// For a kernel that never forms them, by one that does. Allocates: on request only, never timed.
void FillWeights(const Problem& inner, const Inputs& in, const Output& out, int threads) {
  const Kernel* kernel = FindKernel("blis_blocked");
  if (!kernel || !Objection(*kernel, inner).empty()) kernel = FindKernel("reference");
  const Options options(kernel->options);
  std::vector<std::byte> workspace(kernel->workspace ? kernel->workspace(inner, options, threads)
                                                     : 0);
  kernel->run(inner, in, out,
              {.threads = threads, .options = &options, .workspace = workspace.data()});
}

void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  const Plan& plan = *static_cast<const Plan*>(context.plan);
  const int threads = context.threads;
  const Kernel& kernel = *plan.kernel;
  const std::size_t inner_bytes =
      kernel.workspace ? kernel.workspace(plan.inner, plan.options, threads) : 0;
  Arena arena(context.workspace);
  const Scratch s = Layout(p, *context.options, inner_bytes, arena);
  const float *wq = in.weights[0], *wk = in.weights[1], *wv = in.weights[2];
  const float* wo = Projects(*context.options) ? in.weights[3] : nullptr;
  const float* learned = nullptr;
  if (p.layer.encoding == Encoding::kLearned) learned = in.weights[wo ? 4 : 3];

  const ConstTensor x = WithPositions(p, plan.positions, in.x, p.queries, learned, s.x, threads);
  const ConstTensor memory = p.layer.cross ? WithPositions(p, plan.positions, in.memory, p.keys,
                                                           learned, s.memory, threads)
                                           : x;
  const Index d = p.layer.d_model;
  Inputs inner;
  inner.q = Project(x, wq, p.batch, p.queries, d, p.heads, p.head_dim, s.q, threads);
  inner.k = Project(memory, wk, p.batch, p.keys, d, p.kv_heads, p.head_dim, s.k, threads);
  inner.v = Project(memory, wv, p.batch, p.keys, d, p.kv_heads, p.v_dim, s.v, threads);
  if (p.layer.encoding == Encoding::kRotary) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static) nowait
      for (Index r = 0; r < p.batch * p.queries; ++r)
        plan.positions.RotateQuery(r % p.queries, p.heads, s.q + r * p.heads * p.head_dim);
#pragma omp for schedule(static)
      for (Index r = 0; r < p.batch * p.keys; ++r)
        plan.positions.RotateKey(r % p.keys, p.kv_heads, s.k + r * p.kv_heads * p.head_dim);
    }
  }
  if (plan.inner.has_bias) inner.bias = plan.positions.Bias();

  const Index columns = p.heads * p.v_dim;
  Output heads;
  heads.out =
      wo ? Tensor{s.heads, DType::kF32, p.queries * columns, p.v_dim, columns}
         : Tensor{out.out.data, DType::kF32, out.out.batch_stride, p.v_dim, out.out.row_stride};
  heads.weights = out.weights;
  Context inside{.threads = threads,
                 .options = &plan.options,
                 .workspace = s.inner,
                 .plan = plan.inner_plan.get()};
  if (out.weights && !(kernel.provides & kWeights)) {
    FillWeights(plan.inner, inner, heads, threads);
    heads.weights = {};
  }
  kernel.run(plan.inner, inner, heads, inside);
  if (!wo) return;
  for (Index b = 0; b < p.batch; ++b)
    ParallelGemm(p.queries, p.layer.d_out, columns, 1.0f,
                 {s.heads + b * p.queries * columns, columns}, {wo, p.layer.d_out}, Transpose::kNo,
                 {out.out.Row<float>(b, 0, 0), out.out.row_stride}, threads);
}

std::vector<WeightShape> Weights(const Problem& p, const Options& options) {
  const Index d = p.layer.d_model, out = p.heads * p.v_dim;
  const double sigma = 1 / std::sqrt(static_cast<double>(d));
  std::vector<WeightShape> weights = {{"wq", d, p.heads * p.head_dim, sigma},
                                      {"wk", d, p.kv_heads * p.head_dim, sigma},
                                      {"wv", d, p.kv_heads * p.v_dim, sigma}};
  if (Projects(options))
    weights.push_back({"wo", out, p.layer.d_out, 1 / std::sqrt(static_cast<double>(out))});
  if (p.layer.encoding == Encoding::kLearned)
    weights.push_back({"positions", std::max(p.queries, p.keys), d, 1});
  return weights;
}

Cost WithProjections(const Problem& p, const Options& options, Cost inside) {
  const double x_rows = static_cast<double>(p.batch) * p.queries;
  const double memory_rows = static_cast<double>(p.batch) * p.keys;
  const double d = p.layer.d_model, out = static_cast<double>(p.heads) * p.v_dim;
  Cost cost = {.flops = inside.flops, .exps = inside.exps};
  cost.flops += 2 * d * x_rows * p.heads * p.head_dim;
  cost.flops += 2 * d * memory_rows * p.kv_heads * (p.head_dim + p.v_dim);
  if (Projects(options)) cost.flops += 2 * out * x_rows * p.layer.d_out;
  cost.bytes = 4 * (x_rows * (d + p.layer.d_out) + (p.layer.cross ? memory_rows * d : 0) +
                    ParametersOf(Weights(p, options)));
  return cost;
}

Cost Useful(const Problem& p, const Options& options) {
  return WithProjections(p, options, Inner(p).Useful());
}

Cost Executed(const Problem& p, const Options& options) {
  const Problem inner = Inner(p);
  const Kernel& kernel = *InnerKernel(p, inner);
  return WithProjections(
      p, options,
      kernel.executed ? kernel.executed(inner, Options(kernel.options)) : inner.Useful());
}

std::size_t Workspace(const Problem& p, const Options& options, int threads) {
  const Problem inner = Inner(p);
  const Kernel& kernel = *InnerKernel(p, inner);
  Arena count;
  Layout(p, options,
         kernel.workspace ? kernel.workspace(inner, Options(kernel.options), threads) : 0, count);
  return count.bytes();
}

std::string Refuse(const Problem& p, const Options& options) {
  if (std::string no = UnservedByLayer(p, {.attends = true, .causal = true}); !no.empty())
    return no;
  if (p.score != Score::kScaledDot && p.score != Score::kDot)
    return "score: projections make it a dot product";
  if (!Projects(options) && p.heads * p.v_dim != p.layer.d_out)
    return "output_projection: without it the heads' columns must be d_out";
  if (p.layer.encoding == Encoding::kRotary && p.head_dim % 2 != 0)
    return "encoding: rotary turns pairs of columns, head_dim is odd";
  if (p.layer.encoding == Encoding::kAlibi &&
      (p.positions.query_step != 1 || p.positions.key_step != 1))
    return "encoding: alibi is served for positions with steps of 1";
  const Problem inner = Inner(p);
  const Kernel* kernel = InnerKernel(p, inner);
  if (!kernel || kernel->layer) return "attention: no kernel '" + p.layer.attention + "'";
  if (std::string no = Objection(*kernel, inner); !no.empty())
    return "attention: '" + std::string(kernel->name) + "': " + no;
  GemmLibrary();  // initialises BLIS outside any timing
  return "";
}

// The definition, a batch at a time: sequences with positions, projections, then the rows asked for
// by the attention oracle.
template <class Real>
void Evaluate(const Problem& p, const Options& options, const Inputs& in,
              const std::vector<LayerRow>& rows, std::vector<OracleRow<Real>>* results) {
  constexpr DType kType = std::is_same_v<Real, double> ? DType::kF64 : DType::kF32;
  const Index d = p.layer.d_model, columns = p.heads * p.v_dim;
  const float* wo = Projects(options) ? in.weights[3] : nullptr;
  const auto sequence = [&](const ConstTensor& x, Index b, Index length) {
    std::vector<Real> s = OracleSequence<Real>(x, b, length, d);
    for (Index i = 0; i < length; ++i)
      for (Index c = 0; c < d; ++c) {
        if (p.layer.encoding == Encoding::kSinusoidal) s[i * d + c] += Real(Sinusoid(i, c, d));
        if (p.layer.encoding == Encoding::kLearned)
          s[i * d + c] += Real(in.weights[wo ? 4 : 3][i * d + c]);
      }
    return s;
  };
  const auto turn = [&](std::vector<Real>* x, Index length, Index heads, Index origin, Index step) {
    if (p.layer.encoding != Encoding::kRotary) return;
    for (Index i = 0; i < length; ++i)
      for (Index h = 0; h < heads; ++h)
        for (Index pair = 0; pair < p.head_dim / 2; ++pair) {
          const double angle = RotaryAngle(origin + i * step, pair, p.head_dim);
          const Real cosine = Real(std::cos(angle)), sine = Real(std::sin(angle));
          Real* at = x->data() + (i * heads + h) * p.head_dim + 2 * pair;
          const Real even = at[0], odd = at[1];
          at[0] = even * cosine - odd * sine, at[1] = even * sine + odd * cosine;
        }
  };
  const PositionTables tables(p);
  Problem inner = Inner(p);
  inner.batch = 1;
  results->resize(rows.size());
  for (std::size_t begin = 0, end; begin < rows.size(); begin = end) {
    const Index b = rows[begin].batch;
    for (end = begin; end < rows.size() && rows[end].batch == b;) ++end;
    const std::vector<Real> x = sequence(in.x, b, p.queries);
    const std::vector<Real> memory = p.layer.cross ? sequence(in.memory, b, p.keys) : x;
    std::vector<Real> q = OracleProduct<Real>(x, in.weights[0], p.queries, p.heads * p.head_dim, d);
    std::vector<Real> k =
        OracleProduct<Real>(memory, in.weights[1], p.keys, p.kv_heads * p.head_dim, d);
    const std::vector<Real> v =
        OracleProduct<Real>(memory, in.weights[2], p.keys, p.kv_heads * p.v_dim, d);
    turn(&q, p.queries, p.heads, p.positions.query_origin, p.positions.query_step);
    turn(&k, p.keys, p.kv_heads, p.positions.key_origin, p.positions.key_step);
    Inputs inside;
    inside.q = {q.data(), kType, 0, p.head_dim, p.heads * p.head_dim};
    inside.k = {k.data(), kType, 0, p.head_dim, p.kv_heads * p.head_dim};
    inside.v = {v.data(), kType, 0, p.v_dim, p.kv_heads * p.v_dim};
    if (inner.has_bias) inside.bias = tables.Bias();
#pragma omp parallel for schedule(dynamic)
    for (std::size_t r = begin; r < end; ++r) {
      OracleRow<Real>& result = (*results)[r];
      OracleRow<Real> head;
      std::vector<Real> joined, weights;
      for (Index h = 0; h < p.heads; ++h) {
        EvaluateRow(inner, inside, 0, h, rows[r].row, &head);
        joined.insert(joined.end(), head.out.begin(), head.out.end());
        weights.insert(weights.end(), head.weights.begin(), head.weights.end());
        result.max_abs_logit = std::max(result.max_abs_logit, head.max_abs_logit);
      }
      result.weights = std::move(weights);
      result.out = wo ? OracleProduct<Real>(joined, wo, 1, p.layer.d_out, columns) : joined;
    }
  }
}

std::string Target() {
  const std::string library = GemmLibrary();
  return library.empty() ? DispatchedTarget() : DispatchedTarget() + "+" + library;
}

ATTN_KERNEL(
        .name = "self_attention",
        .idea = "multi-head attention layer: projections by BLIS around any attention kernel",
        .provides = kWeights, .options = kOptions, .refuse = Refuse, .executed = Executed,
        .workspace = Workspace,
        .plan = [](const Problem& p, const Options&, int threads) -> std::shared_ptr<const void> {
          return std::make_shared<const Plan>(p, threads);
        },
        .run = Run, .target = Target,
        .layer = MakeLayer({.weights = Weights,
                            .useful = Useful,
                            .sequential = [](const Problem&) { return 1.0; },
                            .exact = Evaluate<double>,
                            .naive = Evaluate<float>}));

}  // namespace
}  // namespace attnbench
