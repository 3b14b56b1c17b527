// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/cells.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/simd/cells.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/simd/tanh-inl.h"

HWY_BEFORE_NAMESPACE();
namespace attnbench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

[[maybe_unused]] constexpr hn::ScalableTag<float> df;
using VF = hn::Vec<decltype(df)>;

// The units from `u` on, of which n are to be done.
struct Units {
  const CellStep& s;
  Index u, n;

  VF Input(Index gate) const {
    const Index at = gate * s.hidden + u;
    return hn::Add(hn::LoadN(df, s.input + at, n), hn::LoadN(df, s.input_bias + at, n));
  }
  VF Recurrent(Index gate) const {
    const Index at = gate * s.hidden + u;
    return hn::Add(hn::LoadN(df, s.recurrent + at, n), hn::LoadN(df, s.recurrent_bias + at, n));
  }
  VF Gate(Index gate) const { return hn::Add(Input(gate), Recurrent(gate)); }
};

template <class Step>
HWY_INLINE void ForUnits(const CellStep& s, Index first, Index count, const Step& step) {
  const Index lanes = hn::Lanes(df);
  for (Index u = first; u < first + count; u += lanes) {
    const Index n = std::min(lanes, first + count - u);
    hn::StoreN(step(Units{s, u, n}), df, s.out + u, n);
  }
}

void RnnStep(const CellStep& s, Index first, Index count) {
  ForUnits(s, first, count, [](const Units& at) HWY_ATTR { return Tanh(df, at.Gate(0)); });
}

void LstmStep(const CellStep& s, Index first, Index count) {
  ForUnits(s, first, count, [](const Units& at) HWY_ATTR {
    float* state = at.s.state + at.u;
    const VF kept = hn::Mul(Sigmoid(df, at.Gate(1)), hn::LoadN(df, state, at.n));
    const VF c = hn::MulAdd(Sigmoid(df, at.Gate(0)), Tanh(df, at.Gate(2)), kept);
    hn::StoreN(c, df, state, at.n);
    return hn::Mul(Sigmoid(df, at.Gate(3)), Tanh(df, c));
  });
}

void GruStep(const CellStep& s, Index first, Index count) {
  ForUnits(s, first, count, [](const Units& at) HWY_ATTR {
    const VF z = Sigmoid(df, at.Gate(1));
    const VF n = Tanh(df, hn::MulAdd(Sigmoid(df, at.Gate(0)), at.Recurrent(2), at.Input(2)));
    const VF previous = hn::LoadN(df, at.s.previous + at.u, at.n);
    return hn::MulAdd(z, hn::Sub(previous, n), n);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace attnbench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnbench {

HWY_EXPORT(RnnStep);
HWY_EXPORT(LstmStep);
HWY_EXPORT(GruStep);

void RnnStep(const CellStep& step, Index first, Index count) {
  HWY_DYNAMIC_DISPATCH(RnnStep)(step, first, count);
}
void LstmStep(const CellStep& step, Index first, Index count) {
  HWY_DYNAMIC_DISPATCH(LstmStep)(step, first, count);
}
void GruStep(const CellStep& step, Index first, Index count) {
  HWY_DYNAMIC_DISPATCH(GruStep)(step, first, count);
}

}  // namespace attnbench
#endif
