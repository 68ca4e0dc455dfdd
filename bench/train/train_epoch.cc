// One epoch of a Fashion-MNIST network by the trainer's own loop. Prints, on one line,
// "seconds S cpu C faults F peak_mib P loss L": wall and processor time, minor page faults of the epoch, peak memory.
#include <sys/resource.h>
#include <torch/torch.h>

#include <charconv>
#include <chrono>
#include <print>
#include <string>
#include <string_view>

#include "lib/dataset/load.h"
#include "lib/dataset/mapped_file.h"
#include "lib/torch_runtime/memory.h"
#include "lib/torch_runtime/torch_runtime.h"
#include "services/trainer/training.h"

namespace {

constexpr const char* kMlp = R"({
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

// examples/fashion-mnist/cnn.json at a batch of 128: its activations are what malloc's thresholds are about.
constexpr const char* kCnn = R"({
  "publish": {"model": "bench"}, "dataset": "fashion-mnist", "seed": 7,
  "model": {"class_name": "Sequential", "config": {"name": "cnn", "layers": [
    {"class_name": "InputLayer", "config": {"name": "image", "batch_shape": [null, 28, 28, 1], "dtype": "float32"}},
    {"class_name": "Rescaling", "config": {"name": "to_unit", "scale": 0.00392156862745098}},
    {"class_name": "Conv2D", "config": {"name": "conv_1", "filters": 32, "kernel_size": [3, 3], "padding": "same",
                                        "activation": "relu"}},
    {"class_name": "MaxPooling2D", "config": {"name": "pool_1", "pool_size": [2, 2]}},
    {"class_name": "Conv2D", "config": {"name": "conv_2", "filters": 64, "kernel_size": [3, 3], "padding": "same",
                                        "activation": "relu"}},
    {"class_name": "MaxPooling2D", "config": {"name": "pool_2", "pool_size": [2, 2]}},
    {"class_name": "Flatten", "config": {"name": "features"}},
    {"class_name": "Dense", "config": {"name": "class", "units": 10, "activation": "softmax"}}]}},
  "compile": {"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}},
              "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
  "fit": {"epochs": 1, "batch_size": 128, "shuffle": true}})";

int give_up(const slipway::Error& error) {
  std::println(stderr, "{} {}", error.path, error.message);
  return 1;
}

// At least 1; the default when there is no such argument.
std::int64_t number(int argc, char** argv, int at, std::int64_t otherwise) {
  if (at >= argc) return otherwise;
  const std::string_view text = argv[at];
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return std::max<std::int64_t>(value, 1);
}

struct Usage {
  double cpu_seconds = 0;
  long faults = 0;
  long peak_mib = 0;
};
Usage usage() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  };
  return {seconds(u.ru_utime) + seconds(u.ru_stime), u.ru_minflt, u.ru_maxrss / 1024};
}

}  // namespace

int main(int argc, char** argv) {
  using namespace slipway;
  const std::string_view network = argc > 2 ? argv[2] : "mlp";
  if (argc < 2 || (network != "mlp" && network != "cnn")) {
    std::println(stderr,
                 "usage: bench-train FOLDER [mlp|cnn [THREADS [ROWS [plain-malloc]]]]\n"
                 "FOLDER holds MNIST's four files, not compressed");
    return 2;
  }
  const auto threads = static_cast<int>(number(argc, argv, 3, 1));
  if (argc <= 5) settle_malloc();
  start_torch(threads);
  const auto spec = keras::parse_job(network == "mlp" ? kMlp : kCnn);
  if (!spec) return give_up(spec.error());
  const std::string folder = argv[1];
  const auto pixels = dataset::MappedFile::open(folder + "/train-images-idx3-ubyte");
  const auto labels = dataset::MappedFile::open(folder + "/train-labels-idx1-ubyte");
  if (!pixels || !labels) return give_up(pixels ? labels.error() : pixels.error());
  const auto images = dataset::read_images((*pixels)->bytes(), (*labels)->bytes());
  if (!images) return give_up(images.error());
  const auto rows = std::min(images->rows, number(argc, argv, 4, images->rows));
  auto shape = spec->architecture.input_shape;
  shape.insert(shape.begin(), rows);
  trainer::TrainingData data;
  data.x = torch::from_blob(const_cast<std::uint8_t*>(images->pixels.data()), shape, torch::kUInt8);
  data.y = torch::from_blob(const_cast<std::uint8_t*>(images->labels.data()), {rows}, torch::kUInt8).to(torch::kInt64);
  auto training = trainer::Training::start(*spec, data, threads, "bench");
  if (!training) return give_up(training.error());

  // With an observer, as in a job.
  trainer::Observer observer;
  observer.keep_going = [] { return true; };
  observer.on_progress = [](const Progress&) {};
  const auto before = usage();
  const auto begun = std::chrono::steady_clock::now();
  const auto ending = (*training)->run(observer);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begun;
  const auto after = usage();
  if (ending.kind != trainer::Ending::Kind::kFinished) return give_up({.message = ending.message, .path = {}});
  std::println("seconds {:.3f} cpu {:.3f} faults {} peak_mib {} loss {:.6f}", took.count(),
               after.cpu_seconds - before.cpu_seconds, after.faults - before.faults, after.peak_mib,
               (*training)->history().back().front().value);
  return 0;
}
