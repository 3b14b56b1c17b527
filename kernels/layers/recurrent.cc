// SPDX-License-Identifier: Apache-2.0
// rnn, lstm, gru: the layers that attention replaced. A step needs the step before it:
//
//   h_t = cell(W x_t + b, U h_{t-1} + b', c_{t-1})
//
// W x_t does not depend on the steps, so it is one product for the whole sequence; what is left in
// the chain is U h, a matrix times one vector a batch element, n times in a row. With several
// threads each owns some of the units, and all meet after every step. Gates stand side by side:
// W [d_model][gates * hidden], U [hidden][gates * hidden], LSTM i f g o, GRU r z n (as in PyTorch,
// transposed); h_0 = c_0 = 0; hidden = d_out. U is copied once a run into panels of 64 columns,
// which every step then reads from end to end.
//
// Papers: Elman 1990; Hochreiter, Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et
// al. 2014 (GRU; the reset gate after the product, as in cuDNN). Vaswani et al. 2017, table 1:
// n d^2 operations, n of them in sequence. Cost: 2 gates d (d + hidden) flops a step; U is read
// once a step, so that the rate is the bandwidth of the cache U fits in. Memory: gates n hidden.
// Tried: U as it comes, a step of gates * hidden floats from row to row: U h of an LSTM of 256 and
// 768 units at 7.2 and 4.9 GFLOP/s, where panels, their making included, give 41.5 and 29.0 (Zen
// 4).
#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/layers/layer.h"
#include "kernels/simd/cells.h"
#include "kernels/simd/gemm.h"
#include "kernels/simd/row_ops.h"
#include "kernels/simd/target.h"

namespace attnbench {
namespace {

enum class Cell { kRnn, kLstm, kGru };

constexpr Index Gates(Cell cell) { return cell == Cell::kRnn ? 1 : cell == Cell::kLstm ? 4 : 3; }
// A sigmoid or tanh is one exponential.
constexpr double ExpsAUnit(Cell cell) { return cell == Cell::kLstm ? 5 : Gates(cell); }

template <Cell kCell>
void Step(const CellStep& step, Index first, Index count) {
  if constexpr (kCell == Cell::kRnn) RnnStep(step, first, count);
  if constexpr (kCell == Cell::kLstm) LstmStep(step, first, count);
  if constexpr (kCell == Cell::kGru) GruStep(step, first, count);
}

// Columns of U that are kept together: what WeightedSum holds in registers.
constexpr Index kPanel = 64;

struct Scratch {
  float* input;      // [batch][n][gates * hidden]: W x
  float* packed;     // U in panels, each thread's own together
  float* recurrent;  // [batch][gates * hidden]: U h of the step
  float* state;      // [batch][hidden]: c
  float* zero;       // [hidden]: h_0
};
Scratch Layout(const Problem& p, Index gates, Arena& arena) {
  const Index hidden = p.layer.d_out;
  return {arena.Take<float>(p.batch * p.queries * gates * hidden),
          arena.Take<float>(hidden * gates * hidden), arena.Take<float>(p.batch * gates * hidden),
          arena.Take<float>(p.batch * hidden), arena.Take<float>(hidden)};
}

template <Cell kCell>
void Run(const Problem& p, const Inputs& in, const Output& out, const Context& context) {
  constexpr Index kGates = Gates(kCell);
  const Index n = p.queries, hidden = p.layer.d_out, columns = kGates * hidden;
  const float *w = in.weights[0], *u = in.weights[1];
  Arena arena(context.workspace);
  const Scratch s = Layout(p, kGates, arena);
  for (Index b = 0; b < p.batch; ++b)
    ParallelGemm(n, columns, p.layer.d_model, 1.0f, {in.x.Row<float>(b, 0, 0), in.x.row_stride},
                 {w, columns}, Transpose::kNo, {s.input + b * n * columns, columns},
                 context.threads);
  std::fill_n(s.recurrent, p.batch * columns, 0.0f);
  std::fill_n(s.state, p.batch * hidden, 0.0f);
  std::fill_n(s.zero, hidden, 0.0f);

#pragma omp parallel num_threads(context.threads)
  {
    // Vectors of 16 units are not shared between threads.
    const Index threads = omp_get_num_threads();
    const Index share = ((hidden + threads - 1) / threads + 15) / 16 * 16;
    const Index first = std::min(hidden, omp_get_thread_num() * share);
    const Index count = std::min(share, hidden - first);
    // visit(column, width, panel) for each of the thread's panels.
    const auto for_panels = [&](const auto& visit) {
      float* panel = s.packed + kGates * first * hidden;
      for (Index gate = 0; gate < kGates; ++gate)
        for (Index unit = 0; unit < count; unit += kPanel) {
          const Index width = std::min(kPanel, count - unit);
          visit(gate * hidden + first + unit, width, panel);
          panel += hidden * width;
        }
    };
    for_panels([&](Index column, Index width, float* panel) {
      for (Index k = 0; k < hidden; ++k)
        std::copy_n(u + k * columns + column, width, panel + k * width);
    });
    for (Index t = 0; t < n; ++t) {
      if (t > 0)
        for_panels([&](Index column, Index width, const float* panel) {
          for (Index b = 0; b < p.batch; ++b)
            WeightedSum(out.out.Row<float>(b, 0, t - 1), panel, width, hidden, width, 1.0f,
                        s.recurrent + b * columns + column);
        });
      for (Index b = 0; b < p.batch && count > 0; ++b)
        Step<kCell>({.input = s.input + (b * n + t) * columns,
                     .input_bias = in.weights[2],
                     .recurrent = s.recurrent + b * columns,
                     .recurrent_bias = in.weights[3],
                     .previous = t > 0 ? out.out.Row<float>(b, 0, t - 1) : s.zero,
                     .state = s.state + b * hidden,
                     .out = out.out.Row<float>(b, 0, t),
                     .hidden = hidden},
                    first, count);
#pragma omp barrier
    }
  }
}

template <Cell kCell>
std::vector<WeightShape> Weights(const Problem& p, const Options&) {
  const Index hidden = p.layer.d_out, columns = Gates(kCell) * hidden;
  const double sigma = 1 / std::sqrt(3.0 * static_cast<double>(hidden));  // PyTorch's variance
  return {{"w", p.layer.d_model, columns, sigma},
          {"u", hidden, columns, sigma},
          {"w_bias", 1, columns, sigma},
          {"u_bias", 1, columns, sigma}};
}

template <Cell kCell>
Cost Useful(const Problem& p, const Options& options) {
  const double steps = static_cast<double>(p.batch) * p.queries, hidden = p.layer.d_out;
  const double d = p.layer.d_model;
  return {.flops = 2 * steps * Gates(kCell) * hidden * (d + hidden),
          .exps = ExpsAUnit(kCell) * steps * hidden,
          .bytes = 4 * (steps * (d + hidden) + ParametersOf(Weights<kCell>(p, options)))};
}

template <Cell kCell>
std::size_t Workspace(const Problem& p, const Options&, int) {
  Arena count;
  Layout(p, Gates(kCell), count);
  return count.bytes();
}

std::string Refuse(const Problem& p, const Options&) {
  GemmLibrary();  // initialises BLIS outside any timing
  return UnservedByLayer(p, {});
}

// The definition, a step at a time.
template <Cell kCell, class Real>
void Evaluate(const Problem& p, const Options&, const Inputs& in, const std::vector<LayerRow>& rows,
              std::vector<OracleRow<Real>>* results) {
  constexpr Index kGates = Gates(kCell);
  const Index hidden = p.layer.d_out, columns = kGates * hidden;
  const auto sigmoid = [](Real x) { return 1 / (1 + std::exp(-x)); };
  results->resize(rows.size());
  for (std::size_t begin = 0, end; begin < rows.size(); begin = end) {
    const Index b = rows[begin].batch;
    for (end = begin; end < rows.size() && rows[end].batch == b;) ++end;
    const Index steps = rows[end - 1].row + 1;
    const std::vector<Real> input =
        OracleProduct<Real>(OracleSequence<Real>(in.x, b, steps, p.layer.d_model), in.weights[0],
                            steps, columns, p.layer.d_model);
    std::vector<Real> h(hidden), c(hidden), own(columns), fed(columns);
    std::size_t next = begin;
    for (Index t = 0; t < steps; ++t) {
      fed = OracleProduct<Real>(h, in.weights[1], 1, columns, hidden);
      for (Index j = 0; j < columns; ++j) {
        own[j] = input[t * columns + j] + Real(in.weights[2][j]);
        fed[j] += Real(in.weights[3][j]);
      }
      for (Index j = 0; j < hidden; ++j) {
        const auto gate = [&](Index g) { return own[g * hidden + j] + fed[g * hidden + j]; };
        if constexpr (kCell == Cell::kRnn) {
          h[j] = std::tanh(gate(0));
        } else if constexpr (kCell == Cell::kLstm) {
          c[j] = sigmoid(gate(1)) * c[j] + sigmoid(gate(0)) * std::tanh(gate(2));
          h[j] = sigmoid(gate(3)) * std::tanh(c[j]);
        } else {
          const Real fresh =
              std::tanh(own[2 * hidden + j] + sigmoid(gate(0)) * fed[2 * hidden + j]);
          const Real kept = sigmoid(gate(1));
          h[j] = (1 - kept) * fresh + kept * h[j];
        }
      }
      for (; next < end && rows[next].row == t; ++next) (*results)[next].out = h;
    }
  }
}

std::string Target() {
  const std::string library = GemmLibrary();
  return library.empty() ? DispatchedTarget() : DispatchedTarget() + "+" + library;
}

template <Cell kCell>
Kernel MakeCell(const char* name, const char* idea) {
  return {.name = name,
          .idea = idea,
          .refuse = Refuse,
          .workspace = Workspace<kCell>,
          .run = Run<kCell>,
          .target = Target,
          .layer = MakeLayer(
              {.weights = Weights<kCell>,
               .useful = Useful<kCell>,
               .sequential = [](const Problem& p) { return static_cast<double>(p.queries); },
               .exact = Evaluate<kCell, double>,
               .naive = Evaluate<kCell, float>})};
}

const Registrar rnn(MakeCell<Cell::kRnn>("rnn", "plain recurrent layer, tanh"));
const Registrar lstm(MakeCell<Cell::kLstm>("lstm",
                                           "LSTM layer: W x for all steps, then U h in turn"));
const Registrar gru(MakeCell<Cell::kGru>("gru", "GRU layer: W x for all steps, then U h in turn"));

}  // namespace
}  // namespace attnbench
