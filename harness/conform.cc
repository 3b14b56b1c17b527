// SPDX-License-Identifier: Apache-2.0
#include "harness/conform.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <tuple>

#include "harness/run_setup.h"
#include "kernels/layers/layer.h"

namespace attnbench {
namespace {

constexpr std::size_t kFence = 4096;
constexpr unsigned char kFenceByte = 0xa5, kPoison = 0xff;  // 0xffff...: NaN in every dtype

// The tolerance's constants: its one place.
struct Rule {
  double floor, logit;
};
Rule RuleOf(DType dtype, DType out_dtype) {
  constexpr double kEps = std::numeric_limits<float>::epsilon();
  // floor: where the naive evaluation happens to be exact, a polynomial exp and another order of
  // sums still are not, and bf16 rounds, by u = 2^-9 at most: each weight, differently where
  // another maximum was subtracted before exp (two keys of weight w and 1 - w: an error of w (1 -
  // w) 2u |v1 - v2| <= u max|v|), and the output in bf16 once more. logit: logits are float32 in
  // every kernel, and their error of eps |logit| goes into weights.
  constexpr double kRounding = 0x1p-9;
  const double floor =
      (dtype == DType::kBF16 ? kRounding : 8 * kEps) + (out_dtype == DType::kBF16 ? kRounding : 0);
  return {floor, 2 * kEps};
}

struct Row {
  Index batch, head, query;
  bool operator<(const Row& o) const {
    return std::tie(batch, head, query) < std::tie(o.batch, o.head, o.query);
  }
  bool operator==(const Row& o) const {
    return batch == o.batch && head == o.head && query == o.query;
  }
};

std::string Where(const Row& row) {
  return "batch " + std::to_string(row.batch) + " head " + std::to_string(row.head) + " query " +
         std::to_string(row.query);
}

void SortUnique(std::vector<Row>* rows) {
  std::sort(rows->begin(), rows->end());
  rows->erase(std::unique(rows->begin(), rows->end()), rows->end());
}

// Every (batch, head) at least once; first and last query, the edges of common tiles, the rest
// at random.
std::vector<Row> SampleRows(const Problem& p, Index wanted, std::uint64_t seed) {
  const Index heads = p.out_heads(), pairs = p.batch * heads, total = pairs * p.queries;
  std::vector<Row> rows;
  if (wanted == 0 || wanted >= total) {
    for (Index r = 0; r < total; ++r)
      rows.push_back({r / (heads * p.queries), r / p.queries % heads, r % p.queries});
    return rows;
  }
  Random random(seed);
  Index pair = random.Below(pairs);
  const auto add = [&](Index query) {
    if (query < 0 || query >= p.queries) return;
    rows.push_back({pair / heads, pair % heads, query});
    pair = (pair + 1) % pairs;
  };
  for (Index edge : {0, 1, 15, 16, 31, 32, 63, 64, 65, 127, 128, 129, 255, 256}) add(edge);
  for (Index back : {1, 2, 16, 17, 32, 33, 64, 65}) add(p.queries - back);
  // Ends of tiles deep inside, where an error that grows with n would show.
  for (Index i = 0; i < 8; ++i) add(random.Below(std::max<Index>(p.queries / 64, 1)) * 64 - i % 2);
  const Index random_rows = std::max(wanted - std::ssize(rows), pairs);
  for (Index i = 0; i < random_rows; ++i) add(random.Below(p.queries));
  SortUnique(&rows);
  return rows;
}

double MaxAbs(const ConstTensor& t, Index batch, Index heads, Index rows, Index columns,
              const Index* lengths) {
  double max = 0;
  for (Index b = 0; b < batch; ++b)
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < (lengths ? lengths[b] : rows); ++i)
        for (Index c = 0; c < columns; ++c) {
          const double x = std::abs(t.At(b, h, i, c));
          if (std::isfinite(x)) max = std::max(max, x);
        }
  return max > 0 ? max : 1;
}

template <class T>
bool Is(const T* element) {  // still the pattern?
  std::uint16_t words[sizeof(T) / 2];
  std::memcpy(words, element, sizeof(T));
  return std::all_of(std::begin(words), std::end(words),
                     [](std::uint16_t w) { return w == kUnwritten; });
}

// Looks at every element once. Unwritten elements and touched padding are errors at once; rows
// with non-finite elements are handed on, for the oracle to say whether they should be.
template <class T>
std::string Scan(const char* what, const Tensor& t, const Buffer& buffer, const Problem& p,
                 Index heads, Index columns, std::vector<Row>* suspicious) {
  Index unwritten = 0;
  Row first{};
  std::vector<Row> found;
  for (Index b = 0; b < p.batch; ++b)
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < p.queries; ++i) {
        const T* row = t.Row<T>(b, h, i);
        bool finite = true;
        for (Index c = 0; c < columns; ++c) {
          if (Is(row + c) && ++unwritten == 1) first = {b, h, i};
          finite &= std::isfinite(ToFloat(row[c]));
        }
        if (!finite && found.size() < 64) found.push_back({b, h % p.out_heads(), i});
      }
  if (unwritten > 0)
    return std::string(what) + ": " + std::to_string(unwritten) +
           " elements left unwritten, first at " + Where(first);
  const Index elements = static_cast<Index>(buffer.size() / sizeof(T));
  Index untouched = 0;
  for (Index e = 0; e < elements; ++e) untouched += Is(buffer.as<T>() + e);
  if (untouched != elements - p.batch * heads * p.queries * columns)
    return std::string(what) + ": written beyond its rows (padding touched)";
  suspicious->insert(suspicious->end(), found.begin(), found.end());
  return "";
}

// What accumulates over the rows, per thread and then in all.
struct Totals {
  double max_logit = 0;
  double error = 0, naive_error = 0;  // absolute, of out
  double max_out = 0;                 // of the oracle
  double difference2 = 0, oracle2 = 0;
  double lse_error = 0, naive_lse_error = 0, max_lse = 0;
  double weights_error = 0, naive_weights_error = 0;
  Row worst{}, worst_lse{}, worst_weights{};
  std::string mismatch;  // the first

  void Merge(const Totals& o) {
    max_logit = std::max(max_logit, o.max_logit);
    naive_error = std::max(naive_error, o.naive_error);
    max_out = std::max(max_out, o.max_out);
    if (o.error > error) error = o.error, worst = o.worst;
    difference2 += o.difference2, oracle2 += o.oracle2;
    naive_lse_error = std::max(naive_lse_error, o.naive_lse_error);
    max_lse = std::max(max_lse, o.max_lse);
    if (o.lse_error > lse_error) lse_error = o.lse_error, worst_lse = o.worst_lse;
    naive_weights_error = std::max(naive_weights_error, o.naive_weights_error);
    if (o.weights_error > weights_error)
      weights_error = o.weights_error, worst_weights = o.worst_weights;
    if (mismatch.empty()) mismatch = o.mismatch;
  }
};

void CompareRow(const Problem& p, const Inputs& in, const Output& out, const Row& at,
                const OracleRow<double>* oracle, const OracleRow<float>* naive, Totals* totals) {
  totals->max_logit = std::max(totals->max_logit, oracle->max_abs_logit);
  // Folds one number in; false when it is finite where the oracle is not, or the other way round.
  const auto fold = [](double got, double want, double naive_got, double* error,
                       double* naive_error) {
    if (!std::isfinite(want)) return !std::isfinite(got);
    if (!std::isfinite(got)) return false;
    *error = std::max(*error, std::abs(got - want));
    if (std::isfinite(naive_got)) *naive_error = std::max(*naive_error, std::abs(naive_got - want));
    return true;
  };
  const auto mismatch = [&](const std::string& what, double got, double want) {
    if (!totals->mismatch.empty()) return;
    std::ostringstream text;
    text << what << " is " << got << " where the oracle has " << want << ", at " << Where(at);
    totals->mismatch = text.str();
  };

  const ConstTensor o = out.out, weights = out.weights;
  double error = 0;
  for (Index c = 0; c < p.out_columns(); ++c) {
    const double got = o.At(at.batch, at.head, at.query, c), want = oracle->out[c];
    if (!fold(got, want, naive->out[c], &error, &totals->naive_error))
      mismatch("out[" + std::to_string(c) + "]", got, want);
    if (!std::isfinite(want) || !std::isfinite(got)) continue;
    totals->max_out = std::max(totals->max_out, std::abs(want));
    totals->difference2 += (got - want) * (got - want);
    totals->oracle2 += want * want;
  }
  if (error > totals->error) totals->error = error, totals->worst = at;

  if (out.lse) {
    const double got = out.lse[(at.batch * p.heads + at.head) * p.queries + at.query];
    double lse_error = 0;
    if (!fold(got, oracle->lse, naive->lse, &lse_error, &totals->naive_lse_error) ||
        (oracle->lse == -std::numeric_limits<double>::infinity() && got != oracle->lse))
      mismatch("lse", got, oracle->lse);
    if (std::isfinite(oracle->lse))
      totals->max_lse = std::max(totals->max_lse, std::abs(oracle->lse));
    if (lse_error > totals->lse_error) totals->lse_error = lse_error, totals->worst_lse = at;
  }
  if (out.weights) {
    double weights_error = 0;
    const Index heads = p.heads / p.out_heads();  // a layer's row has those of all its heads
    for (Index w = 0; w < heads * p.keys; ++w) {
      const Index j = w % p.keys;
      const double got = weights.At(at.batch, at.head + w / p.keys, at.query, j);
      if (!fold(got, oracle->weights[w], naive->weights[w], &weights_error,
                &totals->naive_weights_error) ||
          (oracle->weights[w] == 0 && !p.Admits(at.query, j) && !in.centers && got != 0))
        mismatch("weights[" + std::to_string(j) + "]", got, oracle->weights[w]);
    }
    if (weights_error > totals->weights_error)
      totals->weights_error = weights_error, totals->worst_weights = at;
  }
}

// A layer's rows of Y, by its own oracle.
template <class Real>
std::vector<OracleRow<Real>> LayerRows(const LayerOracle<Real>& oracle, const Problem& p,
                                       const Options& options, const Inputs& in,
                                       const std::vector<Row>& rows) {
  std::vector<LayerRow> wanted;
  for (const Row& row : rows) wanted.push_back({row.batch, row.query});
  std::vector<OracleRow<Real>> results;
  oracle(p, options, in, wanted, &results);
  return results;
}

Verdict Compare(const Kernel& kernel, const Problem& p, const Options& options, const Inputs& in,
                const Output& out, const std::vector<Row>& rows, int threads) {
  Totals totals;
  const Index count = std::ssize(rows);
  std::vector<OracleRow<double>> exact;
  std::vector<OracleRow<float>> inexact;
  if (kernel.layer) {
    exact = LayerRows(kernel.layer->exact, p, options, in, rows);
    inexact = LayerRows(kernel.layer->naive, p, options, in, rows);
  }
#pragma omp parallel num_threads(threads)
  {
    Totals mine;
    OracleRow<double> oracle;
    OracleRow<float> naive;
#pragma omp for schedule(dynamic)
    for (Index r = 0; r < count; ++r) {
      if (kernel.layer) {
        CompareRow(p, in, out, rows[r], &exact[r], &inexact[r], &mine);
        continue;
      }
      EvaluateRow(p, in, rows[r].batch, rows[r].head, rows[r].query, &oracle);
      EvaluateRow(p, in, rows[r].batch, rows[r].head, rows[r].query, &naive);
      CompareRow(p, in, out, rows[r], &oracle, &naive, &mine);
    }
#pragma omp critical
    totals.Merge(mine);
  }

  // What an output is a mean of; a layer's, as large as it is.
  const double max_v = kernel.layer
                           ? (totals.max_out > 0 ? totals.max_out : 1)
                           : MaxAbs(in.v, p.batch, p.kv_heads, p.keys, p.v_dim, in.key_lengths);
  const Rule rule = RuleOf(p.dtype, p.out_dtype);
  const double from_logits = rule.logit * totals.max_logit;
  Verdict verdict;
  verdict.rows_checked = count;
  verdict.error = totals.error / max_v;
  verdict.error_frobenius =
      totals.oracle2 > 0 ? std::sqrt(totals.difference2 / totals.oracle2) : totals.difference2 > 0;
  verdict.tolerance = 2 * totals.naive_error / max_v + rule.floor + from_logits;

  const auto too_large = [&](const char* what, double got, double limit, const Row& at) {
    if (!verdict.reason.empty() || got <= limit) return;
    std::ostringstream text;
    text << what << ": error " << got << " exceeds the tolerance " << limit << ", at " << Where(at);
    verdict.reason = text.str();
  };
  verdict.reason = totals.mismatch;
  too_large("out", verdict.error, verdict.tolerance, totals.worst);
  // Log-sum-exp and weights are float32 whatever the inputs' dtype; a bf16 kernel may sum rounded
  // weights, as the naive evaluation does.
  const double floor = RuleOf(p.dtype, p.dtype).floor;
  too_large("lse", totals.lse_error,
            2 * totals.naive_lse_error + floor * std::max(1.0, totals.max_lse) + from_logits,
            totals.worst_lse);
  too_large("weights", totals.weights_error, 2 * totals.naive_weights_error + floor + from_logits,
            totals.worst_weights);
  verdict.ok = verdict.reason.empty();
  return verdict;
}

}  // namespace

FencedWorkspace::FencedWorkspace(std::size_t bytes)
    : bytes_(bytes), buffer_(bytes + 2 * kFence + 64) {
  std::memset(buffer_.data(), kFenceByte, buffer_.size());
  std::memset(data(), kPoison, bytes_);
}

std::byte* FencedWorkspace::data() const { return buffer_.data() + kFence; }

bool FencedWorkspace::Intact() const {
  const auto fence = [](std::byte b) { return b == std::byte{kFenceByte}; };
  return std::all_of(buffer_.data(), data(), fence) &&
         std::all_of(data() + bytes_, buffer_.data() + buffer_.size(), fence);
}

Problem JudgedProblem(const Problem& problem, const TileList* selected) {
  Problem judged = problem;
  if (selected) {
    judged.mask.pattern = Mask::Pattern::kTiles;
    judged.mask.tiles = std::make_shared<TileList>(*selected);
  }
  return judged;
}

Verdict Check(const Kernel& kernel, const Problem& p, const Options& options, const Inputs& in,
              const CheckSettings& settings) {
  const OwnedOutput output(p, settings.provides & kernel.provides, settings.out_layout);
  output.Fill(kUnwritten);
  Problem judged;
  {
    const FencedWorkspace workspace(
        kernel.workspace ? kernel.workspace(p, options, settings.threads) : 0);
    const RunSetup setup(kernel, p, options, in, settings.threads, workspace.data(), settings.plan);
    kernel.run(p, in, output.view(), setup.context());
    judged = JudgedProblem(p, setup.context().selected);
    if (!workspace.Intact())
      return {.reason = "workspace: written beyond the " + std::to_string(workspace.size()) +
                        " bytes that the kernel asked for"};
  }

  const Output& out = output.view();
  std::vector<Row> suspicious;
  std::string damage;
  if (p.out_dtype == DType::kBF16)
    damage = Scan<BFloat16>("out", out.out, output.out_buffer(), p, p.out_heads(), p.out_columns(),
                            &suspicious);
  else if (p.out_dtype == DType::kF32)
    damage = Scan<float>("out", out.out, output.out_buffer(), p, p.out_heads(), p.out_columns(),
                         &suspicious);
  if (damage.empty() && out.weights)
    damage = Scan<float>("weights", out.weights, output.weights_buffer(), p, p.heads, p.keys,
                         &suspicious);
  if (out.lse)
    for (Index r = 0; r < p.batch * p.heads * p.queries && damage.empty(); ++r)
      if (Is(out.lse + r)) damage = "lse: row " + std::to_string(r) + " left unwritten";
  if (!damage.empty()) return {.reason = damage};

  std::vector<Row> rows = SampleRows(judged, settings.rows, settings.seed);
  rows.insert(rows.end(), suspicious.begin(), suspicious.end());
  SortUnique(&rows);
  Verdict verdict = Compare(kernel, judged, options, in, out, rows, settings.threads);
  if (settings.dense && kernel.select)
    verdict.dense = DistanceToDense(p, judged, in, out, settings.rows, settings.seed);
  return verdict;
}

}  // namespace attnbench
