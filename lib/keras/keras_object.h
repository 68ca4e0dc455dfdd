// How Keras writes an object down: {"class_name": ..., "config": ...} with or without module, or only the name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lib/keras/json_cursor.h"

namespace slipway::keras {

struct KerasObject {
  std::string name;           // of the class or function, as written
  std::string path;           // of the whole object
  std::string name_path;      // of the name in it
  bool is_name_only = false;  // a string, or a serialised function: all settings are the defaults
  std::optional<Cursor> config;
  Report* report = nullptr;

  // The settings; without any, all keys are absent.
  [[nodiscard]] ObjectReader settings() const;
  // Reports kUnsupported: `name` is no `what` that Slipway takes; `known` are.
  void refuse(std::string_view what, std::string_view known) const;
};

// Reads the envelope of Keras 2 and 3. `extra`: envelope keys that change nothing, such as "build_config".
// Reports kInvalidArgument (no such form), kUnsupported (Lambda, a registered or foreign class).
[[nodiscard]] KerasObject read_object(const Cursor& cursor, std::string_view what,
                                      std::initializer_list<std::string_view> extra = {});

}  // namespace slipway::keras
