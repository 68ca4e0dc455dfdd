#include "services/inferencer/pickle_scan.h"

#include <gtest/gtest.h>

#include <random>

namespace slipway::inferencer {
namespace {

using namespace std::string_literals;

Result<void> scan(const std::string& pickle) {
  return scan_pickle("data.pkl", std::as_bytes(std::span(pickle)), [](const std::string& key) -> Result<std::uint64_t> {
    if (key == "0") return 16;
    return fail(Code::kInvalidArgument, "no such storage");
  });
}

// ("storage", torch.FloatStorage, "0", "cpu", count) and BINPERSID.
std::string storage(char count, const std::string& key = "0") {
  return "\x80\x02(X\x07\0\0\0storage"s + "ctorch\nFloatStorage\n" + "X\x01\0\0\0"s + key + "X\x03\0\0\0cpu"s + "K" +
         count + "tQ.";
}

TEST(PickleScan, TakesAStorageOfItsRecordsSizeAndNoLarger) {
  EXPECT_TRUE(scan(storage(4)));
  const auto more = scan(storage(5));
  ASSERT_FALSE(more);
  EXPECT_TRUE(more.error().message.contains("16 bytes")) << more.error().message;
  EXPECT_FALSE(scan(storage(1, "1")));
}

TEST(PickleScan, RefusesClassesOutsideTheList) {
  for (const auto& name : {"cos\nsystem\n"s, "cbuiltins\neval\n"s, "ctorch\nload\n"s, "ctorch.jit\n_pickle\n"s}) {
    const auto result = scan("\x80\x02" + name + ".");
    ASSERT_FALSE(result) << name;
    EXPECT_TRUE(result.error().message.contains("refused")) << result.error().message;
  }
  EXPECT_TRUE(
      scan("\x80\x02"
           "c__torch__\nNet\n."));
  EXPECT_TRUE(
      scan("\x80\x02"
           "ccollections\nOrderedDict\n)R."));
}

TEST(PickleScan, RefusesOpcodesThatTorchDoesNotWrite) {
  for (const auto& bytes :
       {"\x80\x02ios\nsystem\n."s, "\x80\x02\x8c\x02os\x8c\x06system\x93."s, "\x80\x02S'x'\n."s, "\x80\x04N."s}) {
    EXPECT_FALSE(scan(bytes));
  }
}

TEST(PickleScan, RefusesWhatIsCutOffOrHasMoreAfterItsEnd) {
  const std::string whole = storage(4);
  for (std::size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(scan(whole.substr(0, size))) << size;
  EXPECT_FALSE(scan(whole + "N"));
}

TEST(PickleScan, RefusesATextLongerThanTheFile) { EXPECT_FALSE(scan("\x80\x02X\xff\xff\xff\xff.")); }

// Torch goes through what holds what recursively, on whatever stack its thread has.
TEST(PickleScan, BoundsTheNesting) {
  const auto lists = [](int depth) {
    return "\x80\x02"s + std::string(depth, ']') + std::string(depth - 1, 'a') + ".";
  };
  EXPECT_TRUE(scan(lists(32)));
  EXPECT_FALSE(scan(lists(33)));
  const auto tuples = [](int depth) { return "\x80\x02N"s + std::string(depth, '\x85') + "."; };
  EXPECT_TRUE(scan(tuples(32)));
  EXPECT_FALSE(scan(tuples(33)));
}

TEST(PickleScan, RefusesToFillWhatIsHeldAlready) {
  // a = [], b = [a], then a.append([]): b's depth would no longer be what was counted.
  EXPECT_FALSE(scan("\x80\x02]]q\x00"s + "a" + "h\x00]a" + "a."));
  // A list that holds itself, and a dictionary that does.
  EXPECT_FALSE(scan("\x80\x02]q\x00h\x00"s + "a."));
  EXPECT_FALSE(scan("\x80\x02}q\x00(X\x01\0\0\0ah\x00u."s));
}

TEST(PickleScan, TakesAnObjectThatIsHeldTwice) {
  EXPECT_TRUE(scan("\x80\x02(c__torch__\nA\n)\x81}(X\x01\0\0\0aK\x01ubq\x00h\x00t."s));
}

TEST(PickleScan, RefusesAKeyWithoutAValue) {
  EXPECT_FALSE(scan("\x80\x02}(X\x01\0\0\0au."s));
  EXPECT_FALSE(scan("\x80\x02(X\x01\0\0\0ad."s));
  EXPECT_TRUE(scan("\x80\x02}(X\x01\0\0\0aNu."s));
}

// Torch would make room for four thousand million of them.
TEST(PickleScan, RefusesASlotOutOfTurn) {
  EXPECT_TRUE(scan("\x80\x02Nq\x00."s));
  EXPECT_FALSE(scan("\x80\x02Nq\x01."s));
  EXPECT_FALSE(scan("\x80\x02Nr\xff\xff\xff\x7f."s));
}

TEST(PickleScan, RefusesClassesThatTorchHasInNativeCode) {
  EXPECT_FALSE(scan("\x80\x02"s + "c__torch__.torch.classes.quantized\nConv2dPackedParamsBase\n)\x81."));
  EXPECT_TRUE(scan("\x80\x02"s + "c__torch__.torch.nn.modules.linear\nLinear\n)\x81."));
}

TEST(PickleScan, SurvivesRandomBytes) {
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = storage(4);
    for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] = static_cast<char>(random());
    static_cast<void>(scan(bytes));
  }
}

}  // namespace
}  // namespace slipway::inferencer
