// A training job as submitted, read from its JSON document: everything checked that can be checked without the data.
// Semantics are Keras'; docs/jobs.md lists what is taken. No torch in here: gateway and trainer share this reading.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "lib/base/error.h"
#include "schema/records.h"

namespace slipway::keras {

enum class Activation : std::uint8_t { kLinear, kRelu, kSoftmax, kSigmoid, kTanh };
enum class Padding : std::uint8_t { kValid, kSame };

struct Initializer {
  enum class Kind : std::uint8_t {
    kZeros,
    kOnes,
    kConstant,
    kRandomNormal,
    kRandomUniform,
    kTruncatedNormal,
    kVarianceScaling
  };
  Kind kind = Kind::kZeros;
  double value = 0;                // kConstant
  double mean = 0, stddev = 0.05;  // kRandomNormal, kTruncatedNormal
  double min = -0.05, max = 0.05;  // kRandomUniform
  // kVarianceScaling; Glorot, He and Lecun are written in these terms.
  double scale = 1;
  enum class Fan : std::uint8_t { kIn, kOut, kAverage } fan = Fan::kAverage;
  enum class Distribution : std::uint8_t {
    kTruncatedNormal,
    kUntruncatedNormal,
    kUniform
  } distribution = Distribution::kUniform;
  std::optional<std::uint64_t> seed = {};
};

// L1 and L2 penalties on a weight, as Keras adds them to the loss: l1 * sum|w| + l2 * sum w^2.
struct Regularizer {
  double l1 = 0;
  double l2 = 0;
};

// The layers. Shapes are without the batch, channels last, as in Keras.
struct Flatten {};
struct Dense {
  std::int64_t units = 0;
  Activation activation = Activation::kLinear;
  bool use_bias = true;
  Initializer kernel, bias;
  Regularizer kernel_regularizer, bias_regularizer;
};
struct Dropout {
  double rate = 0;
};
struct Conv2D {
  std::int64_t filters = 0;
  std::int64_t kernel_size[2] = {1, 1}, strides[2] = {1, 1}, dilation[2] = {1, 1};
  Padding padding = Padding::kValid;
  std::int64_t groups = 1;
  Activation activation = Activation::kLinear;
  bool use_bias = true;
  Initializer kernel, bias;
  Regularizer kernel_regularizer, bias_regularizer;
};
struct Pooling2D {
  bool average = false;  // else max
  std::int64_t pool_size[2] = {2, 2}, strides[2] = {2, 2};
  Padding padding = Padding::kValid;
};
struct GlobalAveragePooling2D {
  bool keepdims = false;
};
struct BatchNormalization {
  double momentum = 0.99, epsilon = 0.001;
  bool center = true, scale = true;
  // Keras 2 feeds the unbiased batch variance of 4-D inputs into the moving variance, Keras 3 the biased one.
  bool unbiased_moving_variance = false;
  Initializer beta, gamma, moving_mean, moving_variance;
};
struct ActivationLayer {
  Activation activation = Activation::kLinear;
};
struct Rescaling {
  std::vector<double> scale, offset;  // one number, or one for each channel
};
// Over the last axis. Without numbers the trainer computes them from the training split.
struct Normalization {
  std::vector<double> mean, variance;
  bool invert = false;
};
struct Reshape {
  std::vector<std::int64_t> target_shape;  // no -1 any more: resolved
};

struct Layer {
  std::string name;
  std::string path;  // JSON path of this layer in the document
  bool trainable = true;
  std::variant<Flatten, Dense, Dropout, Conv2D, Pooling2D, GlobalAveragePooling2D, BatchNormalization, ActivationLayer,
               Rescaling, Normalization, Reshape>
      kind;
  std::vector<std::int64_t> input_shape, output_shape;  // without the batch, channels last
};

struct Architecture {
  std::string name;
  int generation = 3;                     // of Keras: 2 or 3
  std::vector<std::int64_t> input_shape;  // without the batch
  std::string input_name;
  DType input_dtype = DType::kF32;  // of what is served, kF32 or kU8; the layers see float32
  std::vector<Layer> layers;        // no InputLayer
  [[nodiscard]] const std::vector<std::int64_t>& output_shape() const {
    return layers.empty() ? input_shape : layers.back().output_shape;
  }
};

struct Optimizer {
  enum class Kind : std::uint8_t { kSgd, kAdam, kAdamW, kRmsprop };
  Kind kind = Kind::kAdam;
  double learning_rate = 0.001;
  double momentum = 0;    // SGD, RMSprop
  bool nesterov = false;  // SGD
  double beta_1 = 0.9, beta_2 = 0.999, epsilon = 1e-7;
  bool amsgrad = false;
  double rho = 0.9;                                         // RMSprop
  bool centered = false;                                    // RMSprop
  double weight_decay = 0;                                  // decoupled, lr * wd * w before the step; 0: none
  double clipnorm = 0, global_clipnorm = 0, clipvalue = 0;  // 0: none
};

struct Loss {
  enum class Kind : std::uint8_t {
    kMeanSquaredError,
    kMeanAbsoluteError,
    kSparseCategoricalCrossentropy,
    kCategoricalCrossentropy,
    kBinaryCrossentropy
  };
  Kind kind = Kind::kMeanSquaredError;
  bool from_logits = false;
  double label_smoothing = 0;
};

enum class MetricKind : std::uint8_t {
  kSparseCategoricalAccuracy,
  kCategoricalAccuracy,
  kBinaryAccuracy,
  kMeanSquaredError,
  kMeanAbsoluteError,
  kRootMeanSquaredError
};
struct MetricSpec {
  std::string name;  // as logged: "accuracy", "mae", ...
  MetricKind kind = MetricKind::kMeanSquaredError;
};

struct Fit {
  std::int64_t epochs = 1;
  std::int64_t batch_size = 32;
  double validation_split = 0;  // the last fraction, before any shuffling
  bool shuffle = true;
};

struct ReduceLROnPlateau {
  std::string monitor = "val_loss";
  double factor = 0.1;
  std::int64_t patience = 10;
  bool maximize = false;  // mode, resolved
  double min_delta = 1e-4;
  std::int64_t cooldown = 0;
  double min_lr = 0;
};
struct EarlyStopping {
  std::string monitor = "val_loss";
  double min_delta = 0;
  std::int64_t patience = 0;
  bool maximize = false;
  std::optional<double> baseline = {};
  bool restore_best_weights = false;
  std::int64_t start_from_epoch = 0;
};
struct TerminateOnNaN {};
using Callback = std::variant<ReduceLROnPlateau, EarlyStopping, TerminateOnNaN>;

// Which data: for a table, which columns.
struct DataSpec {
  std::string dataset;
  std::uint64_t version = 0;          // 0: the newest at submission
  std::string target;                 // tables only
  std::vector<std::string> features;  // tables only; empty: every other column, in file order
};

struct JobSpec {
  std::string publish_model;
  DataSpec data;
  std::uint64_t seed = 0;
  bool seed_given = false;
  Architecture architecture;
  Optimizer optimizer;
  Loss loss;
  std::vector<MetricSpec> metrics;
  Fit fit;
  std::vector<Callback> callbacks;
  double checkpoint_seconds = 0;           // at least 0.1; 0: the trainer's own
  std::string compile_path = "$.compile";  // JSON path of what was taken: that, or the model's compile_config
};

// Reads and checks a job document (docs/jobs.md). Errors, each with the JSON path: kInvalidArgument (not JSON, a
// missing, unknown or impossible value, a layer after a shape it cannot take, a loss that does not fit the output),
// kUnsupported (well-formed Keras that Slipway does not train: Lambda, custom objects, other layers).
[[nodiscard]] Result<JobSpec> parse_job(std::string_view document);

// Whether `spec` can be trained on `dataset`: row shape, target and feature columns, class count against the outputs.
// Errors, each with the JSON path: kInvalidArgument.
[[nodiscard]] Result<void> check_against(const JobSpec& spec, const Dataset& dataset);

// How many of `rows` are trained on: floor(rows * (1 - validation_split)), the first ones; the rest validates.
[[nodiscard]] std::uint64_t training_rows(std::uint64_t rows, double validation_split);

// Whether the loss is a cross-entropy, so that the model tells classes apart.
[[nodiscard]] bool is_classification(const Loss& loss);

// The activation that makes the output: of the last layer, seen through layers that only change the shape.
[[nodiscard]] Activation final_activation(const Architecture& architecture);

}  // namespace slipway::keras
