// TorchScript files made for one test, in a folder that goes with it.
#pragma once

#include <gtest/gtest.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "lib/base/random_id.h"
#include "schema/records.h"

namespace slipway::inferencer {

class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("slipway-test-" + random_hex(64))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A module with this source for its methods, saved as `name`.
inline std::filesystem::path save_module(const Folder& folder, const std::string& name, const std::string& source,
                                         const std::function<void(torch::jit::Module&)>& fill = {}) {
  torch::jit::Module module("net");
  if (fill) fill(module);
  module.define(source);
  auto path = folder.path() / name;
  module.save(path.string());
  return path;
}

inline std::filesystem::path save_doubler(const Folder& folder) {
  return save_module(folder, "double.pt", "def forward(self, x):\n  return x * 2\n");
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline TensorSpec f32(std::string name, std::vector<std::int64_t> shape) {
  return {.name = std::move(name), .dtype = DType::kF32, .shape = std::move(shape)};
}

inline Signature rows_of(std::int64_t width) {
  return {.inputs = {f32("x", {-1, width})}, .outputs = {f32("y", {-1, width})}, .classes = {}};
}

}  // namespace slipway::inferencer
