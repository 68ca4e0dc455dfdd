#include "lib/keras/optimizer.h"

#include <algorithm>
#include <cctype>

#include "lib/keras/keras_object.h"

namespace slipway::keras {
namespace {

using Kind = Optimizer::Kind;

double read_learning_rate(ObjectReader& in, double fallback) {
  const NumberRange range{.min = 0};
  // "lr" is its name before Keras 2.3.
  const std::string_view key = in.has("learning_rate") || !in.has("lr") ? "learning_rate" : "lr";
  in.ignore({"learning_rate", "lr"});
  const auto cursor = in.child(key);
  if (!cursor) return fallback;
  if (cursor->value().is_object()) {
    cursor->fail(Code::kUnsupported,
                 "learning rate schedules are not supported; give a number, and ReduceLROnPlateau to lower it");
    return fallback;
  }
  return cursor->number(range);
}

void read_clipping(ObjectReader& in, Optimizer& out) {
  const NumberRange range{.min = 0, .open_min = true};
  int given = 0;
  for (const auto& [key, field] :
       {std::pair{"clipnorm", &Optimizer::clipnorm}, std::pair{"global_clipnorm", &Optimizer::global_clipnorm},
        std::pair{"clipvalue", &Optimizer::clipvalue}}) {
    const auto cursor = in.child(key);
    if (!cursor) continue;
    out.*field = cursor->number(range);
    if (++given > 1) {
      cursor->fail(Code::kInvalidArgument, "only one of clipnorm, global_clipnorm and clipvalue can be set");
    }
  }
}

void read_weight_decay(ObjectReader& in, Optimizer& out) {
  const auto cursor = in.child("weight_decay");
  if (cursor && cursor->value().is_bool() && !cursor->value().get_bool()) return;  // how tf-keras writes "none"
  if (cursor) {
    out.weight_decay = cursor->number({.min = 0});
  } else if (out.kind == Kind::kAdamW) {
    out.weight_decay = 0.004;
  }
}

}  // namespace

Optimizer read_optimizer(const Cursor& cursor) {
  Optimizer out;
  const KerasObject object = read_object(cursor, "optimizer", {"build_config", "compile_config"});
  if (cursor.report().failed()) return out;
  std::string name = object.name;  // Keras takes optimizer names in any case
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });

  const NumberRange below_one{.min = 0, .max = 1, .open_max = true};
  ObjectReader in = object.settings();
  if (name == "sgd") {
    out.kind = Kind::kSgd;
    out.learning_rate = read_learning_rate(in, 0.01);
    out.momentum = in.number("momentum", {.min = 0, .max = 1}, 0.0);
    out.nesterov = in.boolean("nesterov", false);
  } else if (name == "adam" || name == "adamw") {
    out.kind = name == "adam" ? Kind::kAdam : Kind::kAdamW;
    out.learning_rate = read_learning_rate(in, 0.001);
    out.beta_1 = in.number("beta_1", below_one, 0.9);
    out.beta_2 = in.number("beta_2", below_one, 0.999);
    out.epsilon = in.number("epsilon", {.min = 0}, 1e-7);
    out.amsgrad = in.boolean("amsgrad", false);
  } else if (name == "rmsprop") {
    out.kind = Kind::kRmsprop;
    out.learning_rate = read_learning_rate(in, 0.001);
    out.rho = in.number("rho", below_one, 0.9);
    out.momentum = in.number("momentum", {.min = 0, .max = 1}, 0.0);
    out.epsilon = in.number("epsilon", {.min = 0}, 1e-7);
    out.centered = in.boolean("centered", false);
  } else {
    object.refuse("optimizer", "SGD, Adam, AdamW, RMSprop");
    return out;
  }
  read_weight_decay(in, out);
  read_clipping(in, out);
  in.only("decay", 0.0, "time-based decay is not supported; use ReduceLROnPlateau");
  in.only("use_ema", false, "averaged weights (use_ema) are not supported");
  in.only("loss_scale_factor", nullptr, "loss scaling is not supported: training is in float32");
  in.only("gradient_accumulation_steps", nullptr, "gradient accumulation is not supported; use a larger batch_size");
  // Without use_ema the other two mean nothing; how the step is compiled is Slipway's affair.
  in.ignore({"name", "ema_momentum", "ema_overwrite_frequency", "jit_compile", "is_legacy_optimizer"});
  in.finish();
  return out;
}

}  // namespace slipway::keras
