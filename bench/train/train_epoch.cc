// One epoch of the MNIST network on one thread, by the trainer's own loop: prints "seconds S loss L".
#include <torch/torch.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <print>
#include <string>

#include "lib/dataset/load.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/trainer/training.h"

namespace {

constexpr const char* kJob = R"({
  "publish": {"model": "bench"}, "dataset": "fashion-mnist", "seed": 7,
  "model": {"class_name": "Sequential", "config": {"name": "mlp", "layers": [
    {"class_name": "InputLayer", "config": {"name": "pixels", "batch_input_shape": [null, 784], "dtype": "float32"}},
    {"class_name": "Rescaling", "config": {"name": "scale", "scale": 0.00392156862745098, "offset": 0.0}},
    {"class_name": "Dense", "config": {"name": "hidden", "units": 512, "activation": "relu"}},
    {"class_name": "Dropout", "config": {"name": "dropout", "rate": 0.2}},
    {"class_name": "Dense", "config": {"name": "out", "units": 10, "activation": "softmax"}}]}},
  "compile": {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}},
              "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
  "fit": {"epochs": 1, "batch_size": 32, "shuffle": true}})";

std::vector<std::byte> read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

int give_up(const slipway::Error& error) {
  std::println(stderr, "{} {}", error.path, error.message);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace slipway;
  if (argc != 2) {
    std::println(stderr, "usage: bench-train FOLDER (MNIST's four files, not compressed)");
    return 2;
  }
  start_torch(1);
  const auto spec = keras::parse_job(kJob);
  if (!spec) return give_up(spec.error());
  const std::string folder = argv[1];
  const auto pixels = read(folder + "/train-images-idx3-ubyte");
  const auto labels = read(folder + "/train-labels-idx1-ubyte");
  const auto images = dataset::read_images(pixels, labels);
  if (!images) return give_up(images.error());
  trainer::TrainingData data;
  data.x =
      torch::from_blob(const_cast<std::uint8_t*>(images->pixels.data()), {images->rows, 784}, torch::kUInt8).clone();
  data.y = torch::from_blob(const_cast<std::uint8_t*>(images->labels.data()), {images->rows}, torch::kUInt8)
               .to(torch::kInt64);
  auto training = trainer::Training::start(*spec, data, 1, "bench");
  if (!training) return give_up(training.error());

  // With an observer, as in a job.
  trainer::Observer observer;
  observer.keep_going = [] { return true; };
  observer.on_progress = [](const Progress&) {};
  const auto begun = std::chrono::steady_clock::now();
  const auto ending = (*training)->run(observer);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  if (ending.kind != trainer::Ending::Kind::kFinished) return give_up({.message = ending.message, .path = {}});
  std::println("seconds {:.3f} loss {:.6f}", took.count(), (*training)->history().back().front().value);
  return 0;
}
