#include "services/inferencer/torchscript_scan.h"

#include <caffe2/serialize/file_adapter.h>
#include <torch/csrc/jit/mobile/file_format.h>
#include <zip.h>

#include <memory>
#include <random>

#include "lib/torch_runtime/torch_runtime.h"
#include "services/inferencer/module_check.h"
#include "services/inferencer/torch_model.h"
#include "tests/unit/inferencer/models.h"

namespace slipway::inferencer {
namespace {

class TorchScriptScan : public testing::Test {
 protected:
  static void SetUpTestSuite() { start_torch(1); }

  Result<ScannedArchive> scan(const std::string& bytes) { return scan_torchscript(std::as_bytes(std::span(bytes))); }

  // Why the file is refused, before it is loaded when `early`, else once it is loaded but before it runs; whoever is
  // said to have made it.
  std::string refusal(const std::filesystem::path& path, bool early) {
    const auto scanned = scan(read_file(path));
    EXPECT_EQ(scanned.has_value(), !early) << (scanned ? "" : scanned.error().message);
    const auto loaded = TorchModel::load(path, Origin::kUploaded, rows_of(2));
    if (loaded) return "loaded";
    EXPECT_EQ(loaded.error().code, Code::kInvalidArgument);
    EXPECT_FALSE(TorchModel::load(path, Origin::kTrained, rows_of(2))) << loaded.error().message;
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
  // The file with one stretch of its data.pkl replaced.
  std::filesystem::path patched(const std::filesystem::path& path, const std::string& from, const std::string& to) {
    int error = 0;
    zip_t* archive = zip_open(path.c_str(), 0, &error);
    EXPECT_NE(archive, nullptr);
    const std::string name = root(archive) + "data.pkl";
    zip_stat_t status;
    zip_stat(archive, name.c_str(), 0, &status);
    std::string pickle(status.size, '\0');
    zip_file_t* file = zip_fopen(archive, name.c_str(), 0);
    zip_fread(file, pickle.data(), pickle.size());
    zip_fclose(file);
    std::size_t at = pickle.find(from);
    EXPECT_NE(at, std::string::npos);
    for (; at != std::string::npos; at = pickle.find(from, at + to.size())) pickle.replace(at, from.size(), to);
    put(archive, name, pickle);
    EXPECT_EQ(zip_close(archive), 0);
    return path;
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
  // The name of its only source.
  static std::string source(zip_t* archive) {
    std::string name;
    for (zip_int64_t i = 0; i < zip_get_num_entries(archive, 0); ++i) {
      const std::string entry = zip_get_name(archive, static_cast<zip_uint64_t>(i), 0);
      if (entry.ends_with(".py")) name = entry;
    }
    EXPECT_FALSE(name.empty());
    return name;
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
    put(archive, source(archive),
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

// Torch opens the file once more, with a reader of its own.
TEST_F(TorchScriptScan, WhatTorchsReaderFindsMustBeWhatWasScanned) {
  const auto path = folder_.path() / "read.pt";
  const auto as_torch_reads = [&](const std::string& bytes, const ScannedArchive& scanned) {
    std::ofstream(path, std::ios::binary) << bytes;
    const auto same = check_same_archive(path.string(), scanned);
    return same ? "the same" : same.error().message;
  };
  const std::string good = read_file(save_doubler(folder_));
  const auto scanned = scan(good);
  ASSERT_TRUE(scanned) << scanned.error().message;
  EXPECT_EQ(as_torch_reads(good, *scanned), "the same");
  const auto other_code =
      changed([](zip_t* archive) { put(archive, source(archive), "class net(Module):\n  pass\n"); });
  EXPECT_TRUE(as_torch_reads(other_code, *scanned).contains("two ways"));
  const auto one_more = changed([](zip_t* archive) { put(archive, root(archive) + "data/9", "x"); });
  EXPECT_TRUE(as_torch_reads(one_more, *scanned).contains("two ways"));
}

// Given a path or a stream, torch takes a file with this mark for a flatbuffer, whatever else it is.
TEST_F(TorchScriptScan, TheReaderThatLoadsKnowsZipArchivesOnly) {
  const auto path = folder_.path() / "both.pt";
  std::string both = read_file(save_doubler(folder_));
  both.replace(4, 4, "PTMF");
  std::ofstream(path, std::ios::binary) << both;
  EXPECT_FALSE(scan(both));
  ASSERT_EQ(torch::jit::getFileFormat(path.string()), torch::jit::FileFormat::FlatbufferFileFormat);
  const auto module =
      torch::jit::load(std::make_shared<caffe2::serialize::FileAdapter>(path.string()), torch::kCPU, false);
  EXPECT_TRUE(module.find_method("forward"));
}

// Torch finds entries without regard to case, so that a scan that has it would take one for another.
TEST_F(TorchScriptScan, RefusesNamesInCapitals) {
  for (const std::string name : {"CODE/x.py", "code/x.PY", "code/__torch__.py.DEBUG_PKL", "Data/9", "Extra/x"}) {
    const auto result = scan(changed([&](zip_t* archive) { put(archive, root(archive) + name, "x"); }));
    EXPECT_FALSE(result) << name;
  }
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
  patched(path, "K\x4dK\x02", "K\x7fK\x02");  // the sizes (77, 2)
  EXPECT_TRUE(refusal(path, false).contains("beyond its data")) << refusal(path, false);
}

class TypeConfusion : public TorchScriptScan {
 protected:
  // The file with its only source replaced.
  std::filesystem::path with_source(const std::filesystem::path& path, const std::string& source) {
    int error = 0;
    zip_t* archive = zip_open(path.c_str(), 0, &error);
    EXPECT_NE(archive, nullptr);
    put(archive, TorchScriptScan::source(archive), source);
    EXPECT_EQ(zip_close(archive), 0);
    return path;
  }
};

TEST_F(TypeConfusion, RefusesAnAttributeOfAnotherTypeThanItsCodeSays) {
  const auto fill = [](torch::jit::Module& module) {
    module.register_attribute("n", c10::IntType::get(), 77);
    module.register_attribute("t", c10::TupleType::create({c10::IntType::get(), c10::IntType::get()}),
                              c10::ivalue::Tuple::create(std::vector<c10::IValue>{88, 99}));
    module.register_attribute("l", c10::ListType::ofInts(), c10::List<std::int64_t>({55, 66}));
  };
  const auto save = [&](const std::string& name) {
    return save_module(folder_, name, "def forward(self, x):\n  return x * self.n * self.t[1] * self.l[0]\n", fill);
  };
  EXPECT_EQ(refusal(save("good.pt"), false), "loaded");
  EXPECT_TRUE(refusal(patched(save("bool.pt"), "K\x4d", "\x88"), false).contains("where its code says int"));
  EXPECT_TRUE(refusal(patched(save("none.pt"), "K\x4d", "N"), false).contains("where its code says int"));
  for (const auto& [name, pickle] :
       {std::pair("short.pt", std::string("K\x58\x85")), std::pair("long.pt", std::string("K\x58K\x63K\x63\x87"))}) {
    const auto why = refusal(patched(save(name), "K\x58K\x63\x86", pickle), false);
    EXPECT_TRUE(why.contains("where its code says")) << why;
  }
  EXPECT_NE(refusal(patched(save("list.pt"), "K\x37K\x42", "K\x37N"), false), "loaded");
}

TEST_F(TypeConfusion, RefusesAnObjectOfAnotherClass) {
  torch::jit::Module small("small");
  small.define("def forward(self, x):\n  return x\n");
  torch::jit::Module large("large");
  for (int i = 0; i < 20; ++i) large.register_attribute("a" + std::to_string(i), c10::IntType::get(), i);
  large.define("def forward(self, x):\n  return x + self.a19\n");
  const auto path = save_module(folder_, "net.pt", "def forward(self, x):\n  return self.large.forward(x)\n",
                                [&](torch::jit::Module& module) {
                                  module.register_module("large", large);
                                  module.register_module("small", small);
                                });
  EXPECT_TRUE(
      refusal(patched(path, "c__torch__\nlarge\n", "c__torch__\nsmall\n"), false).contains("where its code says"))
      << refusal(path, false);
}

TEST_F(TypeConfusion, RefusesACastThatOnlyTheCompilerMayMake) {
  const auto net = [&](const std::string& result, const std::string& body) {
    const auto path = save_module(folder_, "net.pt", "def forward(self, x):\n  return x\n");
    return refusal(with_source(path,
                               "class net(Module):\n  __parameters__ = []\n  __buffers__ = []\n"
                               "  def forward(self: __torch__.net, x: Tensor) -> " +
                                   result + ":\n" + body),
                   false);
  };
  EXPECT_TRUE(
      net("Tensor", "    t = (x, x)\n    a, b, c = unchecked_cast(Tuple[Tensor, Tensor, Tensor], t)\n    return c\n")
          .contains("cast"));
  EXPECT_TRUE(net("Tuple[Tensor, __torch__.net]", "    y = unchecked_cast(__torch__.net, x)\n    return (x, y)\n")
                  .contains("cast"));
}

// Scripted attention has a fast path of its own, which is memory-unsafe for some arguments, and a plain one.
TEST_F(TorchScriptScan, AnOperatorThatIsNotRunHereRaises) {
  const auto path = save_module(folder_, "path.pt",
                                "def forward(self, x):\n  y = x\n  if x.size(0) > 1:\n"
                                "    y = torch.to_padded_tensor(x, 0.0, None)\n  return y * 2\n");
  const auto model = TorchModel::load(path, Origin::kUploaded, rows_of(2));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_TRUE((*model)->warm_up(rows_of(2), 1));
  const auto raised = (*model)->warm_up(rows_of(2), 2);
  ASSERT_FALSE(raised);
  EXPECT_TRUE(raised.error().message.contains("to_padded_tensor")) << raised.error().message;
}

TEST_F(TypeConfusion, TakesCastsThatStandForATest) {
  const auto path =
      save_module(folder_, "cast.pt",
                  "def forward(self, x):\n  h : Optional[Tuple[Tensor, Tensor]] = None\n"
                  "  if x.size(0) > 0:\n    h = (x, x)\n  if h is not None:\n    a, b = h\n    x = a + b\n"
                  "  return x\n");
  EXPECT_EQ(refusal(path, false), "loaded");
}

// Lines of the model's wording in the log of the service.
TEST_F(TorchScriptScan, AWarningOfTheModelIsNotLogged) {
  const auto path =
      save_module(folder_, "warn.pt", "def forward(self, x):\n  torch.warn('forged line', 2)\n  return x * 2\n");
  testing::internal::CaptureStderr();
  const auto model = TorchModel::load(path, Origin::kUploaded, rows_of(2));
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_TRUE((*model)->warm_up(rows_of(2), 1));
  EXPECT_FALSE(testing::internal::GetCapturedStderr().contains("forged"));
}

// What is not written to may still hold what others sent.
TEST_F(TorchScriptScan, TakesFreshMemoryOnlyWhenItIsFilledAtOnce) {
  const auto load = [&](const std::string& body) {
    return refusal(save_module(folder_, random_hex(64) + ".pt", "def forward(self, x):\n" + body), false);
  };
  EXPECT_EQ(load("  keep = torch.empty_like(x, dtype=3).random_().lt(7).to(dtype=6)\n  return x * keep\n"), "loaded");
  EXPECT_TRUE(load("  return torch.empty_like(x)\n").contains("nobody has written"));
  EXPECT_TRUE(load("  y = torch.empty_like(x)\n  z = y.random_()\n  return y\n").contains("nobody has written"));
}

}  // namespace
}  // namespace slipway::inferencer
