// SPDX-License-Identifier: Apache-2.0
#include "harness/inputs.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace attnbench {
namespace {

Problem Small() {
  Problem p;
  p.batch = 2, p.heads = 4, p.kv_heads = 2, p.queries = 5, p.keys = 7, p.head_dim = 3, p.v_dim = 6;
  return p.Resolve();
}

TEST(Inputs, TheSameSeedGivesTheSameBitsEverywhere) {
  Random random(1);
  EXPECT_EQ(random.Bits(), 0x910a2dec89025cc1u);  // SplitMix64's published sequence for seed 1
  EXPECT_EQ(random.Bits(), 0xbeeb8da1658eec67u);
  const OwnedInputs a = OwnedInputs::Make(Small(), {}, 7), b = OwnedInputs::Make(Small(), {}, 7);
  const OwnedInputs other = OwnedInputs::Make(Small(), {}, 8);
  EXPECT_EQ(a.view().q.At(1, 3, 4, 2), b.view().q.At(1, 3, 4, 2));
  EXPECT_NE(a.view().q.At(1, 3, 4, 2), other.view().q.At(1, 3, 4, 2));
  EXPECT_NE(a.view().q.At(0, 0, 0, 0), a.view().k.At(0, 0, 0, 0));
}

TEST(Inputs, NormalNumbersAreNormal) {
  Random random(3);
  constexpr int kCount = 400000;
  double sum = 0, sum2 = 0, sum4 = 0;
  int beyond2 = 0, beyond3 = 0;
  for (int i = 0; i < kCount; ++i) {
    const double x = random.Normal();
    sum += x, sum2 += x * x, sum4 += x * x * x * x;
    beyond2 += std::abs(x) > 2, beyond3 += std::abs(x) > 3;
  }
  EXPECT_NEAR(sum / kCount, 0, 0.01);
  EXPECT_NEAR(sum2 / kCount, 1, 0.01);
  EXPECT_NEAR(sum4 / kCount, 3, 0.1);
  EXPECT_NEAR(1.0 * beyond2 / kCount, 0.0455, 0.002);
  EXPECT_NEAR(1.0 * beyond3 / kCount, 0.0027, 0.0005);
}

TEST(Inputs, LayoutsHoldTheSameNumbersAndPaddingHoldsNaN) {
  const Problem p = Small();
  const OwnedInputs packed = OwnedInputs::Make(p, {}, 2);
  for (Layout layout : {Layout::kPadded, Layout::kTokenMajor}) {
    const OwnedInputs other = OwnedInputs::Make(p, {}, 2, layout);
    for (Index b = 0; b < p.batch; ++b)
      for (Index g = 0; g < p.kv_heads; ++g)
        for (Index j = 0; j < p.keys; ++j)
          for (Index c = 0; c < p.v_dim; ++c)
            ASSERT_EQ(packed.view().v.At(b, g, j, c), other.view().v.At(b, g, j, c));
  }
  const OwnedInputs padded = OwnedInputs::Make(p, {}, 2, Layout::kPadded);
  EXPECT_TRUE(std::isnan(padded.view().q.Row<float>(0, 0, 0)[p.head_dim]));
  EXPECT_TRUE(std::isnan(padded.view().q.Row<float>(0, 0, 0)[-1]));
}

TEST(Inputs, ACloneHasTheSameNumbersInItsOwnMemory) {
  Problem p = Small();
  p.has_bias = p.has_key_lengths = true;
  const OwnedInputs inputs = OwnedInputs::Make(p, {}, 2), clone = inputs.Clone();
  EXPECT_NE(inputs.view().q.data, clone.view().q.data);
  EXPECT_NE(inputs.view().key_lengths, clone.view().key_lengths);
  EXPECT_EQ(inputs.view().key_lengths[1], clone.view().key_lengths[1]);
  EXPECT_EQ(inputs.view().q.At(1, 2, 3, 1), clone.view().q.At(1, 2, 3, 1));
  EXPECT_EQ(inputs.view().bias.At(1, 2, 3, 1), clone.view().bias.At(1, 2, 3, 1));
}

TEST(Inputs, Bf16RoundsToNearestEven) {
  EXPECT_EQ(BFloat16::FromFloat(1.00390625f).bits, 0x3f80);  // halfway: to the even neighbour
  EXPECT_EQ(BFloat16::FromFloat(1.01171875f).bits, 0x3f82);
  EXPECT_EQ(BFloat16::FromFloat(1.00390637f).bits, 0x3f81);
  EXPECT_TRUE(std::isnan(BFloat16::FromFloat(std::nanf("")).ToFloat()));
  Problem f32 = Small(), bf16 = Small();
  bf16.dtype = bf16.out_dtype = DType::kBF16;
  EXPECT_EQ(
      OwnedInputs::Make(bf16, {}, 4).view().k.At(0, 1, 2, 0),
      BFloat16::FromFloat(static_cast<float>(OwnedInputs::Make(f32, {}, 4).view().k.At(0, 1, 2, 0)))
          .ToFloat());
}

TEST(Inputs, OutliersAreRareAndLarge) {
  Problem p;
  p.queries = 2000, p.head_dim = 64;
  p.Resolve();
  InputSpec spec;
  spec.kind = "outliers";
  const OwnedInputs inputs = OwnedInputs::Make(p, spec, 5);
  Index large = 0;
  for (Index i = 0; i < p.queries; ++i)
    for (Index c = 0; c < p.head_dim; ++c) large += std::abs(inputs.view().k.At(0, 0, i, c)) > 6;
  EXPECT_GT(large, 30);  // 128,000 * 0.001 * P(|10 N| > 6) = 70
  EXPECT_LT(large, 120);
}

class TensorFiles : public testing::Test {
 protected:
  TensorFiles() : path_(testing::TempDir() + "attnbench_" + std::to_string(getpid()) + ".st") {}
  ~TensorFiles() override { std::filesystem::remove(path_); }

  // layer0.q|k|v [1, heads, tokens, d] with the values 0, 1, 2, ... across the file.
  void Write(Index heads, Index tokens, Index d) const {
    nlohmann::json header;
    const std::size_t count = heads * tokens * d;
    std::size_t at = 0;
    for (const char* name : {"layer0.q", "layer0.k", "layer0.v"}) {
      header[name] = {{"dtype", "F32"},
                      {"shape", {1, heads, tokens, d}},
                      {"data_offsets", {at, at + 4 * count}}};
      at += 4 * count;
    }
    const std::string text = header.dump();
    const std::uint64_t length = text.size();
    std::ofstream file(path_, std::ios::binary);
    file.write(reinterpret_cast<const char*>(&length), 8) << text;
    for (std::size_t i = 0; i < 3 * count; ++i) {
      const float value = static_cast<float>(i);
      file.write(reinterpret_cast<const char*>(&value), 4);
    }
  }
  std::string ErrorOf(Problem p, Index head = 0, Index layer = 0) const {
    InputSpec spec;
    spec.kind = "tensors", spec.file = path_, spec.head = head, spec.layer = layer;
    try {
      OwnedInputs::Make(p.Resolve(), spec, 1);
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  }
  std::string path_;
};

TEST_F(TensorFiles, AreReadHeadByHead) {
  Write(3, 8, 2);
  Problem p;
  p.queries = 4, p.keys = 6, p.head_dim = 2;
  InputSpec spec;
  spec.kind = "tensors", spec.file = path_, spec.head = 2;
  const OwnedInputs inputs = OwnedInputs::Make(p.Resolve(), spec, 1);
  EXPECT_EQ(inputs.view().q.At(0, 0, 3, 1), 2 * 16 + 3 * 2 + 1);
  EXPECT_EQ(inputs.view().k.At(0, 0, 5, 0), 48 + 2 * 16 + 5 * 2);
  EXPECT_EQ(inputs.view().v.At(0, 0, 0, 0), 96 + 2 * 16);
}

TEST_F(TensorFiles, ThatDoNotFitAreNamed) {
  Problem p;
  p.queries = 4, p.head_dim = 2;
  EXPECT_NE(ErrorOf(p).find("cannot be opened"), std::string::npos);
  Write(3, 8, 2);
  EXPECT_EQ(ErrorOf(p), "");
  EXPECT_NE(ErrorOf(p, 3).find("has 3 heads, 4 are needed"), std::string::npos);
  EXPECT_NE(ErrorOf(p, 0, 1).find("no tensor 'layer1.q'"), std::string::npos);
  p.queries = p.keys = 9;
  EXPECT_NE(ErrorOf(p).find("has 8 tokens, 9 are needed"), std::string::npos);
  std::filesystem::resize_file(path_, 400);
  p.queries = p.keys = 8;
  EXPECT_NE(ErrorOf(p).find("cut off"), std::string::npos);
}

}  // namespace
}  // namespace attnbench
