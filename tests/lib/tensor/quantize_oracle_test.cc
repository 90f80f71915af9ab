// Our quantisers against llama-quantize on the same weights: the reference GGUF files hold what it
// made of the reference checkpoints.

#include "lib/tensor/quantize.h"

#include <cmath>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/allocator.h"
#include "lib/format/safetensors.h"
#include "lib/tensor/dequantize.h"
#include "tests/lib/tensor/oracle.h"

namespace ponder {
namespace {

// Names of the qwen2 architecture's matrices in the two kinds of files.
std::string checkpoint_name(const std::string& name) {
  static const std::pair<const char*, const char*> kParts[] = {
      {"token_embd.", "model.embed_tokens."},
      {"attn_output.", "self_attn.o_proj."},
      {"output.", "lm_head."},
      {"attn_q.", "self_attn.q_proj."},
      {"attn_k.", "self_attn.k_proj."},
      {"attn_v.", "self_attn.v_proj."},
      {"ffn_gate.", "mlp.gate_proj."},
      {"ffn_up.", "mlp.up_proj."},
      {"ffn_down.", "mlp.down_proj."}};
  for (const auto& [theirs, ours] : kParts) {
    const size_t at = name.find(theirs);
    if (at == std::string::npos) continue;
    std::string result = name;
    result.replace(at, std::string(theirs).size(), ours);
    return result.compare(0, 4, "blk.") == 0 ? "model.layers." + result.substr(4) : result;
  }
  return name;
}

double error(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

TEST(QuantizeOracle, ErrorIsAtMostThatOfTheReferenceQuantizer) {
  const std::string folder = shared("oracle/A/qwen2-bf16");
  if (reference_files().empty()) GTEST_SKIP() << "no reference data at " << shared("oracle/B");
  auto source = open_folder(folder);
  ASSERT_TRUE(source.ok()) << source.status();
  auto weights =
      open_sharded_safetensors(*source, "model.safetensors.index.json", default_allocator());
  ASSERT_TRUE(weights.ok()) << weights.status();

  struct Sums {
    double ours = 0, theirs = 0;
    int tensors = 0;
  };
  std::map<DType, Sums> by_type;
  for (const std::string& path : reference_files()) {
    if (path.compare(0, 11, "qwen2-bf16/") != 0) continue;
    ReferenceFile file;
    ASSERT_NO_FATAL_FAILURE(open_reference(path, &file));
    for (const GgufTensor& tensor : file.table.tensors) {
      const auto type = type_named(std::string(tensor.type->name));
      if (!type.has_value() || !dtype_is_blocked(*type) || !can_quantize(*type)) continue;
      auto original = (*weights)->find(checkpoint_name(tensor.name));
      ASSERT_TRUE(original.ok()) << original.status();
      ASSERT_EQ(original->shape, tensor.shape);
      const int64_t elements = original->elements(), cols = tensor.shape[1];
      std::vector<float> x(static_cast<size_t>(elements)), ours(x.size()), theirs(x.size());
      ASSERT_TRUE(dequantize(original->dtype, original->data, elements, x.data()).ok());
      const std::string reference = file.bytes(tensor);
      ASSERT_TRUE(dequantize(*type, reference.data(), elements, theirs.data()).ok());
      std::string blocks(tensor.bytes, '\0');
      const Status status = quantize(*type, x.data(), elements / cols, cols, {}, blocks.data());
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_TRUE(dequantize(*type, blocks.data(), elements, ours.data()).ok());
      Sums& sums = by_type[*type];
      sums.ours += error(x, ours);
      sums.theirs += error(x, theirs);
      ++sums.tensors;
    }
  }
  EXPECT_EQ(by_type.size(), 12u);
  for (const auto& [type, sums] : by_type) {
    // The reference made its q2_k files with importances, which costs it some plain error.
    EXPECT_GE(sums.tensors, 10) << dtype_name(type);
    EXPECT_LE(sums.ours, 1.0 * sums.theirs) << dtype_name(type);
    RecordProperty(std::string(dtype_name(type)), absl::StrCat(sums.ours / sums.theirs));
  }
}

}  // namespace
}  // namespace ponder
