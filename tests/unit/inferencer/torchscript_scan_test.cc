#include "services/inferencer/torchscript_scan.h"

#include <zip.h>

#include <memory>
#include <random>

#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/torch_model.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

class TorchScriptScan : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }

  Result<ScannedArchive> scan(const std::string& bytes) { return scan_torchscript(std::as_bytes(std::span(bytes))); }

  // Why the file is refused, before it is loaded when `early`, else once it is loaded but before it runs.
  std::string refusal(const std::filesystem::path& path, bool early) {
    const auto scanned = scan(read_file(path));
    EXPECT_EQ(scanned.has_value(), !early) << (scanned ? "" : scanned.error().message);
    const auto loaded = TorchModel::load(path, Origin::kUploaded, rows_of(2));
    if (loaded) return "loaded";
    EXPECT_EQ(loaded.error().code, Code::kInvalidArgument);
    return loaded.error().message;
  }

  // A copy of a good file, changed through libzip.
  std::string changed(const std::function<void(zip_t*)>& change) {
    const auto path = folder_.path() / ("changed-" + random_hex(64) + ".pt");
    std::filesystem::copy_file(save_doubler(folder_), path);
    int error = 0;
    zip_t* archive = zip_open(path.c_str(), 0, &error);
    EXPECT_NE(archive, nullptr);
    change(archive);
    EXPECT_EQ(zip_close(archive), 0);
    return read_file(path);
  }
  static void put(zip_t* archive, const std::string& name, const std::string& bytes, int method = ZIP_CM_STORE) {
    void* copy = malloc(bytes.size() + 1);
    memcpy(copy, bytes.data(), bytes.size());
    // Not overwritten: libzip would then choose the compression itself.
    if (const auto old = zip_name_locate(archive, name.c_str(), 0); old >= 0)
      zip_delete(archive, static_cast<zip_uint64_t>(old));
    const auto index = zip_file_add(archive, name.c_str(), zip_source_buffer(archive, copy, bytes.size(), 1), 0);
    EXPECT_GE(index, 0);
    zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), method, 0);
  }
  static std::string root(zip_t* archive) {
    const std::string first = zip_get_name(archive, 0, 0);
    return first.substr(0, first.find('/') + 1);
  }

  Folder folder_;
};

TEST_F(TorchScriptScan, TakesAnOrdinaryModule) {
  const auto path = save_module(folder_, "net.pt", R"(
    def forward(self, x):
        y = torch.relu(torch.linear(x, self.w, self.b))
        for i in range(2):
            y = y + torch.softmax(y, -1)
        return y
  )",
                                [](torch::jit::Module& module) {
                                  module.register_parameter("w", torch::randn({2, 2}), false);
                                  module.register_buffer("b", torch::randn({2}));
                                });
  const auto scanned = scan(read_file(path));
  ASSERT_TRUE(scanned) << scanned.error().message;
  EXPECT_TRUE(scanned->read.contains("data.pkl"));
  EXPECT_TRUE(TorchModel::load(path, Origin::kUploaded, rows_of(2)));
}

// Fact 11 of the measured traps: this code runs inside torch::jit::load.
TEST_F(TorchScriptScan, RefusesSetstateBeforeItIsLoaded) {
  const auto marker = folder_.path() / "marker";
  const auto path = save_module(folder_, "evil.pt", R"(
    def forward(self, x):
        return x
    def __getstate__(self):
        return 1
    def __setstate__(self, state: int):
        torch.save([1], ")" + marker.string() + R"(")
  )");
  EXPECT_TRUE(refusal(path, true).contains("__setstate__"));
  EXPECT_FALSE(std::filesystem::exists(marker));
}

TEST_F(TorchScriptScan, RefusesFileAccess) {
  const auto save =
      save_module(folder_, "save.pt", "def forward(self, x):\n  torch.save(x, '/tmp/never')\n  return x\n");
  EXPECT_TRUE(refusal(save, true).contains("torch.save"));
  const auto load =
      save_module(folder_, "from.pt", "def forward(self, x):\n  return torch.from_file('/etc/passwd', False, 10)\n");
  EXPECT_TRUE(refusal(load, true).contains("torch.from_file"));
}

TEST_F(TorchScriptScan, RefusesViewsOfAnyAddress) {
  const auto path =
      save_module(folder_, "view.pt", "def forward(self, x):\n  return torch.as_strided(x, [100], [1], 0)\n");
  EXPECT_TRUE(refusal(path, true).contains("torch.as_strided"));
}

TEST_F(TorchScriptScan, RefusesAnOperatorHiddenInASubmodulesMethod) {
  torch::jit::Module inner("inner");
  inner.define("def go(self, x):\n  return torch.as_strided(x, [100], [1], 0)\n");
  const auto path = save_module(folder_, "hidden.pt", "def forward(self, x):\n  return self.inner.go(x)\n",
                                [&](torch::jit::Module& module) { module.register_module("inner", inner); });
  EXPECT_TRUE(refusal(path, true).contains("as_strided"));
}

// A hand-written file may call an operator as a method, which the scan of the text does not see.
TEST_F(TorchScriptScan, RefusesAfterLoadingWhatIsWrittenAsAMethodCall) {
  const auto good = changed([](zip_t* archive) {
    std::string name;
    for (zip_int64_t i = 0; i < zip_get_num_entries(archive, 0); ++i) {
      const std::string entry = zip_get_name(archive, static_cast<zip_uint64_t>(i), 0);
      if (entry.ends_with(".py")) name = entry;
    }
    ASSERT_FALSE(name.empty());
    put(archive, name,
        "class net(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
        "  def forward(self: __torch__.net, x: Tensor) -> Tensor:\n"
        "    return x.as_strided([100], [1], 0)\n");
  });
  const auto path = folder_.path() / "method.pt";
  std::ofstream(path, std::ios::binary) << good;
  EXPECT_TRUE(refusal(path, false).contains("aten::as_strided")) << refusal(path, false);
}

TEST_F(TorchScriptScan, RefusesLoopsThatNeedNotEnd) {
  for (const std::string body : {"while bool((x > 2).any()):\n    x = x + 1", "while True:\n    x = x + 1",
                                 "for i in range(int(x.sum())):\n    x = x + 1"}) {
    const auto path =
        save_module(folder_, random_hex(64) + ".pt", "def forward(self, x):\n  " + body + "\n  return x\n");
    EXPECT_TRUE(refusal(path, false).contains("may never end")) << body;
  }
}

// As scripted recurrent and attention layers have them.
TEST_F(TorchScriptScan, TakesLoopsOverShapesAndLists) {
  for (const std::string body :
       {"for i in range(x.size(1)):\n    x = x + i", "for i in range(x.shape[1] - 1, -1, -1):\n    x = x + i",
        "parts = torch.unbind(x, 1)\n  for i in range(len(parts)):\n    x = x + parts[i].unsqueeze(1)",
        "for part in torch.unbind(x, 1):\n    x = x + part.unsqueeze(1)",
        "sizes = [s * 2 for s in [1, 2]]\n  for s in sizes:\n    x = x * s",
        "n = x.size(0)\n  if n > 2:\n    n = 2\n  for i in range(n):\n    for j in range(i):\n      x = x + 1"}) {
    const auto path =
        save_module(folder_, random_hex(64) + ".pt", "def forward(self, x):\n  " + body + "\n  return x\n");
    EXPECT_EQ(refusal(path, false), "loaded") << body;
  }
}

TEST_F(TorchScriptScan, RefusesWhatIsNotAZip) {
  for (const std::string& bytes :
       {std::string(), std::string("P"), std::string("hello, this is not a model"), std::string(5000, '\0')}) {
    const auto result = scan(bytes);
    ASSERT_FALSE(result);
    EXPECT_TRUE(result.error().message.starts_with("not a TorchScript file")) << result.error().message;
  }
}

TEST_F(TorchScriptScan, RefusesEveryTruncation) {
  const std::string whole = read_file(save_doubler(folder_));
  for (std::size_t size = 0; size < whole.size(); size += 7) ASSERT_FALSE(scan(whole.substr(0, size))) << size;
}

TEST_F(TorchScriptScan, SurvivesFlippedBytes) {
  const std::string whole = read_file(save_doubler(folder_));
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = whole;
    bytes[random() % bytes.size()] = static_cast<char>(random());
    static_cast<void>(scan(bytes));
  }
}

TEST_F(TorchScriptScan, RefusesAnArchiveBehindOtherBytes) {
  const std::string whole = read_file(save_doubler(folder_));
  EXPECT_FALSE(scan("GARBAGE" + whole));
}

TEST_F(TorchScriptScan, RefusesNamesThatDifferInCaseOnly) {
  const auto bytes = changed([](zip_t* archive) { put(archive, root(archive) + "DATA.PKL", "x"); });
  EXPECT_FALSE(scan(bytes));
}

TEST_F(TorchScriptScan, RefusesPathsThatLeaveTheFolder) {
  for (const std::string name : {"../x", "data/../../x", "data//x", "other"}) {
    EXPECT_FALSE(scan(changed([&](zip_t* archive) { put(archive, root(archive) + name, "x"); }))) << name;
  }
  EXPECT_FALSE(scan(changed([](zip_t* archive) { put(archive, "elsewhere/data/0", "x"); })));
  EXPECT_FALSE(scan(changed([](zip_t* archive) { put(archive, "nofolder", "x"); })));
}

TEST_F(TorchScriptScan, RefusesCompressedTensors) {
  const auto bytes = changed(
      [](zip_t* archive) { put(archive, root(archive) + "data/99", std::string(100'000, '\0'), ZIP_CM_DEFLATE); });
  const auto result = scan(bytes);
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().message.contains("compressed"));
}

TEST_F(TorchScriptScan, RefusesCodeThatUnpacksBeyondTheLimit) {
  const auto bytes = changed(
      [](zip_t* archive) { put(archive, root(archive) + "code/big.py", std::string(1 << 20, '#'), ZIP_CM_DEFLATE); });
  EXPECT_EQ(scan_torchscript(std::as_bytes(std::span(bytes)), {.max_text_bytes = 1 << 20}).error().code,
            Code::kTooLarge);
  EXPECT_TRUE(scan_torchscript(std::as_bytes(std::span(bytes)), {.max_text_bytes = 2 << 20}));
}

TEST_F(TorchScriptScan, RefusesTooManyEntries) {
  const std::string bytes = read_file(save_doubler(folder_));
  EXPECT_EQ(scan_torchscript(std::as_bytes(std::span(bytes)), {.max_entries = 2}).error().code, Code::kTooLarge);
}

TEST_F(TorchScriptScan, RefusesAnArchiveWithoutItsParts) {
  for (const std::string part : {"data.pkl", "constants.pkl", "version"}) {
    const auto bytes = changed([&](zip_t* archive) {
      const std::string folder = root(archive);
      for (const std::string& name : {folder + part, folder + ".data/" + part}) {
        if (const auto at = zip_name_locate(archive, name.c_str(), 0); at >= 0) {
          zip_delete(archive, static_cast<zip_uint64_t>(at));
        }
      }
    });
    const auto result = scan(bytes);
    ASSERT_FALSE(result) << part;
    EXPECT_TRUE(result.error().message.contains(part)) << result.error().message;
  }
}

TEST_F(TorchScriptScan, RefusesAPickleThatNamesAForeignClass) {
  const auto bytes = changed([](zip_t* archive) {
    put(archive, root(archive) + "data.pkl",
        "\x80\x02"
        "cos\nsystem\n.");
  });
  const auto result = scan(bytes);
  ASSERT_FALSE(result);
  EXPECT_TRUE(result.error().message.contains("os.system")) << result.error().message;
}

// Torch believes the pickle about a tensor's strides; only the check after loading sees that they leave the data.
TEST_F(TorchScriptScan, RefusesATensorThatReachesBeyondItsData) {
  const auto path = save_module(folder_, "tensor.pt", "def forward(self, x):\n  return x + self.w\n",
                                [](torch::jit::Module& module) { module.register_buffer("w", torch::zeros({77, 2})); });
  std::string bytes = read_file(path);
  int error = 0;
  zip_t* archive = zip_open(path.c_str(), 0, &error);
  ASSERT_NE(archive, nullptr);
  const std::string name = root(archive) + "data.pkl";
  zip_stat_t status;
  zip_stat(archive, name.c_str(), 0, &status);
  std::string pickle(status.size, '\0');
  zip_file_t* file = zip_fopen(archive, name.c_str(), 0);
  zip_fread(file, pickle.data(), pickle.size());
  zip_fclose(file);
  const auto at = pickle.find("K\x4dK\x02");  // the sizes (77, 2)
  ASSERT_NE(at, std::string::npos);
  pickle[at + 1] = '\x7f';
  put(archive, name, pickle);
  ASSERT_EQ(zip_close(archive), 0);
  EXPECT_TRUE(refusal(path, false).contains("beyond its data")) << refusal(path, false);
}

}  // namespace
}  // namespace slipway::inferencer
