#include "services/trainer/training_data.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <format>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/base/machine.h"
#include "lib/base/random_id.h"
#include "lib/dataset/inspect.h"
#include "services/trainer/memory_need.h"

namespace slipway::trainer {
namespace {

using testing::HasSubstr;

keras::JobSpec images(const std::string& loss = "sparse_categorical_crossentropy") {
  auto parsed = keras::parse_job(R"({"publish": {"model": "m"}, "dataset": "d",
    "model": {"class_name": "Sequential", "config": {"name": "s", "layers": [
      {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [null, 28, 28], "dtype": "float32"}},
      {"class_name": "Flatten", "config": {"name": "f"}},
      {"class_name": "Dense", "config": {"name": "out", "units": 10, "activation": "softmax"}}]}},
    "compile": {"optimizer": "sgd", "loss": ")" +
                                 loss + R"("}, "fit": {"epochs": 1, "batch_size": 32}})");
  EXPECT_TRUE(parsed) << parsed.error().message;
  return *parsed;
}

// A line of what the kernel says of this process's memory.
std::uint64_t memory_bytes(std::string_view what) {
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.starts_with(what)) return std::stoull(line.substr(what.size())) * 1024;
  }
  return 0;
}
std::uint64_t anonymous_bytes() { return memory_bytes("RssAnon:"); }

// From now on the most that there has been is what there is.
void forget_peak() { std::ofstream("/proc/self/clear_refs") << 5; }

class TrainingDataFiles : public testing::Test {
 protected:
  TrainingDataFiles() { std::filesystem::create_directories(folder_); }
  ~TrainingDataFiles() override { std::filesystem::remove_all(folder_); }

  DataFile file(const std::string& name, const std::string& bytes) {
    const auto path = folder_ / name;
    std::ofstream(path, std::ios::binary) << bytes;
    auto mapped = dataset::MappedFile::open(path);
    EXPECT_TRUE(mapped) << mapped.error().message;
    return {name, *mapped};
  }
  static std::string header(std::initializer_list<std::uint32_t> shape) {
    std::string bytes{'\0', '\0', '\x08', static_cast<char>(shape.size())};
    for (const auto dimension : shape) {
      for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(dimension >> shift));
    }
    return bytes;
  }
  static Dataset stored(std::uint64_t rows, std::vector<std::int64_t> row_shape) {
    Dataset set;
    set.name = "d";
    set.format = "idx";
    set.dtype = DType::kU8;
    set.rows = rows;
    set.row_shape = std::move(row_shape);
    set.classes = 10;
    set.size_bytes = 24 + rows * 785;
    return set;
  }

  const std::filesystem::path folder_ = std::filesystem::temp_directory_path() / ("slipway-data-" + random_hex());
};

TEST_F(TrainingDataFiles, ImagesStayInTheFile) {
  constexpr std::uint32_t kRows = 80'000;  // 60 MiB
  std::vector<DataFile> files;
  {
    std::string pixels = header({kRows, 28, 28});
    pixels.resize(16 + std::size_t{kRows} * 784, '\x07');
    files.push_back(file(std::string(dataset::kTrainImages), pixels));
  }
  files.push_back(file(std::string(dataset::kTrainLabels), header({kRows}) + std::string(kRows, '\x03')));
  const auto* const begin = files[0].second->bytes().data();

  const auto before = anonymous_bytes();
  std::optional<TrainingData> data;
  {
    auto loaded = load_training_data(images(), stored(kRows, {28, 28}), files);
    ASSERT_TRUE(loaded) << loaded.error().message;
    data = std::move(*loaded);
  }
  files.clear();  // the tensor keeps what it needs
  EXPECT_EQ(data->x.sizes(), torch::IntArrayRef({kRows, 28, 28}));
  EXPECT_EQ(static_cast<const void*>(data->x.const_data_ptr()), begin + 16);
  EXPECT_EQ(data->x.sum().item<std::int64_t>(), 7LL * kRows * 784);
  EXPECT_EQ(data->y.sum().item<std::int64_t>(), 3LL * kRows);
  EXPECT_LT(anonymous_bytes(), before + (8 << 20));
}

TEST_F(TrainingDataFiles, ATableIsHeldOnceAndItsRowsAreInOrder) {
  // Rows of `first` and 1 to width - 1, and their number modulo 2.
  const auto table = [&](std::int64_t width, std::uint64_t rows) {
    std::string row, header;
    for (std::int64_t i = 1; i < width; ++i) row += std::format("{},", i);
    for (std::int64_t i = 0; i < width; ++i) header += std::format("x{},", i);
    std::string text = header + "y\n";
    text.reserve(text.size() + rows * (row.size() + 10));
    for (std::uint64_t i = 0; i < rows; ++i) text += std::format("{},{}{}\n", i % 1000, row, i % 2);
    return std::vector{file(std::format("{}.csv", rows), text)};
  };
  const auto load = [&](std::int64_t width, std::uint64_t rows, const std::vector<DataFile>& files) {
    Dataset set;
    set.format = "csv";
    set.rows = rows;
    for (std::int64_t i = 0; i < width; ++i) set.columns.push_back({.name = std::format("x{}", i), .categories = {}});
    set.columns.push_back({.name = "y", .categories = {}});
    auto spec = images();
    spec.architecture.input_shape = {width};
    spec.data.target = "y";
    return load_training_data(spec, set, files);
  };
  const auto small = load(2, 3, table(2, 3));
  ASSERT_TRUE(small) << small.error().message;
  EXPECT_TRUE(small->x.equal(torch::tensor({{0.F, 1.F}, {1.F, 1.F}, {2.F, 1.F}})));
  EXPECT_TRUE(small->y.equal(torch::tensor({0, 1, 0}, torch::kInt64)));

  const auto files = table(16, 500'000);  // 32 MB of numbers
  forget_peak();
  [[maybe_unused]] const auto before = memory_bytes("VmRSS:");
  const auto large = load(16, 500'000, files);
  ASSERT_TRUE(large) << large.error().message;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const std::uint64_t numbers = large->x.nbytes() + large->y.nbytes();
  EXPECT_LT(memory_bytes("VmHWM:") - before, files[0].second->bytes().size() + numbers * 3 / 2);
#endif
  EXPECT_EQ(large->x[499'999][0].item<float>(), 999);
  EXPECT_EQ(large->x[499'999][15].item<float>(), 15);
}

TEST_F(TrainingDataFiles, WhatALaterReleaseMadeIsRefused) {
  auto set = stored(1, {28, 28});
  set.dtype = static_cast<DType>(200);
  EXPECT_EQ(load_training_data(images(), set, {}).error().code, Code::kUnsupported);
  EXPECT_THAT(load_training_data(images(), set, {}).error().message, HasSubstr("type number 200"));
  set.dtype = DType::kU8;
  EXPECT_EQ(load_training_data(images(), set, {}).error().code, Code::kNotFound);
  set.format = "parquet";
  EXPECT_EQ(load_training_data(images(), set, {}).error().code, Code::kUnsupported);
}

// Four million black images are three mebibytes as gzip and three gibibytes as a file.
TEST_F(TrainingDataFiles, CountOnceAndAreHeldAgainstTheMemory) {
  const auto set = stored(4'000'000, {28, 28});
  const auto spec = images();
  const std::uint64_t labels_and_order = 2 * 8 * 4'000'000ULL;
  EXPECT_EQ(data_bytes(spec, set), set.size_bytes + labels_and_order);
  // One row of ones and zeros for each label.
  EXPECT_EQ(data_bytes(images("categorical_crossentropy"), set),
            set.size_bytes + labels_and_order + 4'000'000ULL * 10 * (8 + 4));
  const auto need = memory_need(spec);
  const auto data = data_bytes(spec, set);
  EXPECT_TRUE(check_memory(spec, data, need + data));
  const auto refused = check_memory(spec, data, need + data - 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kTooLarge);
  EXPECT_THAT(refused.error().message, HasSubstr("its data 3.0 GiB"));

  Dataset table;
  table.format = "csv";
  table.rows = 1000;
  table.size_bytes = 50'000;
  EXPECT_EQ(data_bytes(spec, table), 50'000 + 1000 * 784 * 4 + 2 * 8 * 1000);
}

TEST_F(TrainingDataFiles, RecordsWithoutSenseDoNotWrapAround) {
  auto set = stored(~std::uint64_t{0}, {28, 28});
  set.size_bytes = ~std::uint64_t{0};
  EXPECT_EQ(data_bytes(images(), set), std::uint64_t{1} << 62);
  EXPECT_FALSE(check_memory(images(), data_bytes(images(), set), memory_left()));
}

}  // namespace
}  // namespace slipway::trainer
