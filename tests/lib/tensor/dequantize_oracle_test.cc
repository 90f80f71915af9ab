// Every tensor of every reference file against what gguf-py and ggml make of it, bit for bit, and
// DeepSeek's FP8 weights against the reference's.

#include "lib/tensor/dequantize.h"

#include <cstring>

#include <set>

#include "lib/base/allocator.h"
#include "lib/format/safetensors.h"
#include "lib/format/sha256.h"
#include "tests/lib/tensor/oracle.h"

namespace ponder {
namespace {

std::string digest(const std::vector<float>& values) {
  Sha256 sha;
  sha.update(values.data(), values.size() * sizeof(float));
  return sha.finish();
}

class DequantizeOracle : public ::testing::TestWithParam<std::string> {};

TEST_P(DequantizeOracle, EveryTensorIsBitForBitTheReference) {
  ReferenceFile file;
  ASSERT_NO_FATAL_FAILURE(open_reference(GetParam(), &file));
  ASSERT_EQ(file.tensors.size(), file.table.tensors.size());
  for (const GgufTensor& tensor : file.table.tensors) {
    SCOPED_TRACE(tensor.name);
    const nlohmann::json& wanted = file.tensors.at(tensor.name);
    const auto type = type_named(wanted.at("type"));
    ASSERT_TRUE(type.has_value()) << wanted.at("type");
    EXPECT_EQ(wanted.at("type"), tensor.type->name);
    const std::vector<int64_t> ne = wanted.at("ne");
    EXPECT_EQ(std::vector<int64_t>(ne.rbegin(), ne.rend()), tensor.shape);
    int64_t elements = 1;
    for (const int64_t d : ne) elements *= d;
    ASSERT_EQ(static_cast<uint64_t>(dtype_bytes(*type, elements)), tensor.bytes);

    const std::string data = file.bytes(tensor);
    std::vector<float> values(static_cast<size_t>(elements));
    ASSERT_TRUE(dequantize(*type, data.data(), elements, values.data()).ok());
    // The samples say where; the digest says that there is nothing else.
    const std::vector<float> sample = wanted.at("sample");
    const size_t stride = wanted.at("stride");
    for (size_t i = 0; i < sample.size(); ++i) EXPECT_EQ(sample[i], values[i * stride]) << i;
    EXPECT_EQ(wanted.at("sha256_f32"), digest(values));

    // The same from an odd address.
    const std::string shifted = "x" + data;
    std::vector<float> again(values.size());
    ASSERT_TRUE(dequantize(*type, shifted.data() + 1, elements, again.data()).ok());
    EXPECT_EQ(0, std::memcmp(values.data(), again.data(), values.size() * sizeof(float)));
  }
}

INSTANTIATE_TEST_SUITE_P(Files, DequantizeOracle, ::testing::ValuesIn(reference_files()),
                         [](const auto& file) { return test_name(file.param); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(DequantizeOracle);

TEST(DequantizeOracleFiles, HaveEveryType) {
  if (reference_files().empty()) GTEST_SKIP() << "no reference data at " << shared("oracle/B");
  std::set<std::string> seen;
  for (const std::string& path : reference_files()) {
    ReferenceFile file;
    ASSERT_NO_FATAL_FAILURE(open_reference(path, &file));
    for (const nlohmann::json& tensor : file.tensors) seen.insert(tensor.at("type"));
  }
  for (const DType type : kAllTypes) {
    if (type == DType::kI32 || type == DType::kF8_E4M3) continue;  // not in GGUF files
    EXPECT_TRUE(seen.contains(absl::AsciiStrToUpper(dtype_name(type)))) << dtype_name(type);
  }
}

// The table here and the one that the file reader goes by.
TEST(DType, AgreesWithTheTableOfTheFileFormat) {
  int found = 0;
  for (uint32_t id = 0; id < 64; ++id) {
    const GgufType* theirs = find_gguf_type(id);
    const auto ours = theirs == nullptr ? std::nullopt : type_named(std::string(theirs->name));
    if (!ours.has_value()) continue;
    ++found;
    EXPECT_EQ(theirs->block, dtype_info(*ours).block) << theirs->name;
    EXPECT_EQ(theirs->bytes, dtype_info(*ours).bytes) << theirs->name;
  }
  EXPECT_EQ(found, static_cast<int>(std::size(kAllTypes)) - 1);  // all but f8_e4m3
}

TEST(DequantizeF8Oracle, EveryTensorOfDeepSeekV3IsBitForBitTheReference) {
  const std::string folder = shared("oracle/A/dsv3-fp8");
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no reference data at " << folder;
  auto source = open_folder(folder);
  ASSERT_TRUE(source.ok()) << source.status();
  auto weights =
      open_sharded_safetensors(*source, "model.safetensors.index.json", default_allocator());
  ASSERT_TRUE(weights.ok()) << weights.status();
  auto golden = open_folder(folder + "/golden");
  ASSERT_TRUE(golden.ok()) << golden.status();
  auto samples = open_safetensors(*golden, "fp8_dequant_samples.safetensors", default_allocator());
  ASSERT_TRUE(samples.ok()) << samples.status();

  const nlohmann::json manifest = read_json(folder + "/golden/manifest.json");
  int f8 = 0, ragged = 0;
  for (const auto& [name, wanted] : manifest.at("fp8_dequant").items()) {
    SCOPED_TRACE(name);
    auto info = (*weights)->info(name);
    ASSERT_TRUE(info.ok()) << info.status();
    if (info->dtype != "F8_E4M3") continue;
    ++f8;
    ASSERT_EQ(wanted.at("shape").get<std::vector<int64_t>>(), info->shape);
    std::string values(info->bytes, '\0');
    ASSERT_TRUE((*weights)->read(name, 0, values.data(), values.size()).ok());
    auto scales = (*weights)->find(name + "_scale_inv");
    ASSERT_TRUE(scales.ok()) << scales.status();
    F8Matrix matrix = {values.data(), scales->data, info->shape[0], info->shape[1]};
    ASSERT_EQ((matrix.rows + 127) / 128, scales->shape[0]);
    ASSERT_EQ((matrix.cols + 127) / 128, scales->shape[1]);
    ragged += matrix.rows % 128 != 0 || matrix.cols % 128 != 0 ? 1 : 0;

    std::vector<float> out(values.size());
    dequantize_f8_rows(matrix, 0, matrix.rows, out.data());
    EXPECT_EQ(wanted.at("sha256_f32"), digest(out));
    auto sample = (*samples)->find("sample." + name);
    ASSERT_TRUE(sample.ok()) << sample.status();
    const auto count = static_cast<size_t>(sample->elements());  // evenly spaced
    for (size_t i = 0; i < count; ++i) {
      float value;
      std::memcpy(&value, static_cast<const char*>(sample->data) + 4 * i, 4);
      EXPECT_EQ(value, out[out.size() / count * i]) << i;
    }
    // A stretch of rows is that part of the whole.
    const int64_t first = matrix.rows / 3, last = matrix.rows - 1;
    std::vector<float> part(static_cast<size_t>((last - first) * matrix.cols));
    dequantize_f8_rows(matrix, first, last, part.data());
    EXPECT_EQ(
        0, std::memcmp(part.data(), out.data() + first * matrix.cols, part.size() * sizeof(float)));
  }
  EXPECT_GT(f8, 100);
  EXPECT_GT(ragged, 100);
}

}  // namespace
}  // namespace ponder
