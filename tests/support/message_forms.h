// Messages as no honest service sends them: of every kind that the schema knows, empty, whole, with each field absent
// in turn, and with numbers and enumerators beyond all bounds.
#pragma once

#include <boost/pfr.hpp>
#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "schema/messages.h"

namespace slipway {

// Goes over every field below a value, in one order: a struct comes before what is in it, a list before its items.
class FieldWalk {
 public:
  static constexpr auto kNone = std::numeric_limits<std::size_t>::max();

  // Stops short of the `skipped`th field: what is in it is not visited either.
  explicit FieldWalk(std::size_t skipped = kNone) : skipped_(skipped) {}
  [[nodiscard]] std::size_t fields() const { return at_; }

  // `leaf` gets each field that is no struct, and each list before its items; `at_skipped` gets the skipped one.
  template <class T, class Leaf, class Skipped>
  void go(T& value, const Leaf& leaf, const Skipped& at_skipped) {
    if (at_++ == skipped_) return at_skipped(value);
    if constexpr (is_vector<T>) {
      leaf(value);
      for (auto& item : value) go(item, leaf, at_skipped);
    } else if constexpr (is_leaf<T>) {
      leaf(value);
    } else {
      below(value, leaf, at_skipped);
    }
  }
  template <class T, class Leaf, class Skipped>
  void below(T& whole, const Leaf& leaf, const Skipped& at_skipped) {
    boost::pfr::for_each_field(whole, [&](auto& field) { go(field, leaf, at_skipped); });
  }

  template <class T>
  static constexpr bool is_vector = false;
  template <class T>
  static constexpr bool is_vector<std::vector<T>> = true;
  template <class T>
  static constexpr bool is_id = false;
  template <class Tag>
  static constexpr bool is_id<Id<Tag>> = true;
  template <class T>
  static constexpr bool is_leaf = std::is_same_v<T, std::string> || is_id<T> || std::is_same_v<T, Digest> ||
                                  std::is_enum_v<T> || std::is_arithmetic_v<T>;

 private:
  const std::size_t skipped_;
  std::size_t at_ = 0;
};

// `whole` with each field as it is when nobody has set it, in turn.
template <class T>
std::vector<T> each_field_absent(const T& whole) {
  const auto nothing = [](auto&) {};
  FieldWalk counter;
  T lacking = whole;
  counter.below(lacking, nothing, nothing);
  std::vector<T> all;
  for (std::size_t skipped = 0; skipped < counter.fields(); ++skipped) {
    lacking = whole;
    FieldWalk(skipped).below(lacking, nothing, []<class Field>(Field& field) { field = Field{}; });
    all.push_back(lacking);
  }
  return all;
}

// kPlausible names what a test may have made: the model, the data set and the alias "stripes", the first version and
// job.
enum class FormStyle : std::uint8_t { kPlausible, kExtreme };

template <class T>
void fill(T& whole, FormStyle style) {
  const bool extreme = style == FormStyle::kExtreme;
  FieldWalk().below(
      whole,
      [extreme]<class Field>(Field& field) {
        if constexpr (std::is_same_v<Field, std::string>) {
          field = extreme ? std::string(300, '\xff') : "stripes";
        } else if constexpr (FieldWalk::is_vector<Field>) {
          field.resize(extreme ? 3 : 1);
        } else if constexpr (FieldWalk::is_id<Field>) {
          field = Field(extreme ? std::string("../../\n\0x", 9) : "job-1");
        } else if constexpr (std::is_same_v<Field, Digest>) {
          field.bytes.fill(extreme ? 0xff : 1);
        } else if constexpr (std::is_same_v<Field, bool>) {
          field = true;
        } else if constexpr (std::is_enum_v<Field>) {
          field = static_cast<Field>(extreme ? 999 : 1);
        } else {
          using Limits = std::numeric_limits<Field>;
          field = extreme ? (std::is_signed_v<Field> ? Limits::lowest() : Limits::max()) : Field{1};
        }
      },
      [](auto&) {});
}

template <class Kind>
void add_forms_of(std::vector<msg::Body>& forms) {
  forms.emplace_back(Kind{});
  if constexpr (boost::pfr::tuple_size_v<Kind> > 0) {
    for (const FormStyle style : {FormStyle::kPlausible, FormStyle::kExtreme}) {
      Kind whole{};
      fill(whole, style);
      forms.emplace_back(whole);
      for (auto& lacking : each_field_absent(whole)) forms.emplace_back(std::move(lacking));
    }
  }
}

inline std::vector<msg::Body> every_form() {
  std::vector<msg::Body> forms;
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    (add_forms_of<std::variant_alternative_t<I, msg::Body>>(forms), ...);
  }(std::make_index_sequence<std::variant_size_v<msg::Body>>{});
  return forms;
}

}  // namespace slipway
