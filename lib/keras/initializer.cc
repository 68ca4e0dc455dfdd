#include "lib/keras/initializer.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "lib/keras/keras_object.h"

namespace slipway::keras {
namespace {

using Kind = Initializer::Kind;
using Fan = Initializer::Fan;
using Distribution = Initializer::Distribution;

constexpr std::string_view kKnownInitializers =
    "Zeros, Ones, Constant, RandomNormal, RandomUniform, TruncatedNormal, VarianceScaling, GlorotUniform, "
    "GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal";

struct Scaling {
  std::string_view name, snake;
  double scale;
  Fan fan;
  Distribution distribution;
};
// Keras' named initialisers in terms of VarianceScaling.
constexpr std::array<Scaling, 6> kScalings{{
    {"GlorotUniform", "glorot_uniform", 1, Fan::kAverage, Distribution::kUniform},
    {"GlorotNormal", "glorot_normal", 1, Fan::kAverage, Distribution::kTruncatedNormal},
    {"HeUniform", "he_uniform", 2, Fan::kIn, Distribution::kUniform},
    {"HeNormal", "he_normal", 2, Fan::kIn, Distribution::kTruncatedNormal},
    {"LecunUniform", "lecun_uniform", 1, Fan::kIn, Distribution::kUniform},
    {"LecunNormal", "lecun_normal", 1, Fan::kIn, Distribution::kTruncatedNormal},
}};

Initializer of_kind(Kind kind) {
  Initializer out;
  out.kind = kind;
  return out;
}

Initializer scaling(const Scaling& named) {
  Initializer out = of_kind(Kind::kVarianceScaling);
  out.scale = named.scale;
  out.fan = named.fan;
  out.distribution = named.distribution;
  return out;
}

void read_seed(ObjectReader& reader, Initializer& out) {
  const auto seed = reader.child("seed");
  if (!seed) return;
  if (seed->value().is_object()) {
    seed->fail(Code::kUnsupported, "a SeedGenerator is Python state; give an integer or leave it out");
    return;
  }
  // Python takes negative seeds too; what counts is that equal seeds stay equal.
  out.seed =
      seed->value().is_int64() ? static_cast<std::uint64_t>(seed->value().get_int64()) : seed->unsigned_integer();
}

Initializer read_variance_scaling(ObjectReader& reader) {
  Initializer out = of_kind(Kind::kVarianceScaling);
  out.scale = reader.number("scale", {.min = 0, .open_min = true}, 1.0);
  const std::string mode = reader.text("mode", "fan_in");
  if (mode == "fan_in") {
    out.fan = Fan::kIn;
  } else if (mode == "fan_out") {
    out.fan = Fan::kOut;
  } else if (mode == "fan_avg") {
    out.fan = Fan::kAverage;
  } else {
    reader.report().add(reader.path_of("mode"), Code::kInvalidArgument, "wanted 'fan_in', 'fan_out' or 'fan_avg'");
  }
  const std::string distribution = reader.text("distribution", "truncated_normal");
  if (distribution == "truncated_normal" || distribution == "normal") {  // 'normal': its name in early Keras 2
    out.distribution = Distribution::kTruncatedNormal;
  } else if (distribution == "untruncated_normal") {
    out.distribution = Distribution::kUntruncatedNormal;
  } else if (distribution == "uniform") {
    out.distribution = Distribution::kUniform;
  } else {
    reader.report().add(reader.path_of("distribution"), Code::kInvalidArgument,
                        "wanted 'truncated_normal', 'untruncated_normal' or 'uniform'");
  }
  return out;
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

}  // namespace

Initializer zeros() { return of_kind(Kind::kZeros); }
Initializer ones() { return of_kind(Kind::kOnes); }
Initializer glorot_uniform() { return scaling(kScalings[0]); }

Initializer read_initializer(const std::optional<Cursor>& cursor, const Initializer& fallback) {
  if (!cursor) return fallback;
  const KerasObject object = read_object(*cursor, "initializer");
  if (cursor->report().failed()) return fallback;
  ObjectReader reader = object.settings();
  reader.ignore({"dtype", "input_axes", "output_axes"});
  Initializer out;
  const auto* named = std::ranges::find_if(
      kScalings, [&](const Scaling& s) { return s.name == object.name || s.snake == object.name; });
  if (named != kScalings.end()) {
    out = scaling(*named);
    read_seed(reader, out);
  } else if (is_one_of(object.name, {"Zeros", "zeros", "zero"})) {
    out = zeros();
  } else if (is_one_of(object.name, {"Ones", "ones", "one"})) {
    out = ones();
  } else if (is_one_of(object.name, {"Constant", "constant"})) {
    out.kind = Kind::kConstant;
    out.value = reader.number("value", {}, 0.0);
  } else if (is_one_of(object.name, {"RandomNormal", "random_normal", "normal"})) {
    out.kind = Kind::kRandomNormal;
    out.mean = reader.number("mean", {}, 0.0);
    out.stddev = reader.number("stddev", {.min = 0}, 0.05);
    read_seed(reader, out);
  } else if (is_one_of(object.name, {"TruncatedNormal", "truncated_normal"})) {
    out.kind = Kind::kTruncatedNormal;
    out.mean = reader.number("mean", {}, 0.0);
    out.stddev = reader.number("stddev", {.min = 0}, 0.05);
    read_seed(reader, out);
  } else if (is_one_of(object.name, {"RandomUniform", "random_uniform", "uniform"})) {
    out.kind = Kind::kRandomUniform;
    out.min = reader.number("minval", {}, -0.05);
    out.max = reader.number("maxval", {.min = out.min}, std::max(0.05, out.min));
    read_seed(reader, out);
  } else if (is_one_of(object.name, {"VarianceScaling", "variance_scaling"})) {
    out = read_variance_scaling(reader);
    read_seed(reader, out);
  } else {
    object.refuse("initializer", kKnownInitializers);
    return fallback;
  }
  reader.finish();
  return out;
}

Regularizer read_regularizer(const std::optional<Cursor>& cursor) {
  Regularizer out;
  if (!cursor) return out;
  const KerasObject object = read_object(*cursor, "regularizer");
  if (cursor->report().failed()) return out;
  ObjectReader reader = object.settings();
  if (is_one_of(object.name, {"L1", "l1"})) {
    out.l1 = reader.number("l1", {.min = 0}, 0.01);
  } else if (is_one_of(object.name, {"L2", "l2"})) {
    out.l2 = reader.number("l2", {.min = 0}, 0.01);
  } else if (is_one_of(object.name, {"L1L2", "l1l2", "l1_l2"})) {
    // Keras 2's function l1_l2() has other defaults than the class.
    const double fallback = object.name == "l1_l2" ? 0.01 : 0.0;
    out.l1 = reader.number("l1", {.min = 0}, fallback);
    out.l2 = reader.number("l2", {.min = 0}, fallback);
  } else {
    object.refuse("regularizer", "L1, L2, L1L2");
    return out;
  }
  reader.finish();
  return out;
}

}  // namespace slipway::keras
