#include "lib/dataset/inspect.h"

#include <gmock/gmock.h>

#include "lib/base/sha256.h"
#include "tests/unit/dataset/samples.h"

namespace slipway::dataset {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

struct File {
  std::string name;
  Bytes bytes;
};

// Hands the bytes out in small pieces.
class PieceReader : public ByteReader {
 public:
  PieceReader(std::span<const std::byte> bytes, std::size_t step) : bytes_(bytes), step_(step) {}
  Result<std::span<const std::byte>> next() override {
    const auto piece = bytes_.first(std::min(step_, bytes_.size()));
    bytes_ = bytes_.subspan(piece.size());
    return piece;
  }

 private:
  std::span<const std::byte> bytes_;
  std::size_t step_;
};

class BrokenReader : public ByteReader {
 public:
  Result<std::span<const std::byte>> next() override { return fail(Code::kDataLoss, "chunk is damaged"); }
};

Result<Dataset> inspect_files(const std::vector<File>& files, std::size_t step = 3) {
  std::vector<InputFile> inputs;
  for (const File& file : files) inputs.push_back({file.name, std::make_unique<PieceReader>(file.bytes, step)});
  return inspect(std::move(inputs));
}

std::vector<File> digits() {
  return {{"train-images-idx3-ubyte", idx(8, {2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8})},
          {"train-labels-idx1-ubyte", idx(8, {2}, {0, 4})},
          {"t10k-images-idx3-ubyte", idx(8, {1, 2, 2}, {9, 9, 9, 9})},
          {"t10k-labels-idx1-ubyte", idx(8, {1}, {6})}};
}

void expect_upload_refused(const std::vector<File>& files, std::string_view part, Code code = Code::kInvalidArgument) {
  const auto dataset = inspect_files(files);
  ASSERT_FALSE(dataset);
  EXPECT_EQ(dataset.error().code, code);
  EXPECT_THAT(dataset.error().message, HasSubstr(part));
}

TEST(Inspect, DescribesTheFourFilesOfMnist) {
  const auto dataset = inspect_files(digits());
  ASSERT_TRUE(dataset) << dataset.error().message;
  EXPECT_EQ(dataset->format, "idx");
  EXPECT_EQ(dataset->rows, 2U);
  EXPECT_EQ(dataset->test_rows, 1U);
  EXPECT_THAT(dataset->row_shape, ElementsAre(2, 2));
  EXPECT_EQ(dataset->dtype, DType::kU8);
  EXPECT_EQ(dataset->classes, 7U);
  EXPECT_TRUE(dataset->columns.empty());
  EXPECT_EQ(dataset->size_bytes, 24U + 10 + 20 + 9);
  ASSERT_EQ(dataset->files.size(), 4U);
  EXPECT_EQ(dataset->files[0].name, kTrainImages);
  EXPECT_EQ(dataset->files[0].size_bytes, 24U);
  EXPECT_EQ(dataset->files[0].digest, sha256(digits()[0].bytes));
  EXPECT_FALSE(dataset->digest.empty());
}

TEST(Inspect, GivesOneDigestForOneContent) {
  const auto plain = inspect_files(digits()).value();
  auto moved = digits();
  std::swap(moved[0], moved[3]);
  moved[1].name = "data\\raw/train-labels.idx1-ubyte";
  const auto same = inspect_files(moved, 1000).value();
  EXPECT_EQ(same.digest, plain.digest);
  EXPECT_EQ(same.files, plain.files);

  auto changed = digits();
  changed[2].bytes.back() ^= std::byte{1};
  EXPECT_NE(inspect_files(changed)->digest, plain.digest);
  auto train_only = digits();
  train_only.resize(2);
  EXPECT_NE(inspect_files(train_only)->digest, plain.digest);
}

TEST(Inspect, TakesTheTrainFilesAlone) {
  auto files = digits();
  files.resize(2);
  const auto dataset = inspect_files(files);
  ASSERT_TRUE(dataset);
  EXPECT_EQ(dataset->test_rows, 0U);
  EXPECT_EQ(dataset->classes, 5U);
}

TEST(Inspect, RefusesAMissingFile) {
  auto files = digits();
  files.erase(files.begin());
  expect_upload_refused(files, "train-images-idx3-ubyte is missing");
  files = digits();
  files.pop_back();
  expect_upload_refused(files, "t10k-labels-idx1-ubyte is missing, t10k-images-idx3-ubyte came");
  files = digits();
  files.erase(files.begin() + 2);
  expect_upload_refused(files, "t10k-images-idx3-ubyte is missing, t10k-labels-idx1-ubyte came");
  expect_upload_refused({}, "no files");
}

TEST(Inspect, RefusesUnknownAndRepeatedFiles) {
  auto files = digits();
  files.push_back({"notes.txt", {}});
  expect_upload_refused(files, "notes.txt: not a file of an IDX data set");
  files.back() = {"x/train-labels.idx1-ubyte", {}};
  expect_upload_refused(files, "x/train-labels.idx1-ubyte: train-labels-idx1-ubyte came twice");
}

TEST(Inspect, RefusesFilesThatContradictEachOther) {
  auto files = digits();
  files[1].bytes = idx(8, {3}, {0, 1, 2});
  expect_upload_refused(files, "holds 2 images, train-labels-idx1-ubyte 3 labels");
  files = digits();
  files[3].bytes = idx(8, {2}, {0, 1});
  expect_upload_refused(files, "t10k-images-idx3-ubyte holds 1 images");
  files = digits();
  files[2].bytes = idx(8, {1, 1, 4}, {9, 9, 9, 9});
  expect_upload_refused(files, "holds images of 1x4, train-images-idx3-ubyte of 2x2");
}

TEST(Inspect, RefusesDamagedIdx) {
  auto files = digits();
  files[0].bytes.pop_back();
  expect_upload_refused(files, "train-images-idx3-ubyte: announces 2x2x2 = 8 bytes, 7 came");
  files[0].bytes.resize(10);
  expect_upload_refused(files, "train-images-idx3-ubyte: cut off inside the IDX header");
  files[0].bytes.clear();
  expect_upload_refused(files, "train-images-idx3-ubyte: not an IDX file: 0 bytes came");
  files[0].bytes = bytes_of("<html>not found</html>");
  expect_upload_refused(files, "train-images-idx3-ubyte: not an IDX file");
  files[0].bytes = idx(8, {2, 2, 2, 1}, {1, 2, 3, 4, 5, 6, 7, 8});
  expect_upload_refused(files, "an IDX file of 4 dimensions, wanted 3");
  files[0].bytes = idx(8, {2, 4}, {1, 2, 3, 4, 5, 6, 7, 8});
  expect_upload_refused(files, "an IDX file of 2 dimensions, wanted 3");
  files[0].bytes = idx(8, {2, 0, 2}, {});
  expect_upload_refused(files, "announces no data");
  files[0].bytes = idx(0x09, {2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  expect_upload_refused(files, "holds i8, wanted u8", Code::kUnsupported);
}

TEST(Inspect, DescribesATable) {
  const auto dataset =
      inspect_files({{"folder/Houses.CSV", bytes_of("rooms,price,kind\n3,100.5,flat\n4,120,house\n")}});
  ASSERT_TRUE(dataset) << dataset.error().message;
  EXPECT_EQ(dataset->format, "csv");
  EXPECT_EQ(dataset->rows, 2U);
  EXPECT_THAT(dataset->row_shape, ElementsAre(3));
  EXPECT_EQ(dataset->dtype, DType::kF32);
  EXPECT_EQ(dataset->classes, 0U);
  EXPECT_EQ(dataset->columns.size(), 3U);
  EXPECT_EQ(dataset->files.at(0).name, "Houses.CSV");
  EXPECT_EQ(inspect_files({{"b.csv", bytes_of("rooms,price,kind\n3,100.5,flat\n4,120,house\n")}})->digest,
            dataset->digest);
}

TEST(Inspect, NamesTheFileOfABrokenTable) {
  expect_upload_refused({{"x/houses.csv", bytes_of("a\n1\nb\n")}}, "x/houses.csv: row 2, column 'a'");
  expect_upload_refused({{"a.csv", {}}, {"b.csv", {}}}, "2 files came, 2 of them .csv");
}

TEST(Inspect, PassesOnTheReadersError) {
  std::vector<InputFile> files;
  files.push_back({"a.csv", std::make_unique<BrokenReader>()});
  const auto dataset = inspect(std::move(files));
  ASSERT_FALSE(dataset);
  EXPECT_EQ(dataset.error().code, Code::kDataLoss);
}

}  // namespace
}  // namespace slipway::dataset
