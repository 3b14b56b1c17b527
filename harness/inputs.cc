// SPDX-License-Identifier: Apache-2.0
#include "harness/inputs.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "harness/calibrated_inputs.h"

namespace attnbench {
namespace {

struct Shape {
  Index batch, heads, rows, columns;
};

// Where the elements of a shape lie; counts in elements.
struct Strides {
  Index offset = 0, batch = 0, head = 0, row = 0, total = 0;
};

Strides StridesOf(const Shape& s, Layout layout) {
  switch (layout) {
    case Layout::kPacked:
      return {0, s.heads * s.rows * s.columns, s.rows * s.columns, s.columns,
              s.batch * s.heads * s.rows * s.columns};
    case Layout::kPadded: {  // odd steps: no row, head or batch begins on a vector boundary
      const Index row = s.columns + 5, head = s.rows * row + 7, batch = s.heads * head + 11;
      return {3, batch, head, row, 3 + s.batch * batch};
    }
    case Layout::kTokenMajor:
      return {0, s.rows * s.heads * s.columns, s.columns, s.heads * s.columns,
              s.batch * s.heads * s.rows * s.columns};
  }
  return {};
}

Tensor View(const Buffer& buffer, DType dtype, const Strides& s) {
  return {buffer.data() + s.offset * static_cast<Index>(SizeOf(dtype)), dtype, s.batch, s.head,
          s.row};
}

Tensor Allocate(const Shape& shape, DType dtype, Layout layout, Buffer* buffer) {
  const Strides strides = StridesOf(shape, layout);
  *buffer = Buffer(strides.total * SizeOf(dtype));
  if (layout == Layout::kPadded) buffer->Fill(0xff);  // NaN in every dtype
  return View(*buffer, dtype, strides);
}

// next() gives the elements in the order of the indices, whatever the layout.
template <class Next>
void FillTensor(const Tensor& t, const Shape& s, Next&& next) {
  for (Index b = 0; b < s.batch; ++b)
    for (Index h = 0; h < s.heads; ++h)
      for (Index i = 0; i < s.rows; ++i) {
        if (t.dtype == DType::kF32) {
          float* row = t.Row<float>(b, h, i);
          for (Index c = 0; c < s.columns; ++c) row[c] = next();
        } else {
          BFloat16* row = t.Row<BFloat16>(b, h, i);
          for (Index c = 0; c < s.columns; ++c) row[c] = BFloat16::FromFloat(next());
        }
      }
}

// Each tensor draws from a stream of its own, so that the shape of one does not change the others.
Random Stream(std::uint64_t seed, std::uint64_t tensor) {
  return Random(Random(seed * 0x9e3779b97f4a7c15u + tensor).Bits());
}

// Heads of the table in turn, from the spec's on; queries that share keys share a head of it.
void FillCalibrated(const Problem& p, const InputSpec& spec, std::uint64_t seed, const Tensor& q,
                    const Tensor& k) {
  const auto table = CalibratedHeads();
  const auto row = [&](Index g) -> const CalibratedHead& {
    return table[static_cast<std::size_t>(std::max<Index>(spec.head, 0) + g) % table.size()];
  };
  Random streams = Stream(seed, 1);
  for (Index b = 0; b < p.batch; ++b) {
    for (Index g = 0; g < p.kv_heads; ++g) FillCalibratedKeys(row(g), p, streams.Bits(), k, b, g);
    for (Index h = 0; h < p.heads; ++h)
      FillCalibratedQueries(row(p.KvHead(h)), p, streams.Bits(), q, b, h);
  }
}

float* FillVector(std::size_t count, double sigma, Random random, Buffer* buffer) {
  *buffer = Buffer(count * sizeof(float));
  for (std::size_t i = 0; i < count; ++i)
    buffer->as<float>()[i] = static_cast<float>(sigma * random.Normal());
  return buffer->as<float>();
}

// A safetensors file: 8 bytes of header length (little endian), JSON, raw tensors.
class SafeTensors {
 public:
  explicit SafeTensors(const std::string& path) : path_(path), file_(path, std::ios::binary) {
    if (!file_) Fail("cannot be opened");
    std::uint64_t length = 0;
    file_.read(reinterpret_cast<char*>(&length), sizeof(length));
    if (!file_ || length > (1u << 26)) Fail("is not a safetensors file");
    std::string text(length, '\0');
    file_.read(text.data(), static_cast<std::streamsize>(length));
    if (!file_) Fail("is cut off in its header");
    header_ = nlohmann::json::parse(text, nullptr, false);
    if (!header_.is_object()) Fail("has a header that is no JSON object");
    data_begin_ = sizeof(length) + length;
  }

  // Copies rows [0, rows) of the heads [head, head + heads) into every batch of `t`.
  void Read(const std::string& name, Index head, const Shape& s, const Tensor& t) {
    const auto it = header_.find(name);
    if (it == header_.end()) Fail("has no tensor '" + name + "'");
    const auto shape = it->at("shape").get<std::vector<Index>>();
    if (it->at("dtype") != "F32") Fail("tensor '" + name + "': only F32 is read");
    if (shape.size() != 4 || shape[0] != 1) Fail("tensor '" + name + "': must be [1, heads, n, d]");
    if (head + s.heads > shape[1])
      Fail("tensor '" + name + "' has " + std::to_string(shape[1]) + " heads, " +
           std::to_string(head + s.heads) + " are needed");
    if (s.rows > shape[2])
      Fail("tensor '" + name + "' has " + std::to_string(shape[2]) + " tokens, " +
           std::to_string(s.rows) + " are needed");
    if (s.columns != shape[3])
      Fail("tensor '" + name + "' has dimension " + std::to_string(shape[3]) + ", not " +
           std::to_string(s.columns));
    const std::uint64_t begin = data_begin_ + it->at("data_offsets").at(0).get<std::uint64_t>();
    std::vector<float> values(s.rows * s.columns);
    for (Index h = 0; h < s.heads; ++h) {
      file_.seekg(
          static_cast<std::streamoff>(begin + sizeof(float) * ((head + h) * shape[2] * shape[3])));
      file_.read(reinterpret_cast<char*>(values.data()),
                 static_cast<std::streamsize>(sizeof(float) * values.size()));
      if (!file_) Fail("is cut off within tensor '" + name + "'");
      for (Index b = 0; b < s.batch; ++b)
        for (Index i = 0; i < s.rows; ++i)
          for (Index c = 0; c < s.columns; ++c) t.Set(b, h, i, c, values[i * s.columns + c]);
    }
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const {
    throw std::runtime_error("input file '" + path_ + "' " + what);
  }
  std::string path_;
  std::ifstream file_;
  nlohmann::json header_;
  std::uint64_t data_begin_ = 0;
};

constexpr std::size_t kHugePage = std::size_t{2} << 20;

}  // namespace

Buffer::Buffer(std::size_t bytes) : size_(bytes) {
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64;
  void* data = nullptr;
  if (posix_memalign(&data, alignment, rounded) != 0) throw std::bad_alloc();
  data_.reset(static_cast<std::byte*>(data));
#ifdef MADV_HUGEPAGE  // where the system leaves huge pages to the asking; all kernels get the same
  if (bytes >= kHugePage) madvise(data, rounded, MADV_HUGEPAGE);
#endif
}

void Buffer::Free::operator()(std::byte* data) const { std::free(data); }

void Buffer::Fill(unsigned char byte) const { std::memset(data_.get(), byte, size_); }

std::uint64_t Random::Bits() {
  std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double Random::Uniform() { return static_cast<double>(Bits() >> 11) * 0x1p-53; }

Index Random::Below(Index n) {
  return static_cast<Index>(Bits() % static_cast<std::uint64_t>(std::max<Index>(n, 1)));
}

Index Random::Between(Index a, Index b) { return a + Below(b - a + 1); }

float Random::Normal() {
  // Variance 16 of the ones, 1/6 of the dither (the difference of two uniform numbers).
  constexpr double kSigma = 4.0207793606049;
  const Index ones = std::popcount(Bits()) - 32;
  const std::uint64_t dither = Bits();
  const Index triangle =
      static_cast<Index>(dither >> 32) - static_cast<Index>(dither & 0xffffffffu);
  return static_cast<float>((static_cast<double>(ones) + static_cast<double>(triangle) * 0x1p-32) *
                            (1 / kSigma));
}

OwnedInputs OwnedInputs::Make(const Problem& p, const InputSpec& spec, std::uint64_t seed,
                              Layout layout) {
  const Shape q_shape{p.batch, p.heads, p.queries, p.head_dim};
  const Shape k_shape{p.batch, p.kv_heads, p.keys, p.head_dim};
  const Shape v_shape{p.batch, p.kv_heads, p.keys, p.v_dim};
  const Shape bias_shape{p.batch, p.heads, p.queries, p.keys};
  OwnedInputs made;
  Owned& o = made.owned_;
  Inputs& in = made.view_;

  const Tensor q = Allocate(q_shape, p.dtype, layout, &o.q);
  const Tensor k = Allocate(k_shape, p.dtype, layout, &o.k);
  const Tensor v = Allocate(v_shape, p.dtype, layout, &o.v);
  in.q = q, in.k = k, in.v = v;
  if (spec.kind == "tensors") {
    SafeTensors file(spec.file);
    const std::string layer = "layer" + std::to_string(spec.layer);
    const Index head = std::max<Index>(spec.head, 0);
    file.Read(layer + ".q", head, q_shape, q);
    file.Read(layer + ".k", head, k_shape, k);
    file.Read(layer + ".v", head, v_shape, v);
  } else {
    const bool outliers = spec.kind == "outliers";
    const auto fill = [&](const Tensor& t, const Shape& s, std::uint64_t stream, float factor) {
      Random random = Stream(seed, stream);
      FillTensor(t, s, [&] {
        float x = random.Normal();
        if (outliers && random.Chance(0.001)) x += 10 * random.Normal();
        return factor * x;
      });
    };
    if (spec.kind == "calibrated") {
      FillCalibrated(p, spec, seed, q, k);
    } else {
      fill(q, q_shape, 1, static_cast<float>(spec.logit_scale));
      fill(k, k_shape, 2, 1);
    }
    fill(v, v_shape, 3, 1);
  }

  if (p.has_bias) {
    const Tensor bias = Allocate(bias_shape, DType::kF32, layout, &o.bias);
    Random random = Stream(seed, 4);
    FillTensor(bias, bias_shape, [&] { return random.Normal(); });
    in.bias = bias;
  }
  if (p.has_key_lengths) {
    Random random = Stream(seed, 5);
    for (Index b = 0; b < p.batch; ++b) o.key_lengths.push_back(random.Between(1, p.keys));
    in.key_lengths = o.key_lengths.data();
    if (layout == Layout::kPadded) {  // what lies beyond the lengths is never read
      const double nan = std::nan("");
      for (Index b = 0; b < p.batch; ++b)
        for (Index g = 0; g < p.kv_heads; ++g)
          for (Index j = o.key_lengths[b]; j < p.keys; ++j) {
            for (Index c = 0; c < p.head_dim; ++c) k.Set(b, g, j, c, nan);
            for (Index c = 0; c < p.v_dim; ++c) v.Set(b, g, j, c, nan);
          }
    }
  }
  if (p.has_centers) {
    Random random = Stream(seed, 6);
    o.centers = Buffer(sizeof(float) * p.batch * p.heads * p.queries);
    for (Index r = 0; r < p.batch * p.heads * p.queries; ++r)
      o.centers.as<float>()[r] = static_cast<float>(random.Uniform() * p.keys);
    in.centers = o.centers.as<float>();
  }

  // Weights are scaled so that logits stay of order one.
  const double sigma = 1 / std::sqrt(static_cast<double>(p.head_dim));
  switch (p.score) {
    case Score::kScaledDot:
    case Score::kDot:
      break;
    case Score::kGeneral:
      in.score.w = FillVector(p.head_dim * p.head_dim, sigma, Stream(seed, 7), &o.w);
      break;
    case Score::kConcat:
      in.score.w = FillVector(p.hidden * 2 * p.head_dim, sigma, Stream(seed, 7), &o.w);
      in.score.v = FillVector(p.hidden, 1, Stream(seed, 9), &o.vector);
      break;
    case Score::kAdditive:
      in.score.w = FillVector(p.hidden * p.head_dim, sigma, Stream(seed, 7), &o.w);
      in.score.u = FillVector(p.hidden * p.head_dim, sigma, Stream(seed, 8), &o.u);
      in.score.v = FillVector(p.hidden, 1, Stream(seed, 9), &o.vector);
      break;
    case Score::kLocation:
      in.score.w = FillVector(p.keys * p.head_dim, sigma, Stream(seed, 7), &o.w);
      break;
  }
  return made;
}

OwnedInputs OwnedInputs::Make(const Kernel& kernel, const Options& options, const Problem& p,
                              const InputSpec& spec, std::uint64_t seed, Layout layout) {
  if (!kernel.layer) return Make(p, spec, seed, layout);
  if (spec.kind == "tensors" || spec.kind == "calibrated")
    throw std::runtime_error("input.kind: layers take random sequences, not '" + spec.kind + "'");
  OwnedInputs made;
  Owned& o = made.owned_;
  const auto sequence = [&](Index rows, std::uint64_t stream, Buffer* buffer) {
    const Shape shape{p.batch, 1, rows, p.layer.d_model};
    const Tensor t = Allocate(shape, DType::kF32, layout, buffer);
    Random random = Stream(seed, stream);
    FillTensor(t, shape, [&] {
      const float x = random.Normal();
      return spec.kind == "outliers" && random.Chance(0.001) ? x + 10 * random.Normal() : x;
    });
    return t;
  };
  made.view_.x = sequence(p.queries, 1, &o.x);
  if (p.layer.cross) made.view_.memory = sequence(p.keys, 2, &o.memory);
  for (const WeightShape& w : kernel.layer->weights(p, options)) {
    const double factor = std::string_view(w.name) == "wq" ? spec.logit_scale : 1.0;
    o.weight_data.push_back(FillVector(w.rows * w.columns, factor * w.sigma,
                                       Stream(seed, 10 + o.weights.size()),
                                       &o.weights.emplace_back()));
  }
  made.view_.weights = o.weight_data.data();
  return made;
}

OwnedInputs OwnedInputs::Clone() const {
  OwnedInputs copy;
  copy.view_ = view_;
  copy.owned_.key_lengths = owned_.key_lengths;
  if (view_.key_lengths) copy.view_.key_lengths = copy.owned_.key_lengths.data();
  const auto duplicate = [](const Buffer& from, Buffer* to, auto*& pointer) {
    if (!from) return;
    *to = Buffer(from.size());
    std::memcpy(to->data(), from.data(), from.size());
    const auto* base = reinterpret_cast<const std::byte*>(pointer);
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(to->data() +
                                                                           (base - from.data()));
  };
  Inputs& in = copy.view_;
  Owned& o = copy.owned_;
  duplicate(owned_.q, &o.q, in.q.data);
  duplicate(owned_.k, &o.k, in.k.data);
  duplicate(owned_.v, &o.v, in.v.data);
  duplicate(owned_.bias, &o.bias, in.bias.data);
  duplicate(owned_.w, &o.w, in.score.w);
  duplicate(owned_.u, &o.u, in.score.u);
  duplicate(owned_.vector, &o.vector, in.score.v);
  duplicate(owned_.centers, &o.centers, in.centers);
  duplicate(owned_.x, &o.x, in.x.data);
  duplicate(owned_.memory, &o.memory, in.memory.data);
  o.weight_data = owned_.weight_data;
  o.weights.resize(owned_.weights.size());
  for (std::size_t i = 0; i < o.weights.size(); ++i)
    duplicate(owned_.weights[i], &o.weights[i], o.weight_data[i]);
  in.weights = o.weight_data.data();
  return copy;
}

std::size_t OwnedInputs::bytes() const {
  const Owned& o = owned_;
  std::size_t bytes = 0;
  for (const Buffer* buffer :
       {&o.q, &o.k, &o.v, &o.bias, &o.w, &o.u, &o.vector, &o.centers, &o.x, &o.memory})
    bytes += buffer->size();
  for (const Buffer& w : o.weights) bytes += w.size();
  return bytes;
}

void OwnedInputs::SetKeyLength(Index batch, Index length) { owned_.key_lengths[batch] = length; }

void OwnedInputs::Set(const ConstTensor& t, Index batch, Index head, Index row, Index column,
                      double value) {
  Tensor{const_cast<void*>(t.data), t.dtype, t.batch_stride, t.head_stride, t.row_stride}.Set(
      batch, head, row, column, value);
}

OwnedOutput::OwnedOutput(const Problem& p, unsigned provides, Layout layout) {
  view_.out =
      Allocate({p.batch, p.out_heads(), p.queries, p.out_columns()}, p.out_dtype, layout, &out_);
  if (provides & kLse) {
    lse_ = Buffer(sizeof(float) * p.batch * p.heads * p.queries);
    view_.lse = lse_.as<float>();
  }
  if (provides & kWeights)
    view_.weights = Allocate({p.batch, p.heads, p.queries, p.keys}, DType::kF32, layout, &weights_);
}

void OwnedOutput::Fill(std::uint16_t pattern) const {
  for (const Buffer* buffer : {&out_, &lse_, &weights_})
    for (std::size_t i = 0; i < buffer->size() / 2; ++i) buffer->as<std::uint16_t>()[i] = pattern;
}

double TensorBytes(const Kernel* kernel, const Problem& p, const Options& options) {
  if (kernel && kernel->layer) return kernel->layer->useful(p, options).bytes;
  const double query_rows = static_cast<double>(p.batch) * p.heads * p.queries;
  const double key_rows = static_cast<double>(p.batch) * p.kv_heads * p.keys;
  return SizeOf(p.dtype) * (query_rows * p.head_dim + key_rows * (p.head_dim + p.v_dim)) +
         SizeOf(p.out_dtype) * query_rows * p.v_dim + (p.has_bias ? 4.0 * query_rows * p.keys : 0);
}

}  // namespace attnbench
